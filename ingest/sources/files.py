"""The base of sources whose images are files in a tree: folders, tars and zips."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, ClassVar

from ingest.sources.base import Item, Notes, Options, limited_name
from ingest.sources.clutter import Kind, kind_of
from ingest.sources.label_lines import label_in
from ingest.sources.names import text_of
from ingest.sources.streams import reason_of

# Maximum bytes read from a label file beside an image. Such a file has a number or a few fields.
_MAX_LABEL_BYTES = 1024 * 1024
# Maximum bytes of images that wait in memory for their common label file, such as `1.left.jpg` and `1.right.jpg` for
# `1.cls`. Beyond this, they are yielded without a label.
_MAX_WAITING_BYTES = 32 * 1024 * 1024

_ALONE = "label file (no image of its name next to it)"
REPLACED = "file (replaced by a later file of the same name)"
"""Reason why a file of an archive is left out."""
LINKED_FOLDER = "linked folder"
"""Reason why a link in an archive is left out. In a folder, such a link is followed; see `FolderSource`."""
DANGLING = "expected a file, got a link to {!r}, which the archive does not have"
"""`File.problem` of a link in an archive whose target is missing."""


@dataclass(frozen=True, slots=True)
class File:
    """A file in a tree.

    Attributes:
        name: Path in the tree, with slashes.
        size: Size in bytes.
        open: Opens the file. Call this before advancing to the next file.
        problem: The reason why the file can't be opened; "" if it can be.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    problem: str = ""


class FilesSource:
    """The images in a tree of files, which is a folder, a tar or a zip.

    A key is the tree's name and the path in it: `photos/cat.jpg`.

    Every file counts as an image unless its name says otherwise; see `kind_of`. A file `1.cls` or `1.json` beside
    `1.jpg` contains the label of `1.jpg`, as in WebDataset's shards.
    """

    file_errors: ClassVar[tuple[type[Exception], ...]] = ()
    """Errors after which the other files can still be read. All other errors are raised."""

    def __init__(self, path: Path, stem: str, options: Options) -> None:
        """Set the attributes that sources of folders, tars and zips share.

        Args:
            path: The folder or archive.
            stem: The first part of all keys, such as `photos` in `photos/cat.jpg`.
            options: How to read the source.
        """
        self.name = limited_name(text_of(path.name), options.limit)
        self.place = text_of(path.resolve())
        self.notes: list[str] = []
        self.count = options.limit
        self._stem = stem
        self._options = options

    def files(self, notes: Notes) -> Iterator[File]:
        """Yield the files in the same order each time. Hidden and excluded files may be among them."""
        raise NotImplementedError

    def is_image(self, name: str) -> bool:
        """Return whether a path in the tree counts as an image, judging by its name."""
        return kind_of(name, self._options.exclude) is Kind.IMAGE

    def __iter__(self) -> Iterator[Item]:
        """Read the images."""
        notes = Notes()
        yield from islice(_label_by_neighbours(self._read(notes), notes), self._options.limit)
        self.notes = notes.lines()

    def _read(self, notes: Notes) -> Iterator[tuple[str, Item | str]]:
        """Yield the name of each image with the image, and the name of each label file with the label."""
        for file in self.files(notes):
            kind = kind_of(file.name, self._options.exclude)
            if kind is Kind.IMAGE:
                yield file.name, self._item(file)
                continue
            if kind is Kind.LABEL and (label := self._label(file)):
                yield file.name, label
            elif kind in (Kind.LABEL, Kind.OTHER):
                notes.add("file (not an image format)", file.name)

    def _item(self, file: File) -> Item:
        key = text_of(f"{self._stem}/{file.name.removeprefix('./')}")
        if file.problem:
            return Item(key, b"", problem=file.problem)
        if file.size > self._options.max_image_bytes:
            return Item(key, b"", problem=self._options.too_large(file.size))
        try:
            with file.open() as stream:
                content = stream.read(file.size + 1)
        except self.file_errors as error:
            return Item(key, b"", problem=f"can't be read: {reason_of(error)}")
        if len(content) > file.size:
            return Item(key, b"", problem="can't be read: it grew while it was read")
        return Item(key, content, large=self._options.large_images)

    def _label(self, file: File) -> str:
        if file.problem or file.size > _MAX_LABEL_BYTES:
            return ""
        try:
            with file.open() as stream:
                text = stream.read(_MAX_LABEL_BYTES).decode("utf-8-sig", "replace").strip()
        except self.file_errors:
            return ""
        if file.name.lower().endswith(".cls"):
            return text
        try:
            return label_in(json.loads(text))
        except (ValueError, RecursionError):
            return ""


def _label_by_neighbours(read: Iterator[tuple[str, Item | str]], notes: Notes) -> Iterator[Item]:
    """Label each image by the label file whose name is the same up to the first dot.

    An image and its label file must follow each other, as they do in folders and zips, which are read in sorted order,
    and in WebDataset's shards. A label file that follows no image is noted.
    """
    sample, label, waiting, alone = "", "", list[Item](), ""
    for name, content in read:
        folder, slash, file_name = name.rpartition("/")
        this_sample = folder + slash + file_name.partition(".")[0]
        if this_sample != sample or sum(item.size for item in waiting) > _MAX_WAITING_BYTES:
            yield from _labelled(waiting, label)
            waiting = []
            if this_sample != sample:
                if alone:
                    notes.add(_ALONE, alone)
                sample, label, alone = this_sample, "", ""
        if isinstance(content, str):
            label, alone = content, "" if waiting else name
        else:
            waiting.append(content)
            alone = ""
    yield from _labelled(waiting, label)
    if alone:
        notes.add(_ALONE, alone)


def _labelled(items: list[Item], label: str) -> Iterator[Item]:
    for item in items:
        yield replace(item, label=label) if label else item
