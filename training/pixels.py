"""Convert the images of a source to one array in a file, so that training is not limited by memory."""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder_service.errors import ImageError
from encoder_service.images import normalise
from ingest.progress import Stages
from ingest.sources import Source
from training.errors import RecipeError

# Minimum number of images to train on: enough for eight steps per epoch, of eight images each.
_FEWEST = 64
# Fraction of a source without a test split that is held out, and the maximum number of held-out images, because they
# are kept in memory.
_HELD_OUT = 0.1
_MAX_HELD_OUT = 5000


def read_pixels(
    source: Source, input_shape: tuple[int, int, int], background: int, fit: str, file: Path, stages: Stages
) -> NDArray[np.uint8]:
    """Decode and normalise the images of a source, and write their pixels to a file.

    Args:
        source: The images. Bad images are skipped and reported.
        input_shape: (height, width, channels) of the encoder's inputs.
        background: Grey level that fills transparent parts, 0 to 255.
        fit: How an image is brought to the inputs' aspect ratio, one of `images.FITS`.
        file: File for the array, one row per image. It is overwritten.
        stages: Shows the progress.

    Returns:
        The pixels, (n, height, width, channels) uint8, 0 to 255, mapped from the file.

    Raises:
        RecipeError: The source has too few good images to train on.
        SourceError: The source changed or disappeared while it was read.
    """
    count = bad = 0
    first_bad = ""
    with file.open("wb") as rows, stages.stage(f"reading {source.name}", source.count) as advance:
        for item in source:
            try:
                values = normalise([item.image()], input_shape, background, fit)
            except ImageError as error:
                bad += 1
                first_bad = first_bad or f"{item.key}: {error}"
            else:
                rows.write((values * 255).round().astype(np.uint8).tobytes())
                count += 1
            advance(1, source.count)
    if bad:
        stages.say(f"skipped {first_bad}" + (f", and {bad - 1:,} more" if bad > 1 else ""))
    if count < _FEWEST:
        raise RecipeError(f"{source.name}: expected at least {_FEWEST} images to train on, got {count}")
    with file.open("r+b") as rows:
        mapped = mmap.mmap(rows.fileno(), 0)
    if hasattr(mapped, "madvise"):
        # disable readahead: when memory is short, Linux would read megabytes from disk for each row
        mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, np.uint8).reshape(count, *input_shape)


def split_held_out(pixels: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Hold out a random tenth of the images, but at most 5,000.

    Args:
        pixels: The images, (n, h, w, c). The array must be writable, because some of its rows are moved.
        seed: Seed for choosing the held-out images.

    Returns:
        The remaining images, as a view into `pixels`, and a copy of the held-out images.
    """
    count = min(max(1, int(len(pixels) * _HELD_OUT)), _MAX_HELD_OUT)
    chosen = np.sort(np.random.default_rng(seed).choice(len(pixels), count, replace=False))
    held_out = pixels[chosen].copy()
    # move images from the end into the gaps, so that the remaining images are contiguous
    tail = np.setdiff1d(np.arange(len(pixels) - count, len(pixels)), chosen)
    pixels[chosen[chosen < len(pixels) - count]] = pixels[tail]
    return pixels[: len(pixels) - count], held_out
