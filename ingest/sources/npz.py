"""NPZ, NumPy's archive of arrays, read row by row: no array of images is ever whole in memory."""

import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ingest.errors import SourceError
from ingest.sources.arrays import Rows

# How the labels of an array are called, by how it is called: `x_train` and `y_train`, `images` and `labels`.
_LABELS = (("x", "y"), ("images", "labels"), ("image", "label"), ("data", "labels"), ("data", "target"))


def open_npz(path: Path) -> list[Rows]:
    """Open the arrays of images in an NPZ file, each with its labels if the file has them.

    An array of images is of uint8, and (n, h, w) or (n, h, w, channels). `x_train` takes its labels from `y_train`,
    `images` from `labels`; an only array takes them from the only other.

    Raises:
        SourceError: It is no NPZ file, or has no array of images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            headers = {name: _header(archive.open(f"{name}.npy")) for name in names}
        pictures = [
            name
            for name, (shape, fortran, dtype) in headers.items()
            if dtype == np.uint8 and len(shape) >= 3 and not fortran
        ]
        flat = [name for name, (shape, _, _) in headers.items() if len(shape) == 1]
        if not pictures:
            found = ", ".join(f"{name} {dtype} {shape}" for name, (shape, _, dtype) in headers.items()) or "none"
            raise SourceError(f"{path}: expected an array of uint8, (n, h, w) or (n, h, w, channels), found {found}")
        return [
            Rows(path, name, headers[name][0], lambda n=name: _open(path, n), _labels(path, name, pictures, flat))  # type: ignore[misc]
            for name in pictures
        ]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise SourceError(f"{path}: expected an NPZ file, got one that can't be read ({error})") from error


def _labels(path: Path, name: str, pictures: list[str], flat: list[str]) -> NDArray[np.generic] | None:
    called = [name.replace(a, b, 1) for a, b in _LABELS if name.startswith(a)]
    found = [label for label in called if label in flat] or (flat if len(pictures) == len(flat) == 1 else [])
    if not found:
        return None
    with np.load(path, allow_pickle=False) as arrays:
        labels: NDArray[np.generic] = arrays[found[0]]
    return labels


def _open(path: Path, name: str) -> IO[bytes]:
    with zipfile.ZipFile(path) as archive:
        file = archive.open(f"{name}.npy")  # stays open when the archive is closed
    _header(file)
    return file


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[np.generic]] = read(file)
    return header
