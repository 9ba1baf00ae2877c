"""Exact search in memory, with NumPy: the ground truth for the other galleries, and a test's quick store."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gallery.errors import BackupError, GalleryNotFoundError
from gallery.types import (
    DEFAULT_PLACEMENT,
    Calibration,
    Entry,
    GallerySpec,
    Hit,
    Placement,
    Query,
    check_codes,
    check_name,
)

_QUERIES_AT_ONCE = 256
# Distances from dot products round at about 1e-3 near 0: this many more candidates are measured again.
_SPARE = 16


class ExactGallery:
    """A gallery in memory that compares a query with every code."""

    def __init__(self, spec: GallerySpec) -> None:
        """Begin empty."""
        self._spec = spec
        self._entries: dict[str, Entry] = {}
        self._table: _Table | None = None

    @property
    def spec(self) -> GallerySpec:
        """What the gallery is."""
        return self._spec

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries, replacing those of the same keys."""
        for entry in entries:
            check_codes(entry.code[None], self._spec.code_size)
        self._entries.update((entry.key, entry) for entry in entries)
        self._table = None

    def search(self, query: Query) -> list[Hit]:
        """Return the nearest entries, nearest first."""
        return self.search_batch([query])[0]

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the hits of each query, in the same order."""
        for query in queries:
            check_codes(query.code[None], self._spec.code_size)
        table = self._table = self._table or _Table(list(self._entries.values()), self._spec.code_size)
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            hits += table.search(queries[start : start + _QUERIES_AT_ONCE])
        return hits

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key; None where there is none."""
        return [self._entries.get(key) for key in keys]

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        """Yield all entries in batches."""
        entries = list(self._entries.values())
        for start in range(0, len(entries), batch_count):
            yield entries[start : start + batch_count]

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries of these keys."""
        for key in keys:
            self._entries.pop(key, None)
        self._table = None

    def count(self) -> int:
        """Count the entries."""
        return len(self._entries)

    def close(self) -> None:
        """Do nothing: memory needs no closing."""


class _Table:
    """The entries as arrays, fixed at one moment."""

    def __init__(self, entries: list[Entry], code_size: int) -> None:
        self.entries = entries
        self.codes = np.array([entry.code for entry in entries], np.float32).reshape(-1, code_size)  # (n, code_size)
        self.squares = np.einsum("ij,ij->i", self.codes, self.codes)  # (n,)
        self.labels = np.array([entry.label for entry in entries], object)
        self.rows = {entry.key: row for row, entry in enumerate(entries)}

    def search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        codes = np.stack([query.code for query in queries])  # (q, code_size)
        # |a - b|² less the query's own |b|², which changes no order
        order = self.squares - 2 * (codes @ self.codes.T)  # (q, n)
        return [self._nearest(query, row) for query, row in zip(queries, order, strict=True)]

    def _nearest(self, query: Query, order: NDArray[np.float32]) -> list[Hit]:
        order[[self.rows[key] for key in query.options.exclude_keys if key in self.rows]] = np.inf
        if query.options.labels:
            order[~np.isin(self.labels, query.options.labels)] = np.inf
        wanted = min(query.options.limit + _SPARE, len(order))
        rows = np.argpartition(order, wanted - 1)[:wanted] if wanted else np.empty(0, np.intp)
        rows = rows[np.isfinite(order[rows])]
        distances = np.linalg.norm(self.codes[rows] - query.code, axis=1)
        if query.options.max_distance is not None:
            near = distances <= query.options.max_distance
            rows, distances = rows[near], distances[near]
        best = np.argsort(distances, kind="stable")[: query.options.limit]
        return [self._hit(rows[i], distances[i], query.options.with_thumbnails) for i in best]

    def _hit(self, row: int, distance: float, with_thumbnail: bool) -> Hit:
        entry = self.entries[row]
        return Hit(entry.key, float(distance), entry.label, entry.thumbnail_png if with_thumbnail else b"")


class ExactBuild:
    """The next version of a gallery in memory."""

    reopen = None
    modified_by_service = False

    def __init__(self, store: "ExactStore", gallery: ExactGallery) -> None:
        """Prepare a build; `publish` makes it the live version."""
        self.gallery = gallery
        self._store = store
        self.local_folder = store.local_folder(gallery.spec.name)

    def index(self) -> None:
        """Do nothing: exact search has no index."""

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        """Make this the live version."""
        return self._store.swap(self.gallery, calibration)

    def close(self) -> None:
        """Do nothing: memory needs no closing."""


class ExactStore:
    """Galleries in this process's memory, gone when it ends."""

    url = "exact:"

    def __init__(self) -> None:
        """Begin empty."""
        self._live: dict[str, ExactGallery] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="lookalike-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def check(self) -> None:
        """Do nothing: memory is always there."""

    def list(self) -> list[GallerySpec]:
        """Return what the galleries are, by name."""
        return [self._live[name].spec for name in sorted(self._live)]

    def spec(self, name: str) -> GallerySpec:
        """Return what the live version of a gallery is."""
        return self.open(name).spec

    def open(self, name: str) -> ExactGallery:
        """Return the live version of a gallery."""
        if name not in self._live:
            raise GalleryNotFoundError(f"no gallery '{check_name(name)}' in {self.url}")
        return self._live[name]

    def build(
        self, spec: GallerySpec, *, rebuild: bool = False, placement: Placement = DEFAULT_PLACEMENT
    ) -> ExactBuild:
        """Begin or extend a gallery."""
        placement.require_default(self.url)
        live = self._live.get(spec.name)
        if live and not rebuild:
            live._spec = live.spec.extended_by(spec)
            return ExactBuild(self, live)
        return ExactBuild(self, ExactGallery(replace(spec, version=live.spec.version + 1 if live else 1)))

    def swap(self, gallery: ExactGallery, calibration: Calibration | None) -> GallerySpec:
        """Make a gallery the live version of its name."""
        gallery._spec = replace(gallery.spec, count=gallery.count(), calibration=calibration)
        self._live[gallery.spec.name] = gallery
        return gallery.spec

    def local_folder(self, name: str) -> Path:
        """Return a folder that goes with this process."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def modified_by_service(self, name: str) -> bool:
        """Tell whether a service has changed the live version."""
        return self.open(name).spec.count != self.open(name).count()

    def differences(self, name: str) -> Sequence[str]:
        """Do nothing: memory has no files."""
        return []

    def clean(self, name: str) -> Sequence[int]:
        """Do nothing: no version outlives its successor."""
        return []

    def backup(self, name: str, file: Path) -> GallerySpec:
        """Refuse: there are no files."""
        raise BackupError(f"gallery '{name}' is in memory and has no files to keep: load it into --store edge:DIR")

    def restore(self, file: Path, name: str = "") -> GallerySpec:
        """Refuse: memory holds no files."""
        raise BackupError(f"backup {file}: memory can't take its files: restore it into --store edge:DIR")

    def drop(self, name: str) -> None:
        """Remove a gallery."""
        self.open(name)
        del self._live[name]
