"""The journal of a version: the keys that a service adds, readable while the service has the version open.

Only one process can open a version in a folder. A rebuild, which runs beside the service, reads here which images it
would leave out.
"""

import json
from collections.abc import Sequence
from pathlib import Path

JOURNAL = "ADDED"
"""Name of the file in a version's folder. Each write appends a line, a JSON list of "+" or "-" and the keys."""

_DELETED = "-"
_ADDED = "+"


def note_added(folder: Path, keys: Sequence[str]) -> None:
    """Record that keys are about to be added."""
    _append(folder, [_ADDED, *keys])


def note_deleted(folder: Path, keys: Sequence[str]) -> None:
    """Record that keys are about to be deleted."""
    _append(folder, [_DELETED, *keys])


def read_journal(folder: Path) -> dict[str, bool]:
    """Return the keys that services have written since the version was published: True if added, False if deleted."""
    written: dict[str, bool] = {}
    try:
        lines = (folder / JOURNAL).read_bytes().splitlines()
    except FileNotFoundError:
        return written
    for line in lines:
        try:
            sign, *keys = json.loads(line)
        except ValueError:
            continue  # the process died while writing the line, before it acknowledged the keys
        written.update(dict.fromkeys(keys, sign == _ADDED))
    return written


def _append(folder: Path, line: list[str]) -> None:
    with (folder / JOURNAL).open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")
