"""The journal: a file in a version's folder with the keys that a service has added or deleted.

While a service has an Edge version open, no other process can open it. But a rebuild must know which images the service
has added, because the rebuilt version will lack them. So the rebuild reads the journal.
"""

import json
from collections.abc import Sequence
from pathlib import Path

JOURNAL = "ADDED"
"""Name of the journal's file. Each line is a JSON list: "+" for added or "-" for deleted, followed by the keys."""

_DELETED = "-"
_ADDED = "+"


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
    try:
        lines = (folder / JOURNAL).read_bytes().splitlines()
    except FileNotFoundError:
        return written
    for line in lines:
        try:
            sign, *keys = json.loads(line)
        except ValueError:
            continue  # the service died while it wrote this line, so it never acknowledged the keys
        written.update(dict.fromkeys(keys, sign == _ADDED))
    return written


def _append(folder: Path, line: list[str]) -> None:
    with (folder / JOURNAL).open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")
