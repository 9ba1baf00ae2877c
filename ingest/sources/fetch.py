"""Fetch files whose SHA-256 is known, from the cache or from the first place on the network that has them."""

import gzip
import hashlib
import http.client
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gallery.errors import StoreUnusableError
from gallery.files import replace_file
from ingest.errors import SourceUnavailableError
from ingest.sources.streams import ERRORS

# Maximum seconds to connect to a mirror, and then for each read. A slower mirror counts as unavailable.
_CONNECT_S = 10.0

# Errors of reading a file, or of a download that breaks off.
_ERRORS = (*ERRORS, http.client.HTTPException)

Read = Callable[[str], bytes]
"""Reads one file by name."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get a dataset's files.

    Attributes:
        name: Name of the way, for the error if no way works.
        open: Function that takes an empty scratch folder, and returns a function that reads a file by name. Both
            functions may raise OSError.
    """

    name: str
    open: Callable[[Path], Read]


def fetch(cache: Path, sums: Mapping[str, str], ways: Sequence[Way]) -> dict[str, bytes]:
    """Return files by name, each from the cache or from the first way that gives the expected content.

    Args:
        cache: Folder that keeps fetched files.
        sums: SHA-256 of each uncompressed file, 64 hex digits.
        ways: Ways to get the files, in the order to try them.

    Raises:
        SourceUnavailableError: A file could not be fetched in any way. The message says why each way failed, and where
            to put the files by hand.
    """
    files: dict[str, bytes] = {}
    failures = [f"cache {cache}: {_take(lambda name: _uncompressed((cache / name).read_bytes()), sums, files)}"]
    for way in ways:
        if len(files) == len(sums):
            return files
        missing = {name: sums[name] for name in sums if name not in files}
        with tempfile.TemporaryDirectory(prefix="lookalike-") as scratch:
            try:
                reason = _take(way.open(Path(scratch)), missing, files)
            except _ERRORS as error:
                reason = _reason(error)
        failures.append(f"{way.name}: {reason}")
        _keep(cache, {name: files[name] for name in missing if name in files})
    if len(files) == len(sums):
        return files
    names = ", ".join(name for name in sums if name not in files)
    raise SourceUnavailableError(
        f"{names} could not be fetched. Tried: {'; '.join(failures)}. Put the files into {cache} by hand"
    )


def mirror(url: str) -> Way:
    """Return a `Way` that downloads each file from a folder on the web, as NAME.gz."""

    def read(name: str) -> bytes:
        with urllib.request.urlopen(f"{url}/{name}.gz", timeout=_CONNECT_S) as response:
            content: bytes = response.read()
        return _uncompressed(content)

    return Way(url, lambda scratch: read)


def folder(path: Path) -> Way:
    """Return a `Way` that reads each file from a folder of this machine, as NAME.gz or as NAME."""

    def read(name: str) -> bytes:
        compressed = path / f"{name}.gz"
        return _uncompressed(compressed.read_bytes() if compressed.exists() else (path / name).read_bytes())

    return Way(str(path), lambda scratch: read)


def _take(read: Read, sums: Mapping[str, str], files: dict[str, bytes]) -> str:
    """Read files and add them to `files`. Stop at the first one that fails, and return the reason.

    A file fails if it can't be read or its SHA-256 differs from the expected one.
    """
    for name, sha256 in sums.items():
        try:
            content = read(name)
        except _ERRORS as error:
            return _reason(error)
        if hashlib.sha256(content).hexdigest() != sha256:
            return f"{name} has another SHA-256 than expected"
        files[name] = content
    return "nothing is missing"


def _keep(cache: Path, files: Mapping[str, bytes]) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            replace_file(cache / name, content)
    except OSError as error:
        raise StoreUnusableError(
            f"cache {cache} can't be written: {error.strerror}: set XDG_CACHE_HOME to a folder that can be written"
        ) from error


def _uncompressed(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"no {Path(error.filename).name}"
    return str(getattr(error, "reason", None) or error).partition("\n")[0] or type(error).__name__
