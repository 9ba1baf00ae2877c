"""Names of files: convert them to text, compare them, follow links, and remove the ending of the file format."""

import os
import posixpath
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

_ARCHIVE = re.compile(r"(\.tar(\.(gz|bz2|xz|zst))?|\.(tgz|tbz2?|txz|tzst|zip|cbz))$", re.IGNORECASE)
# Endings of other formats whose files hold many images, and of compressed IDX files.
_OTHER_ENDING = re.compile(r"\.(npz|npy|parquet|gz|bz2|xz|zst)$", re.IGNORECASE)
_ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")


def text_of(path: Path | str) -> str:
    r"""Return a path as text that every file and terminal accepts: a byte that is not UTF-8 becomes `\xff`."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a lone surrogate, which does not come from a file system
        return str(path).encode("utf-8", "backslashreplace").decode()


def path_of(text: str) -> Path:
    """Return the path for a text that `text_of` has returned or that the user has typed."""
    path = Path(text)
    if "\\x" in text and not os.path.lexists(path):
        return Path(os.fsdecode(_ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), os.fsencode(text))))
    return path


def comparable(name: str) -> str:
    """Return a path in a normal form, so that a path in a file of labels equals the path of its image.

    Without it they may differ: Windows writes backslashes, macOS decomposes letters with accents, and `tar` and `find`
    begin each path with `./`.
    """
    name = unicodedata.normalize("NFC", name).replace("\\", "/").strip()
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def stem_of(path: Path) -> str:
    """Return the name of a file without the ending of its format, `photos` for `photos.tar.gz`, as text."""
    ending = _ARCHIVE if _ARCHIVE.search(path.name) else _OTHER_ENDING
    return text_of(ending.sub("", path.name) or path.name)


def linked_name(name: str, target: str, is_symbolic: bool) -> str:
    """Return the path in an archive of the file or folder to which a link leads, in the form of `comparable`.

    Args:
        name: Path of the link in the archive.
        target: The link's content: a path relative to the link's folder if the link is symbolic, and relative to the
            top of the archive if it is a hard link.
        is_symbolic: Whether the link is symbolic.
    """
    path = posixpath.join(posixpath.dirname(comparable(name)), target) if is_symbolic else target
    return comparable(posixpath.normpath(comparable(path)))


def follow_links(name: str, targets: Mapping[str, str]) -> str:
    """Return the path at the end of a chain of links. If the chain is circular, return any of its links."""
    for _ in range(len(targets)):
        if name not in targets:
            break
        name = targets[name]
    return name


def is_archive(path: Path) -> bool:
    """Return whether a file is a tar or a zip, by its name."""
    return bool(_ARCHIVE.search(path.name))
