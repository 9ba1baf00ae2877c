"""Images of any source as one array on disk, so that training reads more of them than memory holds."""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder_service.errors import ImageError
from encoder_service.images import normalise
from ingest.progress import Stages
from ingest.sources import Source
from training.errors import RecipeError

_FEWEST = 64
_HELD_OUT = 0.1
_MOST_HELD_OUT = 5000  # however many images there are, for these are held in memory


def read_pixels(
    source: Source, input_shape: tuple[int, int, int], background: int, file: Path, stages: Stages
) -> NDArray[np.uint8]:
    """Decode and normalise each image once, into a file.

    Args:
        source: Images; bad ones are passed over and told.
        input_shape: (height, width, channels) to bring them to.
        background: Grey level under transparent parts, 0 to 255.
        file: Where to write the array, row after row.
        stages: Shows how far it is.

    Returns:
        (n, height, width, channels), 0 to 255, mapped from the file.

    Raises:
        RecipeError: There are too few good images to train on.
    """
    count = bad = 0
    first_bad = ""
    with file.open("wb") as rows, stages.stage(f"reading {source.name}", source.count) as advance:
        for item in source:
            try:
                values = normalise([item.image()], input_shape, background)
            except ImageError as error:
                bad += 1
                first_bad = first_bad or f"{item.key}: {error}"
            else:
                rows.write((values * 255).round().astype(np.uint8).tobytes())
                count += 1
            advance(1, source.count)
    if bad:
        stages.say(f"passed over {first_bad}" + (f", and {bad - 1:,} more" if bad > 1 else ""))
    if count < _FEWEST:
        raise RecipeError(f"{source.name}: expected at least {_FEWEST} images to train on, got {count}")
    with file.open("r+b") as rows:
        mapped = mmap.mmap(rows.fileno(), 0)
    if hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_RANDOM)  # or where memory is short, Linux reads megabytes for each row
    return np.frombuffer(mapped, np.uint8).reshape(count, *input_shape)


def held_apart(pixels: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Put a random tenth of the images apart, or 5,000 if that is less.

    Returns:
        The rest, still on disk and shuffled in place, and those apart.
    """
    count = min(max(1, int(len(pixels) * _HELD_OUT)), _MOST_HELD_OUT)
    apart = np.sort(np.random.default_rng(seed).choice(len(pixels), count, replace=False))
    held_out = pixels[apart].copy()
    # fill the gaps with images from the end, so that the rest is one piece
    tail = np.setdiff1d(np.arange(len(pixels) - count, len(pixels)), apart)
    pixels[apart[apart < len(pixels) - count]] = pixels[tail]
    return pixels[: len(pixels) - count], held_out
