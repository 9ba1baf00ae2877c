"""NPZ, NumPy's archive of arrays, read row by row: no array of images is ever in memory as a whole."""

import zipfile
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ingest.errors import SourceError
from ingest.sources.arrays import Rows

# Prefixes of the name of an array of images, and of the name of its labels: `x_train` has its labels in `y_train`.
_LABELS = (("x", "y"), ("images", "labels"), ("image", "label"), ("data", "labels"), ("data", "target"))


def open_npz(path: Path) -> list[Rows]:
    """Open the arrays of images in an NPZ file, each with its labels if the file has them.

    An array of images is uint8, (n, h, w) or (n, h, w, channels). `x_train` has its labels in `y_train`, `images` in
    `labels`. If the file has one array of images and one of labels, they belong together whatever their names.

    Raises:
        SourceError: The file is not an NPZ file, or has no array of images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            headers = {name: _header(archive.open(f"{name}.npy")) for name in names}
        images = [
            name
            for name, (shape, fortran, dtype) in headers.items()
            if dtype == np.uint8 and len(shape) >= 3 and not fortran
        ]
        flat = [name for name, (shape, _, _) in headers.items() if len(shape) == 1]
        if not images:
            arrays = ", ".join(f"{name} {dtype} {shape}" for name, (shape, _, dtype) in headers.items()) or "no array"
            raise SourceError(f"{path}: expected an array of uint8, (n, h, w) or (n, h, w, channels), got {arrays}")
        return [
            Rows(path, name, headers[name][0], partial(_open, path, name), _labels(path, name, images, flat))
            for name in images
        ]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise SourceError(f"{path}: expected an NPZ file, got one that can't be read ({error})") from error


def _labels(path: Path, name: str, images: list[str], flat: list[str]) -> NDArray[np.generic] | None:
    candidates = [name.replace(prefix, label_prefix, 1) for prefix, label_prefix in _LABELS if name.startswith(prefix)]
    names = [label for label in candidates if label in flat] or (flat if len(images) == len(flat) == 1 else [])
    if not names:
        return None
    with np.load(path, allow_pickle=False) as arrays:
        labels: NDArray[np.generic] = arrays[names[0]]
    return labels


def _open(path: Path, name: str) -> IO[bytes]:
    with zipfile.ZipFile(path) as archive:
        file = archive.open(f"{name}.npy")  # stays open after the archive is closed
    _header(file)
    return file


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[np.generic]] = read(file)
    return header
