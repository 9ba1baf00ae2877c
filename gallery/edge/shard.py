"""A gallery in an embedded Qdrant Edge shard. The only file that imports `qdrant_edge`.

Edge takes NaN without a word and raises a bare `Exception` for everything, so codes are checked before and errors
translated after.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qe

from gallery.errors import LookalikeError, StoreDamagedError, StoreFullError, StoreLockedError, StoreUnusableError
from gallery.points import entry, fields, hit, payload, point_id, threshold
from gallery.profiles import ACORN_SELECTIVITY, Memory, Profile, Quantised, find_profile
from gallery.types import Entry, GallerySpec, Hit, Query, check_codes

# One search thread: at this size handing work to Edge's own threads takes longer than the work.
_SEARCH_THREADS = 1
_MEMORY = {Memory.COLD: qe.Memory.Cold, Memory.CACHED: qe.Memory.Cached, Memory.PINNED: qe.Memory.Pinned}
# Below this a segment is compared in full, which is exact and as quick.
_FULL_SCAN_KB = 10_000
# Files of a segment, by the part of a profile that they are.
_FILES = {
    "codes": "vector_storage/matrix.dat",
    "shortened": "vector_storage/quantized.*",
    "graph": "vector_index/links*",
}
_READ_AT_ONCE = 2 * 1024 * 1024  # of more, the system passes over the rest
# Bytes that must be free on the disk before anything is written: two pieces of Edge's log.
_HEADROOM = 64 * 1024 * 1024


class EdgeGallery:
    """A gallery in one shard folder. One process at a time may have it open."""

    def __init__(self, folder: Path, spec: GallerySpec) -> None:
        """Open the shard, or make one where the folder holds none.

        Raises:
            StoreLockedError: Another process has the shard open.
            StoreDamagedError: The folder holds something that Edge can't read.
        """
        self._spec = spec
        self._stored = find_profile(spec.profile)
        with _translated(folder):
            if (folder / "edge_config.json").exists():
                self._shard = _loaded(folder, self._stored)
                _hold(folder, self._stored)
            else:
                _check_space(folder, _HEADROOM)
                self._shard = qe.EdgeShard.create(str(folder), _config(spec.code_size, self._stored))
                # links of their own for each label would double the graph of a large gallery; see `_search_params`
                by_label = qe.KeywordIndexParams(enable_hnsw=False, memory=_MEMORY[self._stored.payload])
                self._shard.update(qe.UpdateOperation.create_field_index("label", by_label))
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
            qe.Point(point_id(one.key), code.tolist(), payload(one)) for one, code in zip(entries, codes, strict=True)
        ]
        _check_space(self._folder, _HEADROOM)
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
        return [[hit(point.payload, point.score) for point in points] for points in found]

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key; None where there is none."""
        ids: list[qe.PointId] = [point_id(key) for key in keys]
        with _translated(self._folder):
            records = self._shard.retrieve(ids, with_payload=True, with_vector=True)
        entries = {one.key: one for one in (entry(record.payload, record.vector) for record in records)}
        return [entries.get(key) for key in keys]

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        """Yield all entries in batches."""
        offset: qe.PointId | None = None
        while True:
            request = qe.ScrollRequest(offset=offset, limit=batch_count, with_payload=True, with_vector=True)
            with _translated(self._folder):
                records, offset = self._shard.scroll(request)
            yield [entry(record.payload, record.vector) for record in records]
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
        self._close_shard()  # first: while it is open, its files come and go
        segments = (self._folder / "segments").rglob("*")
        _check_space(self._folder, _HEADROOM + sum(path.stat().st_blocks * 512 for path in segments))
        if sys.platform == "linux":
            # what Edge has freed would stay with this process, 0.3 KB an entry, while the index takes its own memory
            ctypes.CDLL(None).malloc_trim(0)
        command = [sys.executable, "-m", "gallery.edge.index", str(self._folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
            _check_space(self._folder, _HEADROOM)
            raise StoreDamagedError(f"no index could be built in {self._folder}: {reason}: run the same again")
        with _translated(self._folder):
            self._shard = _loaded(self._folder, self._stored)
        self._closed = False

    def close(self) -> None:
        """Flush and close the shard."""
        self._close_shard()

    def settle(self) -> None:
        """Close the shard, having had Edge work off what it leaves to its next opening: its files stay as they are."""
        self._close_shard()
        with _translated(self._folder):
            _loaded(self._folder, self._stored).close()

    def _close_shard(self) -> None:
        if not self._closed:
            self._closed = True
            with _translated(self._folder):
                self._shard.close()

    def _request(self, query: Query) -> qe.QueryRequest:
        code = check_codes(query.code[None], self._spec.code_size)[0]
        return qe.QueryRequest(
            limit=query.options.limit,
            query=qe.Query.Nearest(code.tolist()),
            filter=_filter(query),
            score_threshold=threshold(query.options),
            params=self._search_params(query),
            with_payload=fields(query.options),
        )

    def _search_params(self, query: Query) -> qe.SearchParams:
        if query.options.exact:
            return qe.SearchParams(exact=True, quantization=qe.QuantizationSearchParams(ignore=True))
        again = qe.QuantizationSearchParams(rescore=True, oversampling=self._stored.oversampling)
        ef = max(self._stored.ef, query.options.limit)
        if query.options.labels:
            # the graph has no links within a label: ACORN looks at neighbours' neighbours instead
            acorn = qe.AcornSearchParams(enable=True, max_selectivity=ACORN_SELECTIVITY)
            return qe.SearchParams(hnsw_ef=2 * ef, quantization=again, acorn=acorn)
        return qe.SearchParams(hnsw_ef=ef, quantization=again)


def _check_space(folder: Path, needed: int) -> None:
    # Edge maps files that take up their space only when written to: a full disk would kill the process.
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StoreFullError(
            f"the disk of {folder} is full: expected {needed // 2**20:,} MB free, got {free // 2**20:,}: "
            "make space and run the same again"
        )


def _loaded(folder: Path, stored: Profile) -> qe.EdgeShard:
    """Open a shard, having called in what it will keep in memory: Edge itself reads that page by page, far slower."""
    for part in _FILES:
        if getattr(stored, part) is not Memory.COLD:
            for path in _files(folder, part):
                _call_in(path)
    return qe.EdgeShard.load(str(folder))


def _files(folder: Path, part: str) -> Iterator[Path]:
    return folder.glob(f"segments/*/{_FILES[part]}")


def _call_in(path: Path) -> None:
    """Have the system read a file into its cache, where it can be told to."""
    if sys.platform != "linux":
        return
    with path.open("rb") as file:
        for start in range(0, os.fstat(file.fileno()).st_size, _READ_AT_ONCE):
            os.posix_fadvise(file.fileno(), start, _READ_AT_ONCE, os.POSIX_FADV_WILLNEED)


def _hold(folder: Path, stored: Profile) -> None:
    """Have the system hold on to what every search goes through, rather than to codes that stay on disk.

    Where memory is short, Linux lets go first of what was read only once (its list of inactive pages).
    """
    if stored.codes is not Memory.COLD:
        return
    buffer = bytearray(_READ_AT_ONCE)
    for part in ("shortened", "graph"):
        for path in _files(folder, part):
            for _ in range(2):
                with path.open("rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass


def optimise(folder: str) -> None:
    """Build the search index of the shard in this folder, which no process may have open."""
    shard = qe.EdgeShard.load(folder)
    shard.optimize()
    shard.close()


def _config(code_size: int, stored: Profile) -> qe.EdgeConfig:
    hnsw = qe.HnswIndexConfig(stored.m, stored.ef_construct, _FULL_SCAN_KB, memory=_MEMORY[stored.graph])
    vectors = qe.EdgeVectorParams(
        code_size,
        qe.Distance.Euclid,
        hnsw_config=hnsw,
        quantization_config=_quantisation(stored),
        memory=_MEMORY[stored.codes],
    )
    return qe.EdgeConfig(
        vectors,
        optimizers=qe.EdgeOptimizersConfig(default_segment_number=1, max_segment_size=stored.max_segment_mb * 1024),
        max_search_threads=_SEARCH_THREADS,
        payload_memory=_MEMORY[stored.payload],
        id_tracker_memory=_MEMORY[stored.ids],
    )


def _quantisation(
    stored: Profile,
) -> qe.ScalarQuantizationConfig | qe.TurboQuantQuantizationConfig | None:
    memory = _MEMORY[stored.shortened]
    match stored.quantised:
        case Quantised.NONE:
            return None
        case Quantised.INT8:
            return qe.ScalarQuantizationConfig(qe.ScalarType.Int8, memory=memory)
        case Quantised.TURBO4:
            return qe.TurboQuantQuantizationConfig(bits=qe.TurboQuantBitSize.Bits4, memory=memory)
        case Quantised.TURBO2:
            return qe.TurboQuantQuantizationConfig(bits=qe.TurboQuantBitSize.Bits2, memory=memory)


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


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except LookalikeError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "WouldBlock" in reason:
            raise StoreLockedError(f"{folder} is open in another process: stop it, or wait for it to end") from error
        if "No space left" in reason:
            raise StoreFullError(f"the disk of {folder} is full: make space and run the same again") from error
        if "Permission denied" in reason:
            raise StoreUnusableError(f"{folder} can't be written: {reason}") from error
        raise StoreDamagedError(f"Qdrant Edge can't use {folder}: {reason}") from error
