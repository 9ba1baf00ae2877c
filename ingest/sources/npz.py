"""NPZ and NPY, NumPy's files of arrays. They are read row by row, because an array may be larger than the memory."""

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
from numpy.lib import format as npy

from ingest.errors import SourceError
from ingest.sources.arrays import ArraySource, Rows
from ingest.sources.base import Options
from ingest.sources.layout import Layout, layout_of
from ingest.sources.names import text_of
from ingest.sources.streams import open_stream, reading

# Pairs of prefixes: the name of an array of images begins with the first, the name of its labels with the second. For
# example, `x_train` has its labels in `y_train`.
_LABELS = (("x", "y"), ("images", "labels"), ("image", "label"), ("data", "labels"), ("data", "target"))
_EXPECTED = "expected numbers of shape (n, h, w), (n, h, w, channels), (n, channels, h, w) or (h, w, channels)"


class _Header(NamedTuple):
    """The header of an array.

    Attributes:
        shape: Its shape.
        is_fortran: Whether the first axis varies fastest.
        dtype: Type of its values.
    """

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[np.generic]

    def __str__(self) -> str:
        return f"{'Python objects' if self.dtype.hasobject else self.dtype} {self.shape}"


def open_npz(path: Path, options: Options) -> ArraySource:
    """Open the arrays of images in an NPZ or NPY file, each with its labels if the file has them.

    `layout_of` decides by its shape whether an array contains images, and `full_scale` by its values. `x_train` has its
    labels in `y_train`, and `images` in `labels`. If the file has one array of images and one of labels, they belong
    together whatever their names. The source's notes list the arrays that contain neither images nor labels.

    Raises:
        SourceError: The file is not an NPZ or NPY file, or has no array of images.
    """
    with reading(path, "an NPZ or NPY file"):
        try:
            headers = _headers(path)
        except (ValueError, RuntimeError) as error:  # another kind of file, or an encrypted zip
            raise SourceError(f"{text_of(path)}: expected an NPZ or NPY file, got another ({error})") from error
        images = {name: layout for name, header in headers.items() if (layout := _layout(name, header, headers))}
        labels = {name: _labels_of(name, images, headers) for name in images}
        used = {*images, *labels.values()}
        left_out = {name: f"left out {name} {header}" for name, header in headers.items() if name not in used}
        arrays = []
        for name, layout in images.items():
            try:
                arrays.append(_rows(path, name, layout, headers, labels[name]).scaled())
            except ValueError as error:
                left_out[name] = f"left out {name} {headers[name]}, {error}"
        left_out |= {
            name: f"left out {name}: labels as Python objects, which are not safe to read; save y.astype(str) instead"
            for name in labels.values()
            if name and headers[name].dtype.hasobject
        }
    if not arrays:
        reasons = "; ".join(line.removeprefix("left out ") for line in left_out.values()) or "no array"
        raise SourceError(f"{text_of(path)}: {_EXPECTED}, got {reasons}")
    return ArraySource(path, arrays, options.limit, list(left_out.values()))


def _layout(name: str, header: _Header, headers: Mapping[str, _Header]) -> Layout | None:
    if header.dtype.kind not in "buif" or 0 in header.shape:
        return None
    if len(header.shape) == 2:  # these may be flat images, features or one-hot labels
        others = [other for other, (shape, _, _) in headers.items() if other != name and len(shape) > 1]
        if others and not name.lower().startswith(tuple(prefix for prefix, _ in _LABELS)):
            return None
    return layout_of(header.shape)


def _labels_of(name: str, images: Mapping[str, Layout], headers: Mapping[str, _Header]) -> str:
    """Return the name of the array with the labels of an array of images; "" if the file has no such array."""
    flat = [name for name, (shape, _, _) in headers.items() if len(shape) == 1 or shape[1:] == (1,)]
    candidates = [name.replace(prefix, label_prefix, 1) for prefix, label_prefix in _LABELS if name.startswith(prefix)]
    names = [label for label in candidates if label in flat] or (flat if len(images) == len(flat) == 1 else [])
    return names[0] if names else ""


def _rows(path: Path, name: str, layout: Layout, headers: Mapping[str, _Header], labels: str) -> Rows:
    header = headers[name]
    texts = None
    if labels and not headers[labels].dtype.hasobject:
        with np.load(path, allow_pickle=False) as arrays:
            texts = _texts(arrays[labels].reshape(-1))
    return Rows(path, name, layout, partial(_open, path, name, header), texts, header.dtype)


def _texts(labels: "np.ndarray[tuple[int], np.dtype[np.generic]]") -> Sequence[str]:
    return [label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label) for label in labels]


def _headers(path: Path) -> dict[str, _Header]:
    if not _is_zip(path):
        with open_stream(path) as file:
            return {"": _header(file)}
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    headers[member.removesuffix(".npy")] = _header(file)
    return headers


def _open(path: Path, name: str, header: _Header) -> IO[bytes]:
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            file = archive.open(f"{name}.npy")  # stays open after the archive is closed
    else:
        file = open_stream(path)
    _header(file)
    return _rows_first(file, header) if header.is_fortran else file


def _rows_first(file: IO[bytes], header: _Header) -> IO[bytes]:
    """Convert an array from Fortran order to rows. Temporary files need disk space for two copies of the array."""
    with tempfile.TemporaryFile() as stored:
        while content := file.read(1024 * 1024):
            stored.write(content)
        stored.flush()
        file.close()
        values = np.memmap(stored, header.dtype, "r", shape=header.shape, order="F")
        rows = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115  # the caller closes it
        for row in values:
            rows.write(np.ascontiguousarray(row).tobytes())
    rows.seek(0)
    return rows


def _header(file: IO[bytes]) -> _Header:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return _Header(*read(file))


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
