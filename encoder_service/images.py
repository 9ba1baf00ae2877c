"""Read, normalise and write images. Training and serving share the one `normalise`, so their inputs are the same."""

import hashlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from encoder_service.decoding import PNG_SIGNATURE
from encoder_service.decoding import check_pixel_count as check_pixel_count
from encoder_service.decoding import decode as decode
from encoder_service.errors import ImageError, ImageTooLargeError
from encoder_service.limits import LIMITS

THUMBNAIL_SIZE = 64
"""Longest side of a thumbnail, in pixels."""

# A visible pixel differs from the background if it is more than the first number of grey levels away. A transparent
# image contrasts with the background if the share of its visible pixels that differ is at least the second number.
_CONTRAST, _CONTRASTING_SHARE = 48, 0.25
FITS = ("crop", "squeeze")
"""The ways to bring an image to the aspect ratio of an encoder's inputs; see `normalise`."""

# Maximum difference of a bar's pixels from the bar's colour, in grey levels. It allows for the noise of a JPEG.
_BAR_NOISE = 24
# Minimum height and width of the content between bars, as a fraction of the image's. Smaller content is a drawing on an
# empty background, not a photograph between bars.
_BETWEEN_BARS = 0.2
# Longest side, in pixels, of the reduced image in which bars are looked for.
_BAR_SAMPLE = 256


def silence_pillow() -> None:
    """Ignore Pillow's warnings about malformed files in this process, so that user input can't flood stderr or a log.

    Commands call this once, before they start threads: warning filters belong to the whole process, and changing them
    is not thread-safe.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read(path: Path) -> bytes:
    """Read an image file, without decoding it.

    Raises:
        ImageTooLargeError: The file has more than 10 MiB, and only the first 10 MiB have been read.
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


def sha256(content: bytes | Image.Image | NDArray[np.uint8]) -> str:
    """Return the hash that shows whether an image has changed since it was stored, 64 hex digits.

    Args:
        content: An image file's bytes, an image, or an array of pixels. Pixels are hashed row by row; width and height
            are not hashed.
    """
    return hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()


def normalise(
    images: Sequence[Image.Image], input_shape: tuple[int, int, int], background: int = 0, fit: str = "crop"
) -> NDArray[np.float32]:
    """Turn images into an encoder's inputs.

    Each image is flattened (see `flattened`), brought to the input's aspect ratio, and scaled to the input's size:

    - With fit "crop", the image is cropped around its centre. An image of the input's size and mode stays unchanged.
    - With fit "squeeze", bars and borders of one colour are cut off (see `content_box`), and all the rest is scaled to
      the input's size, whatever its aspect ratio.

    Args:
        images: n images of mode L, RGB or RGBA, as `decode` returns them.
        input_shape: (height, width, channels); channels 1 or 3.
        background: Grey level that fills transparent parts, 0 (black) to 255 (white); see `flattened`.
        fit: One of `FITS`.

    Returns:
        (n, height, width, channels) float32 in [0, 1].
    """
    height, width, channels = input_shape
    pixels = np.empty((len(images), height, width, channels), np.uint8)
    for row, image in zip(pixels, images, strict=True):
        flat = flattened(image, background, channels)
        fitted = _squeezed(flat, width, height) if fit == "squeeze" else _cropped(flat, width, height)
        row[:] = np.asarray(fitted).reshape(row.shape)
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
    if image.mode == "L" and max(image.size) <= THUMBNAIL_SIZE:
        return _small_grey_png(image)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _small_grey_png(image: Image.Image) -> bytes:
    """Return an image of mode L as a PNG file, in a quarter of the time that Pillow takes to set up its compressor.

    The format is that of the PNG specification (W3C, third edition), chapter 11, with filter type 0 for each row.
    """
    rows = np.zeros((image.height, image.width + 1), np.uint8)  # each row begins with its filter type
    rows[:, 1:] = np.asarray(image)
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 0, 0, 0, 0)  # 8 bits per pixel, grey
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def flatness(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of neighbouring pixels that are equal: 1 in a blank image, nearly 0 in noise.

    Pixels count as equal if no channel differs by more than one grey level of 255.

    Args:
        values: n inputs, (n, height, width, channels) in [0, 1].

    Returns:
        (n,), 0 to 1, the mean of the shares along rows and along columns.
    """
    rows, columns = values[:, 1:] - values[:, :-1], values[:, :, 1:] - values[:, :, :-1]
    return np.asarray((_equal_share(rows) + _equal_share(columns)) / 2, np.float32)


def _equal_share(differences: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the share of differences, (n, h, w, channels), of at most one grey level in all channels, (n,)."""
    is_equal = (np.abs(differences) < 1.5 / 255).all(axis=3)
    return np.asarray(is_equal.reshape(len(differences), -1).mean(axis=1))


def _cropped(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return image


def _squeezed(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BICUBIC, box=content_box(image))


def content_box(image: Image.Image) -> tuple[int, int, int, int]:
    """Return the box of an image inside its bars and borders of one colour: left, top, right and bottom, in pixels.

    An axis along which less than a fifth of the image would remain is left whole. The box is exact for images of up to
    256 pixels a side. In larger ones it may lie a few pixels inside the bar's edge.

    Args:
        image: Mode L or RGB.
    """
    width, height = image.size
    size = (min(width, _BAR_SAMPLE), min(height, _BAR_SAMPLE))
    sample = np.atleast_3d(np.asarray(image.resize(size, Image.Resampling.NEAREST), np.int16))  # (h, w, c)
    above, below = _bars(sample)
    inner = sample[above : len(sample) - below]
    before, after = _bars(inner.swapaxes(0, 1))
    across, down = width / size[0], height / size[1]
    return (
        math.ceil(before * across),
        math.ceil(above * down),
        width - math.ceil(after * across),
        height - math.ceil(below * down),
    )


def _bars(rows: NDArray[np.int16]) -> tuple[int, int]:
    """Return the numbers of rows in the bar at the beginning of (n, m, c) pixels, and in the bar at their end.

    A bar is all rows up to the first one that differs from the colour of the outermost row. If less than a fifth of
    the rows would remain between the bars, or all rows have the same colour, there are no bars: (0, 0).
    """
    found = []
    for part in (rows, rows[::-1]):
        differs = np.abs(part - part[0].mean(axis=0).round()).max(axis=(1, 2)) > _BAR_NOISE
        if not differs.any():
            return 0, 0
        found.append(int(differs.argmax()))
    first, last = found
    return (first, last) if len(rows) - first - last >= _BETWEEN_BARS * len(rows) else (0, 0)


def flattened(image: Image.Image, background: int, channels: int) -> Image.Image:
    """Fill the transparent parts of an image with a background, and convert the image to grey or RGB.

    Args:
        image: Mode L, RGB or RGBA.
        background: Grey level of the background, 0 to 255. If the image would barely stand out from it, such as black
            ink from black, the background gets the opposite level, 255 - background.
        channels: 1 for grey, 3 for RGB.
    """
    mode = "L" if channels == 1 else "RGB"
    if image.mode == "RGBA":
        ground = background if _contrasts(image, background, mode) else 255 - background
        image = Image.alpha_composite(Image.new("RGBA", image.size, (ground, ground, ground, 255)), image)
    return image if image.mode == mode else image.convert(mode)


def _contrasts(image: Image.Image, background: int, mode: str) -> bool:
    """Return whether at least a quarter of an RGBA image's visible pixels differ clearly from a grey background."""
    sample = image.resize([min(side, 256) for side in image.size], Image.Resampling.NEAREST)
    opacity = np.asarray(sample.getchannel("A"), np.float32)
    colours = np.asarray(sample.convert("RGB").convert(mode), np.int16).reshape(*opacity.shape, -1)
    differs = (np.abs(colours - background) > _CONTRAST).any(2)
    return bool(opacity[differs].sum() >= _CONTRASTING_SHARE * opacity.sum())
