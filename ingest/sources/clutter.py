"""Classify files of a folder or archive by their names, without opening them."""

from enum import Enum
from fnmatch import fnmatchcase
from mimetypes import MimeTypes

# Files and folders that desktops, cameras and network storages create beside images; names in lower case.
_CLUTTER = frozenset(
    {
        "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle",
        "#snapshot", "$recycle.bin", "system volume information",
    }
)  # fmt: skip
# Suffixes of files that are not images, in addition to those in Python's table of media types.
_NO_IMAGES = frozenset(
    {
        ".7z", ".aae", ".bz2", ".cbz", ".db", ".gz", ".ini", ".jsonl", ".lnk", ".log", ".lrv", ".md", ".mkv",
        ".ndjson", ".npy", ".npz", ".parquet", ".rar", ".tgz", ".thm", ".url", ".xmp", ".xz", ".yaml", ".yml", ".zst",
    }
)  # fmt: skip


class Kind(Enum):
    """The kind of a file, by its name."""

    IMAGE = "an image, or an unknown kind, which decoding tells apart"
    LABEL = "a file that may label the images beside it"
    OTHER = "a text, a video or another file that is not an image"
    CLUTTER = "hidden, or made by the system or by a program for its own use"
    EXCLUDED = "excluded by the user"


def _kinds() -> dict[str, Kind]:
    """Return the kind of each suffix that does not belong to images. A file with any other suffix may be an image."""
    types = MimeTypes(filenames=()).types_map[True]  # Python's own table, the same on every machine
    others = {suffix for suffix, name in types.items() if not name.startswith("image/")} - {".bin"}
    return dict.fromkeys(others | _NO_IMAGES, Kind.OTHER) | dict.fromkeys((".cls", ".json"), Kind.LABEL)


_KINDS = _kinds()


def kind_of(path: str, exclude: tuple[str, ...] = ()) -> Kind:
    """Return the kind of a file or folder by its path in the source, ignoring case.

    Args:
        path: Path in the source, with slashes.
        exclude: Patterns, as `fnmatch` knows them, of the paths or the names to exclude. A `*` also matches slashes.
    """
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if any(part[0] == "." or part.lower() in _CLUTTER for part in parts):
        return Kind.CLUTTER
    if exclude and _is_excluded([part.lower() for part in parts], exclude):
        return Kind.EXCLUDED
    _, dot, suffix = parts[-1].lower().rpartition(".") if parts else ("", "", "")
    return _KINDS.get(dot + suffix, Kind.IMAGE)


def _is_excluded(parts: list[str], exclude: tuple[str, ...]) -> bool:
    names = [*parts, *("/".join(parts[:end]) for end in range(2, len(parts) + 1))]
    return any(fnmatchcase(name, pattern.lower().strip("/")) for pattern in exclude for name in names)
