"""The only image decoder and the only normaliser, shared by training and serving."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from encoder_service.errors import ImageError, ImageTooLargeError
from encoder_service.limits import LIMITS, Limits

THUMBNAIL_SIZE = 64
"""Longest side of a thumbnail, in pixels."""

# Pillow runs Ghostscript on EPS, which must never happen with untrusted input. IPTC files may embed EPS.
_REFUSED_FORMATS = {"EPS", "IPTC"}


def silence_pillow() -> None:
    """Ignore Pillow's warnings about malformed files in this process, so that user input can't flood stderr or a log.

    Filters are global to a process and not safe to change while threads run, so commands call this once as they begin.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read(path: Path) -> bytes:
    """Read an image file, without decoding it.

    Raises:
        ImageTooLargeError: The file has more than 10 MiB; the rest of it has not been read.
        ImageError: The file can't be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LIMITS.max_image_bytes + 1)
    except OSError as error:
        raise ImageError(f"can't be read: {error.strerror}", place=str(path)) from error
    if len(data) > LIMITS.max_image_bytes:
        raise ImageTooLargeError(f"expected at most {LIMITS.max_image_bytes:,} bytes, got more", place=str(path))
    return data


def decode(data: bytes, limits: Limits = LIMITS) -> Image.Image:
    """Decode an image file as a viewer shows it: upright, first frame, 8 bits per channel.

    Args:
        data: A file of any format that Pillow reads, except EPS and IPTC; at most 10 MiB and 64 million pixels.
        limits: Other limits than those.

    Returns:
        An image of mode L, RGB or, where it has transparency, RGBA.

    Raises:
        ImageTooLargeError: The file exceeds a limit; its pixels have not been decoded.
        ImageError: The file is empty, truncated or not an image.
    """
    if not data:
        raise ImageError("image: expected the bytes of an image file, got none")
    if len(data) > limits.max_image_bytes:
        raise ImageTooLargeError(f"image: expected at most {limits.max_image_bytes:,} bytes, got {len(data):,}")
    try:
        image = Image.open(io.BytesIO(data))
        check_pixel_count(*image.size, limits)
        if image.format in _REFUSED_FORMATS:
            raise ImageError(f"image: expected a format of pixels, such as PNG or JPEG, got {image.format}")
        image.load()
        return _eight_bit(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise ImageTooLargeError(f"image: expected at most {limits.max_image_pixels:,} pixels, got far more") from None
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise many types
        reason = str(error).splitlines()[0] if str(error) and "BytesIO" not in str(error) else "no known format"
        raise ImageError(
            f"image: expected a whole image file, such as PNG or JPEG, got {len(data):,} bytes that can't be "
            f"decoded ({reason})"
        ) from error


def from_pixels(pixels: NDArray[np.uint8]) -> Image.Image:
    """Make an image from an array of pixels.

    Args:
        pixels: (height, width), or (height, width, channels) with 1, 3 or 4 channels; uint8.

    Raises:
        ImageTooLargeError: The array has more than 64 million pixels.
        ImageError: The array has another shape, or is empty.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))) or not pixels.size:
        raise ImageError(f"image: expected pixels of shape (h, w), (h, w, 3) or (h, w, 4), got {pixels.shape}")
    check_pixel_count(pixels.shape[1], pixels.shape[0])
    return Image.fromarray(np.ascontiguousarray(pixels))


def check_pixel_count(width: int, height: int, limits: Limits = LIMITS) -> None:
    """Reject an image whose size alone, in pixels, exceeds the limit.

    Raises:
        ImageTooLargeError: The image has more than 64 million pixels.
    """
    if width * height > limits.max_image_pixels:
        raise ImageTooLargeError(
            f"image: expected at most {limits.max_image_pixels:,} pixels, "
            f"got {width:,} × {height:,} = {width * height:,}"
        )


def sha256(content: bytes | Image.Image | NDArray[np.uint8]) -> str:
    """Return the content hash by which an unchanged image is recognised, 64 hex digits.

    Args:
        content: An image file's bytes, or pixels. Pixels are hashed row by row without their shape.
    """
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()


def normalise(
    images: Sequence[Image.Image], input_shape: tuple[int, int, int], background: int = 0
) -> NDArray[np.float32]:
    """Turn images into an encoder's inputs.

    Each image is composited over the background where it is transparent, converted to grey or RGB, cropped around its
    centre to the input's proportions and scaled to its size. An image of the right size and mode stays unchanged.

    Args:
        images: n images of mode L, RGB or RGBA, as `decode` returns them.
        input_shape: (height, width, channels); channels 1 or 3.
        background: Grey level under transparent parts, 0 (black) to 255 (white).

    Returns:
        (n, height, width, channels) float32 in [0, 1].
    """
    height, width, channels = input_shape
    pixels = np.empty((len(images), height, width, channels), np.uint8)
    for row, image in zip(pixels, images, strict=True):
        row[:] = np.asarray(_fitted(image, width, height, channels, background)).reshape(row.shape)
    return pixels.astype(np.float32) / np.float32(255)


def from_input(values: NDArray[np.float32]) -> Image.Image:
    """Make an image from an input or a reconstruction, (height, width, channels) in [0, 1]. NaN becomes black."""
    return from_pixels((np.nan_to_num(values) * 255).round().clip(0, 255).astype(np.uint8))


def thumbnail_png(image: Image.Image) -> bytes:
    """Return the image as a PNG file, scaled down to at most 64 pixels a side."""
    if max(image.size) > THUMBNAIL_SIZE:
        image = image.copy()
        image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return png(image)


def png(image: Image.Image) -> bytes:
    """Return the image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _fitted(image: Image.Image, width: int, height: int, channels: int, background: int) -> Image.Image:
    if image.mode == "RGBA":
        canvas = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(canvas, image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(np.asarray(image))
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _from_wide(values: NDArray[np.generic]) -> Image.Image:
    """Scale 16-bit grey by 1/257, and floats in [0, 1] by 255, to 8 bits."""
    wide = np.nan_to_num(values.astype(np.float32), copy=False)  # in place, as there may be 64 million values
    largest = wide.max()
    full_scale = 1.0 if values.dtype.kind == "f" and largest <= 1 else 65535.0 if largest > 255 else 255.0
    wide *= np.float32(255 / full_scale)
    np.rint(wide, out=wide)
    return Image.fromarray(wide.clip(0, 255, out=wide).astype(np.uint8))
