"""Fetch Debian packages and unpack them, for the photographs in them."""

import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

# Package whose pictures are inside Qt resource files.
_GCOMPRIS = "gcompris-qt-data"


def can_unpack() -> bool:
    """Return whether the commands that `unpack` needs are here. If not, say that the photographs are skipped."""
    is_here = all(shutil.which(command) for command in ("apt-get", "dpkg"))
    if not is_here:
        print("photographs: skipped, for they come from Debian's packages, and apt-get and dpkg are not here")
    return is_here


def unpack(folder: Path, package: str) -> Path:
    """Fetch a package with apt-get, unless it is there, and return the folder of its files."""
    home = folder / package
    if home.exists():
        return home
    folder.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package}", flush=True)
    subprocess.run(["apt-get", "-qq", "download", package], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    (archive,) = folder.glob(f"{package}_*.deb")
    part = folder / f"{package}.part"
    subprocess.run(["dpkg", "-x", str(archive), str(part)], check=True)
    archive.unlink()
    if package == _GCOMPRIS:
        for resources in (part / "usr/share/gcompris-qt/rcc").glob("*.rcc"):
            for name, content in _resources(resources.read_bytes()):
                file = part / resources.name / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    return part.rename(home)


def _resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of each file in a Qt resource file. GCompris has its pictures in such files."""
    version, tree, contents, names = struct.unpack(">IIII", data[4:20])
    size = 14 if version == 1 else 22

    def number(form: str, at: int) -> int:
        (value,) = struct.unpack_from(f">{form}", data, at)
        return int(value)

    def below(node: int, path: str) -> Iterator[tuple[str, bytes]]:
        at = tree + node * size
        if node:
            name = names + number("I", at)
            path += "/" + data[name + 6 : name + 6 + 2 * number("H", name)].decode("utf-16-be")
        flags = number("H", at + 4)
        if flags & 2:  # a folder
            count, first = number("I", at + 6), number("I", at + 10)
            for child in range(first, first + count):
                yield from below(child, path)
            return
        start = contents + number("I", at + 10)
        content = data[start + 4 : start + 4 + number("I", start)]
        if not flags & 4:  # skip files compressed with Zstandard: none of the pictures is
            yield path[1:], zlib.decompress(content[4:]) if flags & 1 else content

    yield from below(0, "")
