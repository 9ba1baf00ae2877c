"""Labels for sources without their own: from the names of folders, or from a file."""

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

    Reading it raises SourceError at the end if a file of labels names no image.
    """

    def __init__(self, source: Source, label_of: Callable[[str], str], label_file: str = "") -> None:
        """Add labels to a source.

        Args:
            source: The images.
            label_of: Returns the label of a key; "" for no label.
            label_file: Name of the file with the labels. If it is among the images, it is left out.
        """
        self._source = source
        self._label_of = label_of
        self._label_file = label_file
        self.name = source.name
        self.place = source.place

    @property
    def count(self) -> int | None:
        """Number of images, as the source reports it."""
        return self._source.count

    def __iter__(self) -> Iterator[Item]:
        """Read the images and label them."""
        any_labelled, key = False, ""
        for item in self._source:
            if item.key.rpartition("/")[2] != self._label_file:
                key, label = item.key, self._label_of(item.key)
                any_labelled |= bool(label)
                yield replace(item, label=label)
        if self._label_file and key and not any_labelled:
            raise SourceError(
                f"labels {self._label_file}: expected paths in {self.name} such as {key.partition('/')[2]!r}, got no "
                "line that names an image there"
            )


def label_from_folder(key: str) -> str:
    """Return the name of an image's folder below the source, such as `dog` for `photos/dog/rex.jpg`."""
    parts = PurePosixPath(key).parts
    return parts[-2] if len(parts) > 2 else ""


class LabelFile:
    """The labels of a CSV or JSONL file, by path in the source or by key. Kept on disk, as there may be millions."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Args:
            path: A .csv whose header has a column such as `file` or `key` and one such as `label`; or a .csv without a
                header, with the columns in this order; or a .jsonl of objects with these names.

        Raises:
            SourceError: The file can't be read, has no labels, or a line lacks the file or the label.
        """
        self._path = path
        self._labels = sqlite3.connect("", check_same_thread=False)  # a temporary file, deleted with the connection
        self._labels.execute("CREATE TABLE labels (key TEXT PRIMARY KEY, label TEXT) WITHOUT ROWID")
        try:
            content = path.open(encoding="utf-8-sig", newline="")
            with content:
                rows = _jsonl(path, content) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv(path, content)
                self._labels.executemany("INSERT OR REPLACE INTO labels VALUES (?, ?)", rows)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"labels {path}: expected a CSV or JSONL file in UTF-8: {error}") from error
        if not self._labels.execute("SELECT 1 FROM labels LIMIT 1").fetchone():
            raise SourceError(f"labels {path}: expected a file and its label on each line, got no line")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path; another process reads the file again."""
        return LabelFile, (self._path,)

    def __call__(self, key: str) -> str:
        """Return the label of a key; "" for no label."""
        names = (key, key.partition("/")[2])
        row = self._labels.execute("SELECT label FROM labels WHERE key IN (?, ?)", names).fetchone()
        return row[0] if row else ""


def _csv(path: Path, content: io.TextIOBase) -> Iterator[tuple[str, str]]:
    key, label = 0, 1
    for number, row in enumerate(csv.reader(content), start=1):
        if not row:
            continue
        names = [cell.strip().lower() for cell in row]
        if number == 1 and (columns := _columns(names)):
            key, label = (names.index(name) for name in columns)
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
        columns = _columns(list(row)) if isinstance(row, dict) else None
        if not columns:
            raise SourceError(
                f'labels {path}, line {number}: expected {{"file": …, "label": …}}, got {line.strip()[:80]!r}'
            )
        yield str(row[columns[0]]).removeprefix("./"), str(row[columns[1]])


def _columns(names: list[str]) -> tuple[str, str] | None:
    """Return which names are those of the file and of the label; None if one is missing."""
    key = next((name for name in _KEYS if name in names), None)
    label = next((name for name in _LABELS if name in names), None)
    return (key, label) if key and label else None
