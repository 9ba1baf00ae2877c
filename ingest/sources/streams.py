"""Open compressed files, whatever their names, and translate the errors of all decompressors into SourceError."""

import bz2
import gzip
import importlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from ingest.errors import SourceError
from ingest.sources.names import text_of

ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
"""Errors of files that can't be read or are damaged. Some of them are not OSErrors."""

ZIP_ERRORS = (*ERRORS, RuntimeError, ValueError)
"""Errors of one member of a zip, including those for encryption and for compression that Python does not support."""


def open_stream(path: Path) -> IO[bytes]:
    """Open a file for reading. If its first bytes are those of gzip, bzip2, xz or Zstandard, decompress it.

    Raises:
        OSError: The file can't be opened.
        SourceError: The file is Zstandard, and the package that reads it is not installed.
    """
    with path.open("rb") as file:
        begin = file.read(6)
    for magic, opener in _OPENERS.items():
        if begin.startswith(magic):
            return opener(path)
    return path.open("rb")


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Translate errors of reading and decompressing in the block into SourceError.

    Args:
        path: The file.
        expected: What the file should be, such as "an NPZ file".

    Raises:
        SourceError: The file can't be read or is damaged.
    """
    try:
        yield
    except ERRORS as error:
        raise SourceError(
            f"{text_of(path)}: expected {expected}, got one that can't be read ({reason_of(error)})"
        ) from error


def reason_of(error: Exception) -> str:
    """Return why a file can't be read, as one line without the file's name."""
    return (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split()) or type(error).__name__


def require(module: str, extra: str, purpose: str) -> Any:
    """Import a module that is installed only with an extra of this package.

    Raises:
        SourceError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise SourceError(
            f"{purpose}: expected the package {package}, got none: pip install '.[{extra}]' in a clone of Lookalike"
        ) from error


class _Zstandard(io.RawIOBase):
    """The decompressed content of a .zst file. Reading raises OSError if the file is damaged."""

    def __init__(self, path: Path) -> None:
        self._module = require("zstandard", "zst", text_of(path.name))
        self._stream = self._module.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = self._stream.readinto(buffer)
        except self._module.ZstdError as error:
            raise OSError(str(error)) from error
        return count

    def close(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.close()
        super().close()


_OPENERS: dict[bytes, Callable[[Path], IO[bytes]]] = {
    b"\x1f\x8b": lambda path: cast("IO[bytes]", gzip.GzipFile(path)),
    b"BZh": lambda path: cast("IO[bytes]", bz2.BZ2File(path)),
    b"\xfd7zXZ\0": lambda path: cast("IO[bytes]", lzma.LZMAFile(path)),  # noqa: SIM115
    b"\x28\xb5\x2f\xfd": lambda path: io.BufferedReader(_Zstandard(path)),
}
