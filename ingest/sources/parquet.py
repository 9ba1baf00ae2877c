"""Parquet files with a column of images, as in Hugging Face datasets. They need pyarrow, from the extra `parquet`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ingest.errors import SourceError
from ingest.sources.base import Item, Options, limited_name
from ingest.sources.label_lines import LABEL_COLUMNS
from ingest.sources.names import stem_of, text_of
from ingest.sources.streams import reading, require

# Maximum rows that are in memory at the same time. A row may have an image of several megabytes.
_BATCH_ROWS = 16


class ParquetSource:
    """The images in a Parquet file, each with the label of its row. A key is the file's name and the row: `train/7`.

    The column contains binary image files, or structs of `bytes` and `path`. The label comes from a column such as
    `label`. If the file names the classes, the label is the class's name.
    """

    def __init__(self, path: Path, options: Options) -> None:
        """Read the file's schema.

        Args:
            path: The file.
            options: How to read the source.

        Raises:
            SourceError: pyarrow is not installed, or the file is damaged or has no column of images.
        """
        self.name = limited_name(text_of(path.name), options.limit)
        self.place = text_of(path.resolve())
        self.notes: list[str] = []
        self._path = path
        self._options = options
        with self._open() as file:
            total = file.metadata.num_rows
            schema = file.schema_arrow
        self.count = total if options.limit is None else min(options.limit, total)
        columns = [name for name in schema.names if _has_images(schema.field(name).type)]
        if not columns:
            raise SourceError(
                f"{text_of(path)}: expected a column of image files, as bytes, got {', '.join(schema.names)}"
            )
        self._image = next((name for name in ("image", "img", "jpg", "png") if name in columns), columns[0])
        self._label = next((name for name in LABEL_COLUMNS if name in schema.names), "")
        self._classes = _classes(schema.metadata or {}, self._label)

    def __iter__(self) -> Iterator[Item]:
        """Read the images in the order of the rows."""
        number = 0
        with self._open() as file:
            columns = [self._image, *filter(None, [self._label])]
            batches = file.iter_batches(_BATCH_ROWS, columns=columns)
            while (batch := self._next(batches)) is not None:
                for row in batch.to_pylist():
                    if number == self.count:
                        return
                    yield self._item(number, row)
                    number += 1

    def _item(self, number: int, row: Mapping[str, Any]) -> Item:
        key = f"{stem_of(self._path)}/{number}"
        label = self._name_of(row[self._label]) if self._label else None
        image = row[self._image]
        content = image.get("bytes") if isinstance(image, dict) else image
        if content is None:
            return Item(key, b"", label, "expected the bytes of an image file in the row, got none")
        if len(content) > self._options.max_image_bytes:
            return Item(key, b"", label, self._options.too_large(len(content)))
        return Item(key, content, label, large=self._options.large_images)

    def _name_of(self, value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, int) and 0 <= value < len(self._classes):
            return self._classes[value]
        return str(value)

    def _open(self) -> Any:
        module = require("pyarrow.parquet", "parquet", text_of(self._path.name))
        with reading(self._path, "a Parquet file"):
            try:
                return module.ParquetFile(self._path, pre_buffer=False)
            except ValueError as error:  # the base of pyarrow's own errors
                raise OSError(str(error)) from error

    def _next(self, batches: Iterator[Any]) -> Any:
        with reading(self._path, "a complete Parquet file"):
            try:
                return next(batches, None)
            except ValueError as error:
                raise OSError(str(error)) from error


def is_parquet(path: Path) -> bool:
    """Return whether a file is a Parquet file, by its name."""
    return path.suffix.lower() == ".parquet"


def _has_images(column: Any) -> bool:
    types = require("pyarrow.types", "parquet", "Parquet")
    if types.is_struct(column):
        return any(field.name == "bytes" and _has_images(field.type) for field in column)
    return bool(types.is_binary(column) or types.is_large_binary(column))


def _classes(metadata: Mapping[bytes, bytes], label: str) -> list[str]:
    """Return the names of the classes in metadata that Hugging Face's `datasets` writes; [] if they are missing."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
