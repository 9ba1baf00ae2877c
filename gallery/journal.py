"""The journal: a file in a version's folder with the keys that a service has added or deleted.

While a service has an Edge version open, no other process can open it. But a rebuild must know which images the service
has added, because the rebuilt version will lack them. So the rebuild reads the journal. A compaction reads it too, to
repeat on the new version what the service has changed meanwhile.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gallery.types import Changes

JOURNAL = "ADDED"
"""Name of the journal's file. Each line is a JSON list: "+" for added or "-" for deleted, followed by the keys.

A line with "=" and no keys says that the search index covers all lines above it."""

_DELETED = "-"
_ADDED = "+"
_INDEXED = "="
# Maximum keys in a line that `write_indexed` writes.
_LINE_COUNT = 1000


def note_added(folder: Path, keys: Sequence[str]) -> None:
    """Record that keys are about to be added."""
    _append(folder, [_ADDED, *keys])


def note_deleted(folder: Path, keys: Sequence[str]) -> None:
    """Record that keys are about to be deleted."""
    _append(folder, [_DELETED, *keys])


def read_journal(folder: Path) -> dict[str, bool]:
    """Return the keys that services have added or deleted since the version was published.

    A key's value is True if the key was last added, False if it was last deleted.
    """
    written: dict[str, bool] = {}
    for sign, keys in _lines(folder):
        written.update(dict.fromkeys(keys, sign == _ADDED))
    return written


def changes_since_indexing(folder: Path) -> Changes:
    """Count the keys that services have added and deleted since the search index was built, repeated keys each time."""
    added = deleted = 0
    for sign, keys in _lines(folder):
        if sign == _INDEXED:
            added = deleted = 0
        elif sign == _ADDED:
            added += len(keys)
        else:
            deleted += len(keys)
    return Changes(added, deleted)


def journal_size(folder: Path) -> int:
    """Return the size of the journal in bytes, which is the position of the next line."""
    try:
        return (folder / JOURNAL).stat().st_size
    except FileNotFoundError:
        return 0


def keys_between(folder: Path, begin: int, end: int) -> Iterator[list[str]]:
    """Yield the keys of each line between two positions in the journal."""
    for _, keys in _lines(folder, begin, end):
        yield keys


def write_indexed(folder: Path, written: Mapping[str, bool]) -> None:
    """Write the journal of a version whose index covers all changes.

    Args:
        folder: The version's folder.
        written: The changed keys, as `read_journal` returns them.
    """
    for is_added, note in ((True, note_added), (False, note_deleted)):
        keys = [key for key, value in written.items() if value == is_added]
        for start in range(0, len(keys), _LINE_COUNT):
            note(folder, keys[start : start + _LINE_COUNT])
    _append(folder, [_INDEXED])


def _lines(folder: Path, begin: int = 0, end: int | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield the sign and the keys of each line between two positions."""
    try:
        file = (folder / JOURNAL).open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(begin)
        while (end is None or file.tell() < end) and (line := file.readline()):
            try:
                sign, *keys = json.loads(line)
            except ValueError:
                continue  # the line was cut short, so the service never acknowledged the keys
            yield sign, keys


def _append(folder: Path, line: list[str]) -> None:
    with (folder / JOURNAL).open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # a full disk or a crash has cut the last line short
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")
