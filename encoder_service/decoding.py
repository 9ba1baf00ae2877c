"""Decode image files to upright 8-bit sRGB, as image viewers display them. No other module decodes image files."""

import importlib
import io
from contextlib import suppress
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms, Jpeg2KImagePlugin

from encoder_service.errors import ImageError, ImageTooLargeError
from encoder_service.limits import LIMITS, Limits

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of every PNG file."""

# Formats that are never decoded. Pillow runs Ghostscript on EPS, which is unsafe with untrusted input, and IPTC files
# may embed EPS.
_REFUSED_FORMATS = {"EPS", "IPTC"}
# Images with more pixels are decoded at half their width and height. Encoders and thumbnails need far fewer pixels, and
# each full-size copy of an image of 64 million pixels takes 256 MB.
_LARGE_PIXELS = 16_000_000
# Number of pixels that one pixel of a WebP counts as. Pillow decodes WebP as an animation of full-size RGBA frames, in
# up to 16 bytes per pixel. Other formats take up to 12 bytes, so 64 million weighted pixels take up to 770 MB.
_WEBP_WEIGHT = Fraction(4, 3)
# Number of rows of a large image that are converted at a time, so that there is never a second copy of the whole
# image. The number is even, because the height of each band of rows is halved.
_BAND_ROWS = 256
# Maximum share of rows that may be missing at the end of a JPEG. Viewers show the missing part in grey.
_MAX_MISSING_SHARE = 0.05
# Common values of white in images with more than 8 bits per channel.
_INTEGER_SCALES = (255, 1023, 4095, 16383, 65535)
_FLOAT_SCALES = (1, 255, 65535)
# The EXIF tag for an image's orientation, and the operation that makes each orientation upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_JPEG_END = b"\xff\xd9"
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

with suppress(ImportError):  # `pillow_heif` comes with the extra `heif`
    importlib.import_module("pillow_heif").register_heif_opener()


def decode(data: bytes, limits: Limits = LIMITS, header: Image.Image | None = None) -> Image.Image:
    """Decode an image file as a viewer shows it: upright, first frame, 8 bits per channel, sRGB.

    Args:
        data: A file of any format that Pillow reads, except EPS and IPTC. HEIC needs the extra `heif`. A JPEG may lack
            up to 5 % of its pixels at the end.
        limits: Limits to apply; by default, 10 MiB and 64 million pixels. A WebP may have three quarters of the pixels.
        header: The same file, opened by `open_file`, if the caller has opened it already.

    Returns:
        An image of mode L, RGB or, if it has transparency, RGBA. An image of more than 16 million pixels is returned at
        half its width and height.

    Raises:
        ImageTooLargeError: The file exceeds a limit. Its pixels have not been decoded.
        ImageError: The file is empty, truncated or not an image.
    """
    if not data:
        raise ImageError("image: expected the bytes of an image file, got none")
    if len(data) > limits.max_image_bytes:
        raise ImageTooLargeError(f"image: expected at most {limits.max_image_bytes:,} bytes, got {len(data):,}")
    try:
        try:
            image = _load(data, limits, header)
        except ValueError:  # a PNG may have such texts behind its pixels too
            if not data.startswith(PNG_SIGNATURE):
                raise
            image = _load(_without_texts(data), limits)
        except OSError as error:
            if not (data.startswith(b"\xff\xd8") and "truncated" in str(error)):
                raise
            image = _completed(data, error, limits)
        return _upright(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLargeError(f"image: expected at most {limits.max_image_pixels:,} pixels, got far more") from None
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise many types
        raise ImageError(
            f"image: expected a whole image file, such as PNG or JPEG, got {len(data):,} bytes that can't be "
            f"decoded ({_reason(data, error)})"
        ) from error


def open_file(data: bytes) -> Image.Image:
    """Open an image file without decoding its pixels.

    Raises:
        Exception: The file is not an image. Pillow raises many types.
    """
    try:
        return Image.open(io.BytesIO(data))
    except ValueError:  # Pillow rejects PNGs with very long texts or colour profiles: open them without these
        if not data.startswith(PNG_SIGNATURE):
            raise
        return Image.open(io.BytesIO(_without_texts(data)))


def check_pixel_count(width: int, height: int, limits: Limits = LIMITS) -> None:
    """Reject an image with too many pixels.

    Raises:
        ImageTooLargeError: The image has more than 64 million pixels.
    """
    if width * height > limits.max_image_pixels:
        raise ImageTooLargeError(
            f"image: expected at most {limits.max_image_pixels:,} pixels, "
            f"got {width:,} × {height:,} = {width * height:,}"
        )


def weighted_pixels(image: Image.Image) -> int:
    """Return the number of pixels for which an image counts while it is decoded; for WebP, 4/3 of its pixels."""
    pixels = image.width * image.height
    return int(pixels * _WEBP_WEIGHT) if image.format == "WEBP" else pixels


def _load(data: bytes, limits: Limits, header: Image.Image | None = None) -> Image.Image:
    """Decode the pixels of an image file. Large JPEG and JPEG 2000 files are decoded at half their width and height."""
    image = header or open_file(data)
    check_pixel_count(*image.size, limits)
    if weighted_pixels(image) > limits.max_image_pixels:
        raise ImageTooLargeError(
            f"image: expected at most {int(limits.max_image_pixels / _WEBP_WEIGHT):,} pixels in a WebP file, got "
            f"{image.width:,} × {image.height:,} = {image.width * image.height:,}: save it as JPEG or PNG"
        )
    if image.format in _REFUSED_FORMATS:
        raise ImageError(f"image: expected a format of pixels, such as PNG or JPEG, got {image.format}")
    if _is_large(image):  # two formats can be decoded at half size: JPEG with `draft`, JPEG 2000 with `reduce`
        image.draft(None, (image.width // 2, image.height // 2))
        if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile):
            image.reduce = 1
    image.load()
    return image


def _is_large(image: Image.Image) -> bool:
    return image.width * image.height > _LARGE_PIXELS


def _without_texts(png: bytes) -> bytes:
    """Return a PNG file without its text and colour-profile chunks."""
    parts, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while position < len(png):
        end = position + 12 + int.from_bytes(png[position : position + 4])  # length, type and checksum are 12 bytes
        if png[position + 4 : position + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            parts.append(png[position:end])
        position = end
    return b"".join(parts)


def _completed(jpeg: bytes, error: OSError, limits: Limits) -> Image.Image:
    """Decode a JPEG whose end is missing, if it lacks at most 5 % of its rows. Otherwise, raise `error`.

    A decoder fills in missing pixels without reporting them. To find them, decode the file with two different endings:
    only filled-in pixels differ.
    """
    image = _load(jpeg + _JPEG_END, limits)
    other = _load(jpeg + bytes(range(1, 255)) * 64 + _JPEG_END, limits)
    bounds = ImageChops.difference(image, other).getbbox()
    if bounds and image.height - bounds[1] > _MAX_MISSING_SHARE * image.height:
        raise error
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        operation = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # malformed EXIF, which viewers ignore too
        operation = None
    converted = _converted(image)
    return converted if operation is None else converted.transpose(operation)


def _converted(image: Image.Image) -> Image.Image:
    """Convert an image to 8 bits and sRGB. Halve its width and height if it has more than 16 million pixels."""
    scale = _Scale.of(image) if image.mode.startswith("I") or image.mode == "F" else None
    if not _is_large(image):
        return _eight_bit(image, scale)
    halved: Image.Image | None = None
    for top in range(0, image.height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, image.height)
        band = _eight_bit(image.crop((0, top, image.width, bottom)), scale).reduce(2)
        halved = halved or Image.new(band.mode, ((image.width + 1) // 2, (image.height + 1) // 2))
        halved.paste(band, (0, top // 2))
    assert halved
    return halved


def _eight_bit(image: Image.Image, scale: "_Scale | None") -> Image.Image:
    if scale:
        return scale.applied(np.asarray(image))
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return image.convert("L") if image.mode == "1" else image
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
    elif image.mode not in ("RGB", "CMYK"):
        image = image.convert("RGB")
    image = _srgb(image)
    return image.convert("RGB") if image.mode == "CMYK" else image


def _srgb(image: Image.Image) -> Image.Image:
    """Convert an RGB, RGBA or CMYK image from its colour profile to sRGB. Without a usable profile, return it as is."""
    content = image.info.get("icc_profile")
    if not content:
        return image
    with suppress(ImageCms.PyCMSError, OSError):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        if "sRGB" not in (profile.profile.profile_description or ""):
            mode = "RGB" if image.mode == "CMYK" else image.mode
            return ImageCms.profileToProfile(image, profile, _SRGB, outputMode=mode) or image
    return image


class _Scale(NamedTuple):
    """The range of values, from black to white, of an image with more than 8 bits per channel."""

    black: float
    white: float

    @classmethod
    def of(cls, image: Image.Image) -> "_Scale":
        """Choose the scale of an image of integers or floats.

        The result is the narrowest common scale that contains the values. Common scales are 8, 10, 12, 14 and 16 bits
        for integers, and 0 to 1, -1 to 1, 0 to 255 and 0 to 65,535 for floats. Integers that fit no common scale get a
        scale that ends at their own largest value. So do floats that fit no scale or fill less than an eighth of it.
        The choice ignores NaN, infinity, and the darkest and the brightest thousandth of the pixels (at least one
        pixel each).
        """
        sample = np.asarray(image.resize([min(side, 1024) for side in image.size], Image.Resampling.NEAREST))
        values = sample[np.isfinite(sample)].astype(np.float64)
        if not values.size:
            return cls(0, 1)
        stray = max(1, values.size // 1000) if values.size > 2 else 0
        values.partition((stray, values.size - 1 - stray))
        low, high = float(values[stray]), float(values[-1 - stray]) or float(values.max())
        if sample.dtype.kind != "f":
            if low < 0:
                return cls(low, high)
            return cls(0, next((full for full in _INTEGER_SCALES if high <= full), high))
        if low < -0.1 * high:
            return cls(-1, 1) if low >= -1.1 and high <= 1.1 else cls(low, high)
        return cls(0, next((full for full in _FLOAT_SCALES if full / 8 <= high <= full * 1.1), high))

    def applied(self, values: NDArray[np.generic]) -> Image.Image:
        """Map the values to 0 to 255, and return them as an image of mode L."""
        wide = values.astype(np.float32) - np.float32(self.black)
        wide *= np.float32(255 / ((self.white - self.black) or 1))
        return Image.fromarray(np.nan_to_num(wide.round(), copy=False).clip(0, 255).astype(np.uint8))


def _reason(data: bytes, error: Exception) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS and "HEIF" not in Image.OPEN:
        return "HEIC needs the extra `heif`: pip install '.[heif]' in a clone of Lookalike"
    message = str(error)
    return message.splitlines()[0] if message and "BytesIO" not in message else "no known format"
