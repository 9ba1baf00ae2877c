"""Labels for sources that have none of their own: from folders' names, or from a file."""

import csv
import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ingest.errors import SourceError
from ingest.sources.base import Item, Source

_KEYS = ("key", "file", "filename", "path", "name", "image")
_LABELS = ("label", "class", "category", "tag")


class Labelled:
    """A source whose images get their labels by key.

    Reading it raises SourceError in the end where no image got one.
    """

    def __init__(self, source: Source, label_of: Callable[[str], str], besides: str = "") -> None:
        """Take the parts.

        Args:
            source: The images.
            label_of: Tells a key's label; empty for none.
            besides: Name of the file that the labels are in: it may lie among the images, and is none.
        """
        self._source = source
        self._label_of = label_of
        self._besides = besides
        self.name = source.name

    @property
    def count(self) -> int | None:
        """How many images there are."""
        return self._source.count

    def __iter__(self) -> Iterator[Item]:
        """Read the images."""
        labelled, key = False, ""
        for item in self._source:
            if item.key.rpartition("/")[2] != self._besides:
                key, label = item.key, self._label_of(item.key)
                labelled |= bool(label)
                yield replace(item, label=label)
        if self._besides and key and not labelled:
            raise SourceError(
                f"labels {self._besides}: expected paths in {self.name} such as {key.partition('/')[2]!r}, and none of "
                "its lines names an image there"
            )


def label_from_folder(key: str) -> str:
    """Return the name of the folder that an image lies in, below the source: `dog` of `photos/dog/rex.jpg`."""
    parts = PurePosixPath(key).parts
    return parts[-2] if len(parts) > 2 else ""


class LabelFile:
    """The labels of a CSV or JSONL file, by path in the source or by key. Kept on disk: there may be millions."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Args:
            path: A .csv with a header that has a column such as `file` or `key` and one such as `label`, or without
                one and in this order; or a .jsonl of objects with the same names.

        Raises:
            SourceError: It can't be read, or a line of it says neither.
        """
        self._labels = sqlite3.connect("", check_same_thread=False)  # a private file, gone with the connection
        self._labels.execute("CREATE TABLE labels (key TEXT PRIMARY KEY, label TEXT) WITHOUT ROWID")
        try:
            content = path.open(encoding="utf-8-sig", newline="")
            with content:
                rows = _jsonl(path, content) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv(path, content)
                self._labels.executemany("INSERT OR REPLACE INTO labels VALUES (?, ?)", rows)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"labels {path}: expected a CSV or JSONL file in UTF-8: {error}") from error
        if not self._labels.execute("SELECT 1 FROM labels LIMIT 1").fetchone():
            raise SourceError(f"labels {path}: expected a file and its label on each line, and found none")

    def __call__(self, key: str) -> str:
        """Return a key's label; empty for none."""
        names = (key, key.partition("/")[2])
        found = self._labels.execute("SELECT label FROM labels WHERE key IN (?, ?)", names).fetchone()
        return found[0] if found else ""


def _csv(path: Path, content: io.TextIOBase) -> Iterator[tuple[str, str]]:
    key, label = 0, 1
    for number, row in enumerate(csv.reader(content), start=1):
        if not row:
            continue
        names = [cell.strip().lower() for cell in row]
        if number == 1 and (found := _columns(names)):
            key, label = (names.index(name) for name in found)
            continue
        if len(row) <= max(key, label):
            raise SourceError(f"labels {path}, line {number}: expected a file and its label, got {','.join(row)!r}")
        yield row[key].removeprefix("./"), row[label]


def _jsonl(path: Path, content: io.TextIOBase) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(content, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        found = _columns(list(row)) if isinstance(row, dict) else None
        if not found:
            raise SourceError(
                f'labels {path}, line {number}: expected {{"file": …, "label": …}}, got {line.strip()[:80]!r}'
            )
        yield str(row[found[0]]).removeprefix("./"), str(row[found[1]])


def _columns(names: list[str]) -> tuple[str, str] | None:
    key = next((name for name in _KEYS if name in names), None)
    label = next((name for name in _LABELS if name in names), None)
    return (key, label) if key and label else None
