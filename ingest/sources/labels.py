"""Labels from the names of folders or from a file, instead of the labels of the source."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ingest.errors import SourceError
from ingest.sources.base import Item, Source
from ingest.sources.label_lines import label_lines
from ingest.sources.names import comparable, text_of


class Labelled:
    """A source whose images get labels by their keys. Its notes include the number of labelled images.

    If the labels are from a file that names none of the images, reading the source raises SourceError at the end.
    """

    def __init__(self, source: Source, label_of: "Callable[[str], str] | LabelFile") -> None:
        """Add labels to a source.

        Args:
            source: The images.
            label_of: Returns the label of a key; "" for no label.
        """
        self._source = source
        self._label_of = label_of
        self._notes: list[str] = []
        self.name = source.name
        self.place = source.place

    @property
    def count(self) -> int | None:
        """Number of images, as the source reports it."""
        return self._source.count

    @property
    def notes(self) -> list[str]:
        """The notes of the source, and a line with the number of images that have a label."""
        return [*self._source.notes, *self._notes]

    def __iter__(self) -> Iterator[Item]:
        """Read the images and label them."""
        count, labelled, without, key = 0, 0, "", ""
        for item in self._source:
            key, label = item.key, self._label_of(item.key)
            count += 1
            labelled += bool(label)
            if not label and not without:
                without = item.key
            yield replace(item, label=label)
        first = f"; first without: {without!r}" if without else ""
        self._notes = [f"labels for {labelled:,} of {count:,} images{first}"]
        if isinstance(self._label_of, LabelFile):
            if count and not labelled:
                raise SourceError(
                    f"labels {text_of(self._label_of.path.name)}: expected paths in {self.name} such as "
                    f"{key.partition('/')[2]!r}, got no line that names an image there"
                )
            self._notes += self._label_of.notes(labelled)


def label_from_folder(key: str) -> str:
    """Return the name of an image's folder below the source, such as `dog` for `photos/dog/rex.jpg`."""
    parts = PurePosixPath(comparable(key)).parts
    return parts[-2] if len(parts) > 2 else ""


class LabelFile:
    """The labels in a CSV or JSONL file, by path in the source or by key. They are kept on disk, not in memory."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Args:
            path: A file that `label_lines` reads.

        Raises:
            SourceError: The file can't be read, has no labels, or a line lacks the file or the label.
        """
        self.path = path
        self._labels = sqlite3.connect("", check_same_thread=False)  # a temporary file, deleted with the connection
        self._labels.execute("CREATE TABLE labels (key TEXT PRIMARY KEY, label TEXT) WITHOUT ROWID")
        lines = label_lines(path)
        self._labels.executemany(
            "INSERT OR REPLACE INTO labels VALUES (?, ?)", ((comparable(name), label) for name, label in lines)
        )
        self._count = self._labels.execute("SELECT COUNT(*) FROM labels WHERE label != ''").fetchone()[0]
        if not self._count:
            raise SourceError(f"labels {text_of(path)}: expected a file and its label on each line, got no line")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the path; another process reads the file again."""
        return LabelFile, (self.path,)

    def __call__(self, key: str) -> str:
        """Return the label of a key; "" for no label."""
        names = (comparable(key), comparable(key.partition("/")[2]))
        row = self._labels.execute("SELECT label FROM labels WHERE key IN (?, ?)", names).fetchone()
        return row[0] if row else ""

    def notes(self, labelled: int) -> list[str]:
        """Return a line about labels whose image was not read, if there are any.

        Args:
            labelled: The number of labelled images.
        """
        unused = self._count - labelled
        name = text_of(self.path.name)
        return (
            [f"left out {unused:,} of {self._count:,} labels of {name}, which name no image that was read"]
            if unused > 0
            else []
        )
