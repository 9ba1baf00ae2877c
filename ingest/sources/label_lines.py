"""Read files of labels: JSONL, or CSV with any of several separators."""

import codecs
import csv
import io
import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ingest.errors import SourceError
from ingest.sources.names import text_of

_KEYS = ("key", "file_name", "file", "filename", "filepath", "path", "name", "image")
LABEL_COLUMNS = ("label", "class", "category", "tag", "cls")
"""Names of the label column, in the order in which they are tried."""
# Separators of the columns, in the order in which they are tried on the first lines of a file.
_SEPARATORS = ",\t; "
_TRIED_LINES = 20


def label_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Read the names and the labels of images, "" for no label.

    Args:
        path: A .csv or a .jsonl file. The header of a CSV file names a column such as `file` or `key`, and a column
            such as `label`. Without a header, the file comes first and the label second. Columns are separated by
            commas, tabs, semicolons or blanks. Each line of a JSONL file is an object with the same names. The encoding
            is UTF-8, UTF-16 with a byte order mark, or otherwise Windows-1252.

    Raises:
        SourceError: The file can't be read, or a line lacks the file or the label.
    """
    try:
        with path.open(encoding=_encoding(path), newline="") as text:
            is_jsonl = path.suffix.lower() in (".jsonl", ".ndjson")
            yield from _jsonl(path, text) if is_jsonl else _csv(path, text)
    except (OSError, UnicodeError, csv.Error) as error:
        raise SourceError(f"labels {text_of(path)}: expected a CSV or JSONL file of text: {error}") from error


def label_in(fields: Any) -> str:
    """Return the label in a JSON object, as text; "" if it is missing, or is a list or an object."""
    value = next((fields[name] for name in LABEL_COLUMNS if name in fields), None) if isinstance(fields, dict) else None
    return "" if value is None or isinstance(value, dict | list) else str(value).strip()


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
    try:
        with path.open(encoding="utf-8") as text:
            while text.read(1024 * 1024):
                pass
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def _csv(path: Path, text: io.TextIOBase) -> Iterator[tuple[str, str]]:
    first = list(islice(text, _TRIED_LINES))
    separator = next((separator for separator in _SEPARATORS if _fits(first, separator)), ",")
    rows = csv.reader(chain(first, text), delimiter=separator, skipinitialspace=True)
    key, label = 0, 1
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        names = [cell.strip().lower() for cell in row]
        if number == 1 and (columns := _columns(names)):
            key, label = (names.index(name) for name in columns)
            continue
        if len(row) <= max(key, label):
            raise SourceError(
                f"labels {text_of(path)}, line {number}: expected a file and its label, got {separator.join(row)!r}"
            )
        yield row[key], row[label].strip()


def _fits(lines: list[str], separator: str) -> bool:
    """Return whether a separator fits: the header names the columns, or all lines have the same two or more columns."""
    rows = [row for row in csv.reader(lines, delimiter=separator, skipinitialspace=True) if row]
    if not rows or _columns([cell.strip().lower() for cell in rows[0]]):
        return True
    return len(rows[0]) > 1 and len({len(row) for row in rows}) == 1


def _jsonl(path: Path, text: io.TextIOBase) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        columns = _columns(list(row)) if isinstance(row, dict) else None
        if not columns:
            raise SourceError(
                f'labels {text_of(path)}, line {number}: expected {{"file": …, "label": …}}, got {line.strip()[:80]!r}'
            )
        yield str(row[columns[0]]), label_in(row)


def _columns(names: list[str]) -> tuple[str, str] | None:
    """Return the names of the file column and of the label column; None if either is missing."""
    key = next((name for name in _KEYS if name in names), None)
    label = next((name for name in LABEL_COLUMNS if name in names), None)
    return (key, label) if key and label else None
