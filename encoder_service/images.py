"""Read, normalise and write images. Training and serving share the one `normalise`, so their inputs are the same."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from encoder_service.decoding import check_pixel_count as check_pixel_count
from encoder_service.decoding import decode as decode
from encoder_service.errors import ImageError, ImageTooLargeError
from encoder_service.limits import LIMITS

THUMBNAIL_SIZE = 64
"""Longest side of a thumbnail, in pixels."""

# A transparent image contrasts with a background if this share of its visible pixels differs by more than this many
# grey levels from the background.
_CONTRAST, _CONTRASTING_SHARE = 48, 0.25


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
    images: Sequence[Image.Image], input_shape: tuple[int, int, int], background: int = 0
) -> NDArray[np.float32]:
    """Turn images into an encoder's inputs.

    Each image is flattened (see `flattened`), cropped around its centre to the aspect ratio of the input, and scaled to
    the input's size. An image of that size and of the right mode stays unchanged.

    Args:
        images: n images of mode L, RGB or RGBA, as `decode` returns them.
        input_shape: (height, width, channels); channels 1 or 3.
        background: Grey level that fills transparent parts, 0 (black) to 255 (white); see `flattened`.

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
    image = flattened(image, background, channels)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    return image


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
