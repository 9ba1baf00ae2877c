"""Exact search in memory, with NumPy: the ground truth for the other galleries, and a quick store for tests."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gallery.base import say_nothing
from gallery.errors import BackupError, GalleryNotFoundError
from gallery.spec import DEFAULT_PLACEMENT, Calibration, GallerySpec, Placement, check_name
from gallery.types import MAX_DISTANCE, Entry, Hit, Query, check_comparable

# Number of queries per matrix of distances. For 60,000 entries, this float32 matrix takes 61 MB.
_QUERY_BATCH = 256
# Number of candidates, beyond the limit, whose distances are computed a second time. The first distances come from dot
# products and have rounding errors of about 1e-3 near 0, so the nearest entries may be slightly out of order.
_SPARE = 16


class ExactGallery:
    """A gallery in memory that compares a query with every code."""

    def __init__(self, spec: GallerySpec, contents: "_Contents | None" = None) -> None:
        """Begin with the contents of an existing version, or empty if `contents` is None."""
        self._spec = spec
        self._contents = contents or _Contents(spec.code_size)

    @property
    def spec(self) -> GallerySpec:
        """The description of the version."""
        return self._spec

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries, replacing those with the same keys."""
        for entry in entries:
            check_comparable(entry.code[None], self._spec.code_size)
        self._contents.upsert(entries)

    def search(self, query: Query) -> list[Hit]:
        """Return the nearest entries, nearest first."""
        return self.search_batch([query])[0]

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the hits of each query, in the order of the queries."""
        for query in queries:
            check_comparable(query.code[None], self._spec.code_size)
        table = self._contents.table()
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), _QUERY_BATCH):
            hits += table.search(queries[start : start + _QUERY_BATCH])
        return hits

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key; None for a key without an entry."""
        return [self._contents.entries.get(key) for key in keys]

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        """Yield all entries in batches."""
        entries = list(self._contents.entries.values())
        for start in range(0, len(entries), batch_count):
            yield entries[start : start + batch_count]

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries with these keys."""
        self._contents.delete(keys)

    def count(self) -> int:
        """Return the number of entries."""
        return len(self._contents.entries)

    def close(self) -> None:
        """Do nothing: memory needs no closing."""


class _LiveGallery(ExactGallery):
    """A live version, as `ExactStore.open` returns it. Changes set `modified_by_service`."""

    def upsert(self, entries: Sequence[Entry]) -> None:
        self._contents.modified_by_service = True
        super().upsert(entries)

    def delete(self, keys: Sequence[str]) -> None:
        self._contents.modified_by_service = True
        super().delete(keys)


class _Contents:
    """The entries of one version of a gallery. All `ExactGallery` objects for this version share them."""

    def __init__(self, code_size: int) -> None:
        self.entries: dict[str, Entry] = {}
        self.modified_by_service = False
        self._code_size = code_size
        self._table: _Table | None = None

    def upsert(self, entries: Sequence[Entry]) -> None:
        self.entries.update((entry.key, entry) for entry in entries)
        self._table = None

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.entries.pop(key, None)
        self._table = None

    def table(self) -> "_Table":
        table = self._table = self._table or _Table(list(self.entries.values()), self._code_size)
        return table


class _Table:
    """A snapshot of the entries as arrays, for searches."""

    def __init__(self, entries: list[Entry], code_size: int) -> None:
        self.entries = entries
        self.codes = np.array([entry.code for entry in entries], np.float32).reshape(-1, code_size)  # (n, code_size)
        self.squares = np.einsum("ij,ij->i", self.codes, self.codes)  # (n,)
        self.labels = np.array([entry.label for entry in entries], object)
        self.rows = {entry.key: row for row, entry in enumerate(entries)}

    def search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        codes = np.stack([query.code for query in queries])  # (q, code_size)
        # |a - b|² without the query's |b|², which is the same for all entries and so does not change their order
        order = self.squares - 2 * (codes @ self.codes.T)  # (q, n)
        return [self._nearest(query, row) for query, row in zip(queries, order, strict=True)]

    def _nearest(self, query: Query, order: NDArray[np.float32]) -> list[Hit]:
        order[[self.rows[key] for key in query.options.exclude_keys if key in self.rows]] = np.inf
        if query.options.labels:
            order[~np.isin(self.labels, query.options.labels)] = np.inf
        candidates = min(query.options.limit + _SPARE, len(order))
        rows = np.argpartition(order, candidates - 1)[:candidates] if candidates else np.empty(0, np.intp)
        rows = rows[np.isfinite(order[rows])]
        distances = np.linalg.norm(self.codes[rows] - query.code, axis=1)
        if query.options.max_distance is not None:
            near = distances <= min(query.options.max_distance, MAX_DISTANCE)
            rows, distances = rows[near], distances[near]
        best = np.argsort(distances, kind="stable")[: query.options.limit]
        return [self._hit(rows[i], distances[i], query) for i in best]

    def _hit(self, row: int, distance: float, query: Query) -> Hit:
        entry = self.entries[row]
        thumbnail = entry.thumbnail_png if query.options.with_thumbnails else b""
        return Hit(entry.key, float(distance), entry.label, thumbnail, code=entry.code if query.with_codes else None)


class ExactBuild:
    """A gallery version that is being built in memory."""

    reopen = None

    def __init__(self, store: "ExactStore", spec: GallerySpec, contents: _Contents) -> None:
        """Prepare the version; `publish` makes it the live one."""
        self.gallery = ExactGallery(spec, contents)
        self.local_folder = store.version_folder(spec)
        self._contents = contents
        self._store = store

    @property
    def modified_by_service(self) -> bool:
        """True if a service has modified the version since it was published."""
        return self._contents.modified_by_service

    def check_space(self, new_count: int) -> None:
        """Do nothing: memory is not a disk."""

    def index(self) -> None:
        """Do nothing: exact search has no index."""

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        """Make this the live version."""
        spec = replace(self.gallery.spec, count=self.gallery.count(), calibration=calibration)
        self._store.publish(spec, self._contents)
        return spec

    def close(self) -> None:
        """Do nothing: memory needs no closing."""


class ExactStore:
    """Galleries in this process's memory. They are lost when the process ends."""

    url = "exact:"

    def __init__(self) -> None:
        """Begin empty."""
        self._live: dict[str, tuple[GallerySpec, _Contents]] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="lookalike-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def check(self) -> None:
        """Do nothing: memory always answers."""

    def names(self) -> Sequence[str]:
        """Return the names of all galleries, sorted."""
        return sorted(self._live)

    def list(self) -> list[GallerySpec]:
        """Return the descriptions of all galleries, sorted by name."""
        return [self._live[name][0] for name in self.names()]

    def spec(self, name: str) -> GallerySpec:
        """Return the description of a gallery."""
        return self._find(name)[0]

    def live_version(self, name: str) -> int:
        """Return the number of a gallery's live version."""
        return self.spec(name).version

    def open(self, name: str) -> ExactGallery:
        """Open a gallery."""
        return _LiveGallery(*self._find(name))

    def build(
        self,
        spec: GallerySpec,
        *,
        rebuild: bool = False,
        placement: Placement = DEFAULT_PLACEMENT,
        memory_bytes: int | None = None,
        say: Callable[[str], None] = say_nothing,
    ) -> ExactBuild:
        """Begin a gallery or its next version, or extend the live one."""
        placement.require_default(self.url)
        live = self._live.get(spec.name)
        if live and not rebuild:
            live_spec, contents = live
            return ExactBuild(self, live_spec.extended_by(spec), contents)
        version = live[0].version + 1 if live else 1
        return ExactBuild(self, replace(spec, version=version), _Contents(spec.code_size))

    def publish(self, spec: GallerySpec, contents: _Contents) -> None:
        """Make a version the live version of the gallery that `spec` names."""
        contents.modified_by_service = False
        self._live[spec.name] = (spec, contents)

    def version_folder(self, spec: GallerySpec) -> Path:
        """Return a version's folder for files such as its ledger. It is removed when this process ends."""
        folder = self._folder / spec.name / f"v{spec.version}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def local_folder(self, name: str) -> Path:
        """Return the live version's folder for files such as its ledger."""
        return self.version_folder(self.spec(name))

    def modified_by_service(self, name: str) -> bool:
        """Return whether a service has modified the gallery since it was published."""
        return self._find(name)[1].modified_by_service

    def differences(self, name: str) -> Sequence[str]:
        """Return no differences: a gallery in memory has no files."""
        self._find(name)
        return []

    def clean(self, name: str) -> Sequence[int]:
        """Do nothing, because publishing a version discards the previous one."""
        self._find(name)
        return []

    def backup(self, name: str, file: Path) -> GallerySpec:
        """Reject every call, because a gallery in memory has no files to back up."""
        raise BackupError(f"gallery '{name}' is in memory and has no files to back up: load it into --store edge:DIR")

    def restore(self, file: Path, name: str = "") -> GallerySpec:
        """Reject every call, because a backup consists of files."""
        raise BackupError("can't be restored into memory: restore it into --store edge:DIR", place=f"backup {file}")

    def drop(self, name: str) -> None:
        """Remove a gallery."""
        self._find(name)
        del self._live[name]

    def _find(self, name: str) -> tuple[GallerySpec, _Contents]:
        if name not in self._live:
            names = ", ".join(sorted(self._live))
            hint = f"there are: {names}" if names else "build one with `ingest load mnist`"
            raise GalleryNotFoundError(f"no gallery '{check_name(name)}': {hint}", place=f"store {self.url}")
        return self._live[name]
