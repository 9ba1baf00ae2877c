"""Generate any number of realistic codes, by encoding randomly distorted digits with the encoder `mnist`.

Each image is an MNIST digit, distorted by moving the nine corners of a 2 × 2 mesh by about two pixels. This rotates,
shears, scales and bends the digit, so that no two images are the same. After the last digit of MNIST, the first is used
again.
"""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service.encoder import load_encoder
from ingest.progress import Stages
from ingest.sources import open_source

# Standard deviation of a mesh corner's displacement, in pixels.
_DISPLACEMENT = 2.0
# Number of codes that a worker process generates at a time.
_CHUNK = 20_000
# Height and width of a digit, in pixels.
_SIDE = 28


def codes_like_real(folder: Path, split: str, count: int, stages: Stages) -> NDArray[np.float32]:
    """Return codes, (count, 128), mapped from a file. If no file has as many, generate the codes and write one.

    Args:
        folder: Folder for the file, which takes 512 bytes per code.
        split: MNIST's split from which the digits come: "train" for a gallery, "test" for queries.
        count: Number of codes. They are the first ones of every larger number.
        stages: Shows the progress.
    """
    for path in folder.glob(f"codes-{split}-*.npy"):
        codes = np.load(path, mmap_mode="r")
        if len(codes) >= count:
            return codes[:count]  # type: ignore[no-any-return]
    path = folder / f"codes-{split}-{count}.npy"
    part = path.with_suffix(".part")
    codes = np.lib.format.open_memmap(part, "w+", np.float32, (count, 128))
    starts = range(0, count, _CHUNK)
    with ProcessPoolExecutor() as pool, stages.stage(f"{split} codes", count) as advance:
        sizes = [min(_CHUNK, count - start) for start in starts]
        chunks = pool.map(_distorted_codes, [split] * len(starts), starts, sizes)
        for start, chunk in zip(starts, chunks, strict=True):
            codes[start : start + len(chunk)] = chunk
            advance(len(chunk))
    codes.flush()
    part.rename(path)
    return codes


_digits: dict[str, list[Image.Image]] = {}


def _distorted_codes(split: str, start: int, count: int) -> NDArray[np.float32]:
    if split not in _digits:
        _digits[split] = [item.image() for item in open_source("mnist", split)]
    digits, encoder, chance = _digits[split], load_encoder("mnist"), np.random.default_rng(start)
    images = [_distorted(digits[index % len(digits)], chance) for index in range(start, start + count)]
    return np.concatenate([encoder.encode_images(images[at : at + 1024]) for at in range(0, count, 1024)])


def _distorted(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    """Lay a mesh of 2 × 2 squares over the image, move its corners at random, and warp the image with it."""
    half = _SIDE // 2
    corners = np.mgrid[0:3, 0:3].transpose(1, 2, 0)[:, :, ::-1] * half + chance.normal(0, _DISPLACEMENT, (3, 3, 2))
    mesh = []
    for row in (0, 1):
        for column in (0, 1):
            box = (column * half, row * half, (column + 1) * half, (row + 1) * half)
            around = (corners[row + i, column + j] for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
            mesh.append((box, tuple(float(value) for corner in around for value in corner)))
    return digit.transform((_SIDE, _SIDE), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
