"""A gallery in one collection of a Qdrant server or cluster."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import models

from gallery.errors import StoreSlowError, StoreUnusableError
from gallery.findings import discard_findings
from gallery.points import exclusive_threshold, payload_fields, point_id, to_entry, to_hit, to_payload
from gallery.profiles import find_profile, search_plan
from gallery.remote.connection import SLOW_CALL_S, QdrantConnection
from gallery.spec import GallerySpec
from gallery.types import Changes, Entry, Hit, Query, check_comparable

# Number of points per upsert: Qdrant's recommended size, small enough to resend cheaply on a retry.
_UPSERT_BATCH = 256
# Seconds between two checks of the server's status while it builds an index.
_STATUS_EVERY_S = 0.5
# Number of consecutive checks that must report nothing left to index before the index counts as complete.
_GREEN_CHECKS = 3


class RemoteGallery:
    """A gallery in one collection. Safe to use from several threads."""

    def __init__(
        self,
        connection: QdrantConnection,
        collection: str,
        spec: GallerySpec,
        before_change: Callable[[], None] | None = None,
        local_folder: Path | None = None,
    ) -> None:
        """Use a collection as a gallery. No call is made yet.

        Args:
            connection: Connection to the server.
            collection: Name of the collection.
            spec: Description of the gallery.
            before_change: Called once, before the first write.
            local_folder: Folder on this machine with the findings of the version, which each write discards. None if
                there is no such folder.
        """
        self.collection = collection
        self._connection = connection
        self._place = f"store {connection.url}"
        self._spec = spec
        self._profile = find_profile(spec.profile)
        self._before_change = before_change
        self._local_folder = local_folder

    @property
    def spec(self) -> GallerySpec:
        """The description of the version."""
        return self._spec

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries. On return the server has applied them."""
        if not entries:
            return
        codes = check_comparable(np.stack([entry.code for entry in entries]), self._spec.code_size)
        points = [
            models.PointStruct(id=point_id(entry.key), vector=code.tolist(), payload=to_payload(entry))
            for entry, code in zip(entries, codes, strict=True)
        ]
        self._prepare_change()
        for start in range(0, len(points), _UPSERT_BATCH):
            self._upsert(points[start : start + _UPSERT_BATCH])

    def _upsert(self, points: list[models.PointStruct]) -> None:
        self._check_applied(
            self._connection.call(
                lambda client, timeout_s: client.upsert(self.collection, points, wait=True, timeout=timeout_s),
                SLOW_CALL_S,
            )
        )

    def search(self, query: Query) -> list[Hit]:
        """Return the nearest entries, nearest first."""
        request = self._request(query)
        response = self._connection.call(
            lambda client, timeout_s: client.query_points(
                self.collection,
                query=request.query,
                query_filter=request.filter,
                search_params=request.params,
                limit=query.options.limit,
                score_threshold=request.score_threshold,
                with_payload=payload_fields(query.options),
                with_vectors=query.with_codes,
                timeout=timeout_s,
            )
        )
        return [to_hit(point.payload, point.score, point.vector) for point in response.points]

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the hits of each query, in the order of the queries."""
        if not queries:
            return []
        requests = [self._request(query) for query in queries]
        responses = self._connection.call(
            lambda client, timeout_s: client.query_batch_points(self.collection, requests, timeout=timeout_s),
            SLOW_CALL_S,
        )
        return [
            [to_hit(point.payload, point.score, point.vector) for point in response.points] for response in responses
        ]

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key; None for a key without an entry."""
        if not keys:
            return []
        records = self._connection.call(
            lambda client, timeout_s: client.retrieve(
                self.collection,
                [point_id(key) for key in keys],
                with_payload=True,
                with_vectors=True,
                timeout=timeout_s,
            ),
            SLOW_CALL_S,
        )
        entries = [to_entry(record.payload, record.vector) for record in records]
        by_key = {entry.key: entry for entry in entries}
        return [by_key.get(key) for key in keys]

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        """Yield all entries in batches."""
        offset: Any = None
        while True:
            records, offset = self._scroll(batch_count, offset)
            yield [to_entry(record.payload, record.vector) for record in records]
            if offset is None:
                return

    def _scroll(self, batch_count: int, offset: Any) -> tuple[list[models.Record], Any]:
        return self._connection.call(
            lambda client, timeout_s: client.scroll(
                self.collection,
                limit=batch_count,
                offset=offset,
                with_payload=True,
                with_vectors=True,
                timeout=timeout_s,
            ),
            SLOW_CALL_S,
        )

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries with these keys."""
        if not keys:
            return
        self._prepare_change()
        selector = models.PointIdsList(points=[point_id(key) for key in keys])
        self._check_applied(
            self._connection.call(
                lambda client, timeout_s: client.delete(self.collection, selector, wait=True, timeout=timeout_s),
                SLOW_CALL_S,
            )
        )

    def count(self) -> int:
        """Return the exact number of entries."""
        response = self._connection.call(
            lambda client, timeout_s: client.count(self.collection, exact=True, timeout=timeout_s), SLOW_CALL_S
        )
        return int(response.count)

    def changes(self) -> Changes:
        """Return zeros: the server indexes new entries and removes deleted ones by itself."""
        return Changes()

    def index(self) -> None:
        """Make the server build the graph, and wait until it is complete.

        Raises:
            StoreError: The server could not build the graph.
        """
        self._configure(hnsw=models.HnswConfigDiff(m=self._profile.m))
        greens = 0
        while greens < _GREEN_CHECKS:
            try:
                status = self._status()
            except StoreSlowError:  # the server is busy building the index
                greens = 0
                continue
            greens = greens + 1 if status == models.CollectionStatus.GREEN else 0
            if status == models.CollectionStatus.GREY:  # after a restart, indexing waits for a settings update
                self._configure(optimizers=models.OptimizersConfigDiff())
            time.sleep(_STATUS_EVERY_S)

    def _status(self) -> models.CollectionStatus:
        info = self._connection.call(lambda client, _: client.get_collection(self.collection))
        if info.status == models.CollectionStatus.RED or info.optimizer_status != models.OptimizersStatusOneOf.OK:
            raise StoreUnusableError(
                f"can't build the index of {self.collection}: {info.optimizer_status}", place=self._place
            )
        return info.status

    def _configure(
        self, hnsw: models.HnswConfigDiff | None = None, optimizers: models.OptimizersConfigDiff | None = None
    ) -> None:
        self._connection.call(
            lambda client, timeout_s: client.update_collection(
                self.collection, hnsw_config=hnsw, optimizers_config=optimizers, timeout=timeout_s
            ),
            SLOW_CALL_S,
        )

    def close(self) -> None:
        """Do nothing: the store owns the connection."""

    def _prepare_change(self) -> None:
        if self._before_change:
            self._before_change()
            self._before_change = None
        if self._local_folder:
            discard_findings(self._local_folder)

    def _check_applied(self, result: models.UpdateResult) -> None:
        if result.status != models.UpdateStatus.COMPLETED:
            raise StoreSlowError(
                "accepted a write and did not apply it in time: run the same command again", place=self._place
            )

    def _request(self, query: Query) -> models.QueryRequest:
        code = check_comparable(query.code[None], self._spec.code_size)[0]
        return models.QueryRequest(
            query=code.tolist(),
            filter=_filter(query),
            params=self._search_params(query),
            limit=query.options.limit,
            score_threshold=exclusive_threshold(query.options),
            with_payload=payload_fields(query.options),
            with_vector=query.with_codes,
        )

    def _search_params(self, query: Query) -> models.SearchParams:
        plan = search_plan(self._profile, query.options)
        if plan is None:
            return models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
        acorn = None
        if plan.acorn_selectivity is not None:
            acorn = models.AcornSearchParams(enable=True, max_selectivity=plan.acorn_selectivity)
        rescoring = models.QuantizationSearchParams(rescore=True, oversampling=plan.oversampling)
        return models.SearchParams(hnsw_ef=plan.ef, quantization=rescoring, acorn=acorn)


def _filter(query: Query) -> models.Filter | None:
    if not (query.options.labels or query.options.exclude_keys):
        return None
    must: list[Any] = []
    if query.options.labels:
        must.append(models.FieldCondition(key="label", match=models.MatchAny(any=list(query.options.labels))))
    must_not: list[Any] = []
    if query.options.exclude_keys:
        must_not.append(models.HasIdCondition(has_id=[point_id(key) for key in query.options.exclude_keys]))
    return models.Filter(must=must, must_not=must_not)
