"""A gallery in an embedded Qdrant Edge shard. The only file that imports `qdrant_edge`.

Edge takes NaN without a word and raises a bare `Exception` for everything, so codes are checked before and errors
translated after.
"""

import base64
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qe

from gallery.errors import StoreDamagedError, StoreError, StoreFullError, StoreLockedError
from gallery.types import Entry, GallerySpec, Hit, Query, check_codes

_KEYS = uuid.uuid5(uuid.NAMESPACE_URL, "lookalike/key")
# One search thread: at this size handing work to Edge's own threads takes longer than the work.
_SEARCH_THREADS = 1
_HNSW_M = 16
_HNSW_EF_CONSTRUCT = 100
# How many candidates a search keeps, at least: on 60,000 digits this finds 0.9996 of the exact five nearest.
_HNSW_EF = 64
# Bytes that must be free on the disk before anything is written: two pieces of Edge's log.
_HEADROOM = 64 * 1024 * 1024


def point_id(key: str) -> str:
    """Return the UUID (version 5) that a key's point always has, so that storing it again replaces it."""
    return str(uuid.uuid5(_KEYS, key))


class EdgeGallery:
    """A gallery in one shard folder. One process at a time may have it open."""

    def __init__(self, folder: Path, spec: GallerySpec) -> None:
        """Open the shard, or make one where the folder holds none.

        Raises:
            StoreLockedError: Another process has the shard open.
            StoreDamagedError: The folder holds something that Edge can't read.
        """
        self._spec = spec
        with _translated(folder):
            if (folder / "edge_config.json").exists():
                self._shard = qe.EdgeShard.load(str(folder))
            else:
                self._shard = qe.EdgeShard.create(str(folder), _config(spec.code_size))
                keyword = qe.PayloadSchemaType.Keyword
                self._shard.update(qe.UpdateOperation.create_field_index("label", keyword))
        self._folder = folder
        self._closed = False

    @property
    def spec(self) -> GallerySpec:
        """What the gallery is."""
        return self._spec

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries; Edge's write-ahead log has them on return."""
        if not entries:
            return
        codes = check_codes(np.stack([entry.code for entry in entries]), self._spec.code_size)
        points = [
            qe.Point(point_id(entry.key), code.tolist(), _payload(entry))
            for entry, code in zip(entries, codes, strict=True)
        ]
        self._check_space(_HEADROOM)
        with _translated(self._folder):
            self._shard.update(qe.UpdateOperation.upsert_points(points))

    def search(self, query: Query) -> list[Hit]:
        """Return the nearest entries, nearest first."""
        return self.search_batch([query])[0]

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the hits of each query, in the same order."""
        requests = [self._request(query) for query in queries]
        with _translated(self._folder):
            if len(requests) == 1:
                found = [self._shard.query(requests[0])]
            else:
                found = self._shard.query_batch(qe.QueryBatchRequest(requests))
        return [[_hit(point) for point in points] for points in found]

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key; None where there is none."""
        ids: list[qe.PointId] = [point_id(key) for key in keys]
        with _translated(self._folder):
            records = self._shard.retrieve(ids, with_payload=True, with_vector=True)
        entries = {entry.key: entry for entry in map(_entry, records)}
        return [entries.get(key) for key in keys]

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        """Yield all entries in batches."""
        offset: qe.PointId | None = None
        while True:
            request = qe.ScrollRequest(offset=offset, limit=batch_count, with_payload=True, with_vector=True)
            with _translated(self._folder):
                records, offset = self._shard.scroll(request)
            yield [_entry(record) for record in records]
            if offset is None:
                return

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries of these keys."""
        ids: list[qe.PointId] = [point_id(key) for key in keys]
        with _translated(self._folder):
            self._shard.update(qe.UpdateOperation.delete_points(ids))

    def count(self) -> int:
        """Count the entries, exactly."""
        with _translated(self._folder):
            return self._shard.count(qe.CountRequest(exact=True))

    def index(self) -> None:
        """Build the search index in a process of its own, then open the shard again.

        `EdgeShard.optimize` holds Python's global lock until it ends: here, no progress could be shown meanwhile
        and Ctrl-C would go unheard.

        Raises:
            StoreFullError: The disk has no room for it.
            StoreDamagedError: The index could not be built.
        """
        self._check_space(_HEADROOM + sum(path.stat().st_blocks * 512 for path in self._folder.rglob("*")))
        self._close_shard()
        command = [sys.executable, "-m", "gallery.edge_index", str(self._folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
            self._check_space(_HEADROOM)
            raise StoreDamagedError(f"no index could be built in {self._folder}: {reason}: run the same again")
        with _translated(self._folder):
            self._shard = qe.EdgeShard.load(str(self._folder))
        self._closed = False

    def close(self) -> None:
        """Flush and close the shard."""
        self._close_shard()

    def _check_space(self, needed: int) -> None:
        # Edge maps files that take up their space only when written to: a full disk would kill the process.
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise StoreFullError(
                f"the disk of {self._folder} is full: expected {needed // 2**20:,} MB free, got {free // 2**20:,}: "
                "make space and run the same again"
            )

    def _close_shard(self) -> None:
        if not self._closed:
            self._closed = True
            with _translated(self._folder):
                self._shard.close()

    def _request(self, query: Query) -> qe.QueryRequest:
        code = check_codes(query.code[None], self._spec.code_size)[0]
        fields = ["key", "label", "thumbnail_png"] if query.options.with_thumbnails else ["key", "label"]
        return qe.QueryRequest(
            limit=query.options.limit,
            query=qe.Query.Nearest(code.tolist()),
            filter=_filter(query),
            score_threshold=query.options.max_distance,
            params=qe.SearchParams(exact=query.options.exact, hnsw_ef=max(_HNSW_EF, query.options.limit)),
            with_payload=fields,
        )


def optimise(folder: str) -> None:
    """Build the search index of the shard in this folder, which no process may have open."""
    shard = qe.EdgeShard.load(folder)
    shard.optimize()
    shard.close()


def _config(code_size: int) -> qe.EdgeConfig:
    hnsw = qe.HnswIndexConfig(m=_HNSW_M, ef_construct=_HNSW_EF_CONSTRUCT, full_scan_threshold=10_000)
    vectors = qe.EdgeVectorParams(size=code_size, distance=qe.Distance.Euclid, hnsw_config=hnsw)
    return qe.EdgeConfig(vectors=vectors, max_search_threads=_SEARCH_THREADS)


def _filter(query: Query) -> qe.Filter | None:
    if not (query.options.labels or query.options.exclude_keys):
        return None
    must: list[Any] = []
    if query.options.labels:
        must.append(qe.FieldCondition(key="label", match=qe.MatchAny(list(query.options.labels))))
    must_not: list[Any] = []
    if query.options.exclude_keys:
        must_not.append(qe.HasIdCondition({point_id(key) for key in query.options.exclude_keys}))
    return qe.Filter(must=must, must_not=must_not)


def _payload(entry: Entry) -> dict[str, str]:
    thumbnail = base64.b64encode(entry.thumbnail_png).decode()
    return {"key": entry.key, "label": entry.label, "sha256": entry.sha256, "thumbnail_png": thumbnail}


def _hit(point: qe.ScoredPoint) -> Hit:
    payload = point.payload or {}
    thumbnail = base64.b64decode(payload.get("thumbnail_png", ""))
    return Hit(payload["key"], point.score, payload["label"], thumbnail)


def _entry(record: qe.Record) -> Entry:
    payload = record.payload or {}
    code = np.asarray(record.vector, np.float32)
    thumbnail = base64.b64decode(payload["thumbnail_png"])
    return Entry(payload["key"], code, payload["label"], payload["sha256"], thumbnail)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "WouldBlock" in reason:
            raise StoreLockedError(f"{folder} is open in another process: stop it, or wait for it to end") from error
        if "No space left" in reason:
            raise StoreFullError(f"the disk of {folder} is full: make space and run the same again") from error
        if "Permission denied" in reason:
            raise StoreError(f"{folder} can't be written: {reason}") from error
        raise StoreDamagedError(f"Qdrant Edge can't use {folder}: {reason}") from error
