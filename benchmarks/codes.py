"""Codes like real ones, as many as are wanted: what the shipped encoder makes of digits that are bent at random.

Each is an MNIST digit of which the corners and the middles of a 2 × 2 mesh are moved by about two pixels, so it is
turned, sheared, scaled and bent, and no two are the same. Every digit comes up in turn.
"""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service.encoder import load_encoder
from ingest.progress import Stages
from ingest.sources import open_source

_BENT_BY = 2.0  # pixels, standard deviation
_CHUNK = 20_000
_SIDE = 28


def codes_like_real(folder: Path, split: str, count: int, stages: Stages) -> NDArray[np.float32]:
    """Return (count, 128) codes from a file in the folder, which is made at the first call.

    Args:
        folder: Keeps them, 512 bytes each.
        split: The digits to bend: "train" for a gallery, "test" for queries.
        count: How many.
        stages: Shows how far it is.
    """
    path = folder / f"codes-{split}-{count}.npy"
    if not path.exists():
        part = path.with_suffix(".part")
        codes = np.lib.format.open_memmap(part, "w+", np.float32, (count, 128))
        starts = range(0, count, _CHUNK)
        with ProcessPoolExecutor() as pool, stages.stage(f"{split} codes", count) as advance:
            sizes = [min(_CHUNK, count - start) for start in starts]
            for start, made in zip(starts, pool.map(_made, [split] * len(starts), starts, sizes), strict=True):
                codes[start : start + len(made)] = made
                advance(len(made))
        codes.flush()
        part.rename(path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


_digits: dict[str, list[Image.Image]] = {}


def _made(split: str, start: int, count: int) -> NDArray[np.float32]:
    if split not in _digits:
        _digits[split] = [item.image() for item in open_source("mnist", split)]
    digits, encoder, chance = _digits[split], load_encoder("mnist"), np.random.default_rng(start)
    bent = [_bent(digits[index % len(digits)], chance) for index in range(start, start + count)]
    return np.concatenate([encoder.encode_images(bent[at : at + 1024]) for at in range(0, count, 1024)])


def _bent(digit: Image.Image, chance: np.random.Generator) -> Image.Image:
    """Cut the image into 2 × 2 squares, move their corners at random, and fill each from between its own."""
    half = _SIDE // 2
    corners = np.mgrid[0:3, 0:3].transpose(1, 2, 0)[:, :, ::-1] * half + chance.normal(0, _BENT_BY, (3, 3, 2))
    mesh = []
    for row in (0, 1):
        for column in (0, 1):
            box = (column * half, row * half, (column + 1) * half, (row + 1) * half)
            around = (corners[row + i, column + j] for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
            mesh.append((box, tuple(float(value) for corner in around for value in corner)))
    return digit.transform((_SIDE, _SIDE), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
