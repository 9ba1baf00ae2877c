"""A gallery in an embedded Qdrant Edge shard. Only this file and `index` import `qdrant_edge`.

Edge accepts NaN silently and raises a bare `Exception` for every failure. So this module checks codes before it passes
them to Edge, and translates Edge's errors.
"""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qe

from gallery.base import say_nothing
from gallery.edge import index
from gallery.edge.page_cache import ReadAhead, prefetch
from gallery.edge.segments import (
    CONFIG,
    even_segment_mb,
    largest_share,
    plan_indexing,
    plan_sorting,
    rewritten_size,
    unsorted_size,
)
from gallery.errors import LookalikeError, StoreDamagedError, StoreFullError, StoreLockedError, StoreUnusableError
from gallery.files import check_space
from gallery.memory import Parts, disk_bytes, return_freed_heap
from gallery.points import exclusive_threshold, payload_fields, point_id, to_entry, to_hit, to_payload
from gallery.profiles import Memory, Profile, Quantised, find_profile, search_plan
from gallery.spec import GallerySpec
from gallery.types import Changes, Entry, Hit, Query, check_comparable

# Threads per search. With more than one, Edge would pass each search to its thread pool. For a gallery of the usual
# size, that takes longer than the search itself.
_SEARCH_THREADS = 1
_MEMORY = {Memory.COLD: qe.Memory.Cold, Memory.CACHED: qe.Memory.Cached, Memory.PINNED: qe.Memory.Pinned}
# Segments below this size, in KB, have no graph. A search compares all of their codes, which is exact and as fast.
_FULL_SCAN_KB = 10_000
# Bytes that must be free on the disk before a write: two segments of Edge's write-ahead log. Edge writes to sparse
# files that are mapped into memory. If the disk had no space for such a write, the system would kill the process.
_HEADROOM = 64 * 1024 * 1024
# Part of Edge's error for a shard that another process has open.
_LOCKED = "WouldBlock"
# Seconds to wait for such a shard, and between two attempts. If a load is killed, its index process is killed too, but
# takes a moment to end.
_DYING_S, _RETRY_S = 2.0, 0.05


class EdgeGallery:
    """A gallery in the folder of one Edge shard. Only one process at a time may have it open.

    Attributes:
        say: Prints a line for the user when a long step begins while entries are stored.
    """

    def __init__(
        self, folder: Path, spec: GallerySpec, profile: Profile | None = None, parts: Parts | None = None
    ) -> None:
        """Open the shard in a folder, or create one in an empty folder.

        Args:
            folder: The shard's folder.
            spec: Description of the gallery.
            profile: Storage profile; None for the one that `spec` names.
            parts: Sizes of the parts to build the shard in; None for as few parts as the profile allows.

        Raises:
            StoreLockedError: Another process has the shard open.
            StoreDamagedError: Edge can't read the content of the folder.
            StoreFullError: The disk has no space for a new shard.
        """
        self._spec = spec
        self._profile = profile or find_profile(spec.profile)
        self.say: Callable[[str], None] = say_nothing
        self._parts = parts
        self._largest_share = 1.0
        self._folder = folder
        self._closed = False
        self._read_ahead: ReadAhead | None = None
        # after a crash, Edge may defer some of its recovery work until the shard is loaded once more; see `settle`
        self._is_settled = False
        with _translated(folder):
            if (folder / CONFIG).exists():
                self._shard = self._load()
                if parts is None:
                    self._read_ahead = ReadAhead(folder, self._profile)
            else:
                check_space(folder, _HEADROOM)
                self._shard = qe.EdgeShard.create(str(folder), _config(spec.code_size, self._profile))
                # Edge can add graph links for each label. They would double the graph of a large gallery, so disable
                # them. Searches by label use ACORN instead; see `search_plan`.
                label_index = qe.KeywordIndexParams(enable_hnsw=False, memory=_MEMORY[self._profile.payload])
                self._shard.update(qe.UpdateOperation.create_field_index("label", label_index))
        self._unsorted_bytes = unsorted_size(folder) if parts else 0

    @property
    def spec(self) -> GallerySpec:
        """The description of the version."""
        return self._spec

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries. On return they are in Edge's write-ahead log."""
        if not entries:
            return
        codes = check_comparable(np.stack([entry.code for entry in entries]), self._spec.code_size)
        points = [
            qe.Point(point_id(entry.key), code.tolist(), to_payload(entry))
            for entry, code in zip(entries, codes, strict=True)
        ]
        check_space(self._folder, _HEADROOM)
        self._is_settled = False
        with _translated(self._folder):
            self._shard.update(qe.UpdateOperation.upsert_points(points))
        if self._parts:
            self._unsorted_bytes += codes.nbytes + sum(map(_payload_size, entries))
            if self._unsorted_bytes >= self._parts.sorted_bytes:
                self._sort()

    def search(self, query: Query) -> list[Hit]:
        """Return the nearest entries, nearest first."""
        return self.search_batch([query])[0]

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the hits of each query, in the order of the queries."""
        requests = [self._request(query) for query in queries]
        with _translated(self._folder):
            if len(requests) == 1:
                results = [self._shard.query(requests[0])]
            else:
                results = self._shard.query_batch(qe.QueryBatchRequest(requests))
        return [[to_hit(point.payload, point.score, point.vector) for point in points] for points in results]

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key; None for a key without an entry."""
        ids: list[qe.PointId] = [point_id(key) for key in keys]
        with _translated(self._folder):
            records = self._shard.retrieve(ids, with_payload=True, with_vector=True)
        entries = [to_entry(record.payload, record.vector) for record in records]
        by_key = {entry.key: entry for entry in entries}
        return [by_key.get(key) for key in keys]

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        """Yield all entries in batches."""
        offset: qe.PointId | None = None
        while True:
            request = qe.ScrollRequest(offset=offset, limit=batch_count, with_payload=True, with_vector=True)
            with _translated(self._folder):
                records, offset = self._shard.scroll(request)
            yield [to_entry(record.payload, record.vector) for record in records]
            if offset is None:
                return

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries with these keys."""
        ids: list[qe.PointId] = [point_id(key) for key in keys]
        self._is_settled = False
        with _translated(self._folder):
            self._shard.update(qe.UpdateOperation.delete_points(ids))

    def count(self) -> int:
        """Return the exact number of entries."""
        with _translated(self._folder):
            return self._shard.count(qe.CountRequest(exact=True))

    def changes(self) -> Changes:
        """Return zeros: only a live version knows its changes."""
        return Changes()

    def check_space(self, new_count: int) -> None:
        """Check that the disk has space for that many more entries with small thumbnails, and for their index.

        Raises:
            StoreFullError: The disk has less space.
        """
        # indexing writes all of them again before it removes what it has read
        check_space(self._folder, int(2 * new_count * disk_bytes(self._profile, self._spec.code_size)))

    def index(self) -> None:
        """Join the shard's segments, and build the search index.

        Raises:
            StoreFullError: The disk has no space for the index.
            StoreDamagedError: The index could not be built.
        """
        count = self.count()
        self._close_shard()  # an open shard adds and removes files, which would disturb the sums of their sizes below
        segment_mb = even_segment_mb(self._folder, self._segment_mb, count, self._spec.code_size)
        plan_indexing(self._folder, self._profile, segment_mb)
        self._optimize(rewritten_size(self._folder, segment_mb, self._spec.code_size))

    @property
    def _segment_mb(self) -> int:
        """Largest size of a segment, in MB of full codes."""
        return self._parts.segment_mb if self._parts else self._profile.max_segment_mb

    def _sort(self) -> None:
        """Sort the codes that have been added since the last call, so that `index` can read them from disk."""
        self.say(f"sorting {self._unsorted_bytes // 2**20:,} MB of stored images, as many as fit in memory")
        self._close_shard()
        plan_sorting(self._folder)
        self._optimize(unsorted_size(self._folder))
        self._unsorted_bytes = 0

    def _optimize(self, written_bytes: int) -> None:
        """Let Edge optimise the closed shard in a separate process, then open the shard again.

        `EdgeShard.optimize` holds the GIL until it ends: in this process it would stop the progress display and delay
        Ctrl-C.

        Args:
            written_bytes: Bytes that this writes, before it removes as many.
        """
        check_space(self._folder, _HEADROOM + written_bytes)
        return_freed_heap()  # 0.3 KB per entry, before the indexing process needs it
        # in a session of its own, the process does not get a terminal's Ctrl-C, after which a load ends in good order
        done = subprocess.run(
            index.command(self._folder), capture_output=True, text=True, check=False, start_new_session=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
            check_space(self._folder, _HEADROOM)
            raise StoreDamagedError(
                f"the index could not be built: {reason}: run the same command again", place=str(self._folder)
            )
        with _translated(self._folder):
            self._shard = self._load()
        self._closed = False
        self._is_settled = True

    def close(self) -> None:
        """Flush and close the shard."""
        self._close_shard()

    def settle(self) -> None:
        """Close the shard and make Edge do its deferred work, so that the shard's files no longer change.

        Edge does deferred work when it loads a shard. So this method loads the shard once more, if needed.
        """
        self._close_shard()
        if not self._is_settled:
            with _translated(self._folder):
                self._load().close()
            self._is_settled = True

    def _close_shard(self) -> None:
        if not self._closed:
            self._closed = True
            if self._read_ahead:
                self._read_ahead.close()
            with _translated(self._folder):
                self._shard.close()

    def _load(self) -> qe.EdgeShard:
        if self._parts is None:
            prefetch(self._folder, self._profile)
        self._largest_share = largest_share(self._folder)
        ends = time.monotonic() + _DYING_S
        while True:
            try:
                return qe.EdgeShard.load(str(self._folder))
            except Exception as error:
                if _LOCKED not in str(error) or time.monotonic() > ends:
                    raise
                time.sleep(_RETRY_S)

    def _request(self, query: Query) -> qe.QueryRequest:
        code = check_comparable(query.code[None], self._spec.code_size)[0]
        return qe.QueryRequest(
            limit=query.options.limit,
            query=qe.Query.Nearest(code.tolist()),
            filter=_filter(query),
            score_threshold=exclusive_threshold(query.options),
            params=self._search_params(query),
            with_payload=payload_fields(query.options),
            with_vector=query.with_codes,
        )

    def _search_params(self, query: Query) -> qe.SearchParams:
        plan = search_plan(self._profile, query.options, self._largest_share)
        if plan is None:
            return qe.SearchParams(exact=True, quantization=qe.QuantizationSearchParams(ignore=True))
        acorn = None
        if plan.acorn_selectivity is not None:
            acorn = qe.AcornSearchParams(enable=True, max_selectivity=plan.acorn_selectivity)
        rescoring = qe.QuantizationSearchParams(rescore=True, oversampling=plan.oversampling)
        return qe.SearchParams(hnsw_ef=plan.ef, quantization=rescoring, acorn=acorn)


def _config(code_size: int, profile: Profile) -> qe.EdgeConfig:
    hnsw = qe.HnswIndexConfig(
        profile.m,
        profile.ef_construct,
        _FULL_SCAN_KB,
        inline_storage=profile.inline or None,
        memory=_MEMORY[profile.graph],
    )
    vectors = qe.EdgeVectorParams(
        code_size,
        qe.Distance.Euclid,
        hnsw_config=hnsw,
        quantization_config=_quantisation(profile),
        memory=_MEMORY[profile.codes],
    )
    return qe.EdgeConfig(
        vectors,
        optimizers=qe.EdgeOptimizersConfig(default_segment_number=1, max_segment_size=profile.max_segment_mb * 1024),
        max_search_threads=_SEARCH_THREADS,
        payload_memory=_MEMORY[profile.payload],
        id_tracker_memory=_MEMORY[profile.ids],
    )


def _quantisation(profile: Profile) -> qe.ScalarQuantizationConfig | qe.TurboQuantQuantizationConfig | None:
    memory = _MEMORY[profile.shortened]
    match profile.quantised:
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


def _payload_size(entry: Entry) -> int:
    return len(entry.key) + len(entry.label) + len(entry.sha256) + len(entry.thumbnail_png)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Translate Edge's errors in the block into errors of this project.

    All of Edge's errors have the same class, so the translation depends on their text.
    """
    try:
        yield
    except LookalikeError:
        raise
    except Exception as error:
        place = str(folder)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if _LOCKED in reason:
            raise StoreLockedError("open in another process: stop it, or wait for it to end", place=place) from error
        if "No space left" in reason:
            raise StoreFullError("the disk is full: make space and run the same command again", place=place) from error
        if "Permission denied" in reason:
            raise StoreUnusableError(f"can't be written: {reason}", place=place) from error
        raise StoreDamagedError(f"Qdrant Edge can't use this folder: {reason}", place=place) from error
