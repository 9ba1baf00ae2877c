"""Several archives or Parquet files of one dataset, as one source: a folder of shards, or `shard-{000..009}.tar`."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ingest.errors import SourceError
from ingest.sources.base import Item, Options, Source, limited_name
from ingest.sources.clutter import Kind, kind_of
from ingest.sources.names import is_archive, text_of
from ingest.sources.parquet import is_parquet

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
Open = Callable[[Path, Options], Source]


class ShardsSource:
    """The images of all shards, one after the other.

    A key is the folder's name and the key in the shard, such as `birds/00000/000000007.jpg`.
    """

    def __init__(self, path: Path, shards: Sequence[Path], open_shard: Open, options: Options) -> None:
        """Open each shard once, to count the images.

        Args:
            path: The folder, or a path with braces.
            shards: Paths of the shards.
            open_shard: Opens one shard. Picklable.
            options: How to read the source.

        Raises:
            SourceError: A shard is missing, can't be read or is damaged.
        """
        self.name = limited_name(text_of(path.name), options.limit)
        self.place = text_of(path.resolve())
        self.notes: list[str] = []
        self._stem = text_of(shards[0].resolve().parent.name)
        self._shards = [shard for shard in shards if kind_of(shard.name, options.exclude) is not Kind.EXCLUDED]
        self._open = open_shard
        self._options = options
        self.count = 0
        for shard in self._shards:
            if options.limit is not None and self.count >= options.limit:
                break
            if not shard.exists():
                raise SourceError(f"{text_of(shard)}: expected a shard, got no such file")
            self.count += open_shard(shard, replace(options, limit=self._rest(self.count))).count or 0

    def __iter__(self) -> Iterator[Item]:
        """Read the images."""
        count, notes = 0, dict[str, Sequence[str]]()
        for shard in self._shards:
            source = self._open(shard, replace(self._options, limit=self._rest(count)))
            for item in islice(source, self._rest(count)):
                count += 1
                yield replace(item, key=f"{self._stem}/{item.key}")
            if source.notes:
                notes[text_of(shard.name)] = source.notes
            if count == self._options.limit:
                break
        self.notes = [f"{name}: {line}" for name, lines in islice(notes.items(), 1) for line in lines]
        if len(notes) > 1:
            self.notes.append(f"and similar notes for {len(notes) - 1:,} other shards")

    def _rest(self, count: int) -> int | None:
        return None if self._options.limit is None else self._options.limit - count


def shards_of(path: Path) -> list[Path]:
    """Return the shards at a path: a folder of shards, or a path with numbers in braces; [] for any other path."""
    if match := _BRACES.search(path.name):
        if path.exists():
            return []
        first, last = match.groups()
        numbers = (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
        return [path.with_name(path.name[: match.start()] + number + path.name[match.end() :]) for number in numbers]
    return _in_folder(path) if path.is_dir() else []


def _in_folder(folder: Path) -> list[Path]:
    """Return a folder's archives, or its Parquet files if it has no archives; [] if it has images or subfolders."""
    archives, tables = list[Path](), list[Path]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path, kind = folder / entry.name, kind_of(entry.name)
                if is_archive(path):
                    archives.append(path)
                elif is_parquet(path):
                    tables.append(path)
                elif kind is not Kind.CLUTTER and (kind is Kind.IMAGE or entry.is_dir()):
                    return []
    except OSError:
        return []  # the folder is then read as a folder of images, which reports the error
    return sorted(archives or tables)  # Parquet files beside tars have captions: img2dataset writes one for each tar
