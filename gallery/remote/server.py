"""A gallery in a collection of a Qdrant server or cluster. The only file that imports `qdrant_client`.

Every call waits for its effect, has a timeout, and is tried again a few times where that may help: after as long as
the server asks for, or else after longer and longer random pauses, and never beyond the caller's deadline.
"""

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
import numpy as np
import tenacity
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from gallery.deadline import check_wanted, seconds_left
from gallery.errors import (
    GalleryNotFoundError,
    InvalidQueryError,
    LookalikeError,
    StoreBusyError,
    StoreRefusedError,
    StoreSlowError,
    StoreUnreachableError,
    StoreUnusableError,
)
from gallery.points import entry, fields, hit, payload, point_id, threshold
from gallery.profiles import ACORN_SELECTIVITY, Memory, Profile, Quantised, find_profile
from gallery.types import Entry, GallerySpec, Hit, Placement, Query, check_codes

T = TypeVar("T")

_EXPECTED = "expected edge:DIR, http://HOST:6333 or https://HOST:6333"
_CALL_S = 10
# These take no timeout of their own, but have the client's, _CALL_S.
_OF_FIXED_TIME = ("get_aliases", "get_collections", "get_collection", "info")
_SLOW_CALL_S = 300
# These tell the server how much time it has, and wait as long as the client does.
_OF_CLIENT_TIME = ("upsert", "delete", "create_collection", "create_payload_index")
# A node of a cluster that is away must not keep a new collection waiting for longer.
_CREATE_S = 30
_ATTEMPTS = 4
# Points of one upsert: as many as Qdrant recommends, and few to send again when a try fails.
_AT_ONCE = 256
# The longest pause before a connection to a server that went away is tried again; gRPC's own is two minutes.
_RECONNECT_MS = 1000
_PAUSE_S = tenacity.wait_random_exponential(multiplier=0.1, max=5)
# How often, and how many times in a row, a server must say that it has nothing left to index.
_LOOK_EVERY_S = 0.5
_GREEN_CHECKS = 3
_MEMORY = {
    Memory.COLD: models.Memory.COLD,
    Memory.CACHED: models.Memory.CACHED,
    Memory.PINNED: models.Memory.PINNED,
}


class QdrantConnection:
    """A Qdrant server: its collections, their facts and aliases. Safe to use from several threads."""

    def __init__(self, client: QdrantClient, url: str, patient: QdrantClient | None = None) -> None:
        """Take what `connect` makes.

        Args:
            client: Answers within `_CALL_S`, or as long as a call says.
            url: Where the server is.
            patient: The same for calls that over gRPC have the time of their client, however long they say.
        """
        self.url = url
        self._client = client
        self._patient = patient or client

    @classmethod
    def connect(cls, url: str) -> "QdrantConnection":
        """Connect over gRPC, on the port after that of the URL, and see that the server can be used.

        Environment:
            QDRANT_API_KEY, or QDRANT_API_KEY_FILE, a file that holds it.
            QDRANT_CA_FILE: PEM of a private certificate authority, for https.
            QDRANT_GRPC_PORT: Where gRPC listens, if not on the next port.

        Raises:
            InvalidQueryError: The URL or a setting is wrong.
            UnavailableError: The server can't be used; the kind and the message say why.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 6333
            grpc_port = int(os.environ.get("QDRANT_GRPC_PORT") or port + 1)
        except ValueError as error:
            raise InvalidQueryError(f"store {url!r}: {_EXPECTED}, got {error}") from None
        if not parts.hostname or parts.path.strip("/"):
            raise InvalidQueryError(f"store {url!r}: {_EXPECTED}")
        ca_file = os.environ.get("QDRANT_CA_FILE")
        options: dict[str, Any] = {"root_certificates": _read(ca_file)} if ca_file else {}
        with warnings.catch_warnings():
            # it warns of a key without TLS, which is for whoever lays the network to say
            warnings.simplefilter("ignore", UserWarning)
            client, patient = (
                QdrantClient(
                    url=url.rstrip("/"),
                    port=port,
                    grpc_port=grpc_port,
                    prefer_grpc=True,
                    api_key=_api_key(),
                    timeout=timeout_s,
                    grpc_options={**options, "grpc.max_reconnect_backoff_ms": _RECONNECT_MS},
                    check_compatibility=False,
                )
                for timeout_s in (_CALL_S, _SLOW_CALL_S)
            )
        server = cls(client, url, patient)
        server.check()
        return server

    def call(self, what: Callable[..., T], *arguments: Any, timeout_s: int = _CALL_S, **named: Any) -> T:
        """Call the client, again where that may help, and turn what it raises into this project's errors."""
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=_pause,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            result: T = attempts(self._once, what, *arguments, timeout_s=timeout_s, **named)
            return result
        except LookalikeError:
            raise
        except Exception as error:
            raise self._translated(error) from error

    def _once(self, what: Callable[..., T], *arguments: Any, timeout_s: int, **named: Any) -> T:
        check_wanted()
        left = seconds_left()
        if what.__name__ not in _OF_FIXED_TIME:
            named["timeout"] = timeout_s if left is None else min(timeout_s, math.ceil(left))
        if left is None and what.__name__ in _OF_CLIENT_TIME:
            what = getattr(self._patient, what.__name__)
        return what(*arguments, **named)

    def _sleep(self, seconds: float) -> None:
        left = seconds_left()
        if left is not None and left <= seconds:
            raise StoreBusyError(f"store {self.url} asks to wait {seconds:.1f} s, longer than the caller can")
        time.sleep(seconds)

    def _translated(self, error: Exception) -> LookalikeError:
        text = " ".join(str(getattr(error, "details", lambda: error)() or error).split())[:200]
        match _code(error):
            case grpc.StatusCode.UNAVAILABLE:
                return StoreUnreachableError(
                    f"store {self.url} can't be reached ({text}): start it, or name another with --store"
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return StoreSlowError(f"store {self.url} did not answer in time: it is overloaded, or too far away")
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return StoreBusyError(f"store {self.url} is overloaded ({text}): ask less of it, or try later")
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                return StoreRefusedError(
                    f"store {self.url} refuses this client ({text}): set QDRANT_API_KEY or QDRANT_API_KEY_FILE"
                )
            case grpc.StatusCode.NOT_FOUND:
                return GalleryNotFoundError(f"store {self.url}: {text}")
            case code:
                known = f"{code.name}: {text}" if code else f"{type(error).__name__}: {text}"
                return StoreUnusableError(f"store {self.url} did not answer as Qdrant does: {known}")

    def check(self) -> None:
        """See that the server answers, takes our key and is not too old.

        Raises:
            UnavailableError: It can't be used; the kind and the message say why.
        """
        self.aliases()  # a server tells its version to anybody
        here = version("qdrant-client")
        there = self.call(self._client.info).version
        (major, minor), (wanted, newest) = (tuple(map(int, text.split(".")[:2])) for text in (there, here))
        if (major, minor) < (wanted, newest - 1):
            raise StoreRefusedError(
                f"store {self.url} is Qdrant {there}, too old: expected {wanted}.{newest - 1} or newer: upgrade it"
            )

    def aliases(self) -> dict[str, str]:
        """Return collections by their aliases."""
        found = self.call(self._client.get_aliases).aliases
        return {alias.alias_name: alias.collection_name for alias in found}

    def collections(self) -> list[str]:
        """Return the names of all collections."""
        return [one.name for one in self.call(self._client.get_collections).collections]

    def facts(self, collection: str) -> dict[str, Any]:
        """Return what was noted of a collection.

        Raises:
            GalleryNotFoundError: There is no such collection.
        """
        found = self.call(self._client.get_collection, collection)
        return dict(found.config.metadata or {})

    def note(self, collection: str, facts: Mapping[str, Any]) -> None:
        """Note facts of a collection beside those there are."""
        self.call(self._client.update_collection, collection, metadata=dict(facts), timeout_s=_SLOW_CALL_S)

    def create(self, collection: str, spec: GallerySpec, placement: Placement, facts: Mapping[str, Any]) -> None:
        """Create a collection whose graph is not built before `RemoteGallery.index`."""
        stored = find_profile(spec.profile)
        self.call(
            self._client.create_collection,
            collection,
            vectors_config=models.VectorParams(
                size=spec.code_size, distance=models.Distance.EUCLID, memory=_MEMORY[stored.codes]
            ),
            shard_number=placement.shards,
            replication_factor=placement.replicas,
            write_consistency_factor=placement.write_consistency,
            hnsw_config=models.HnswConfigDiff(
                m=0, payload_m=0, ef_construct=stored.ef_construct, memory=_MEMORY[stored.graph]
            ),
            optimizers_config=models.OptimizersConfigDiff(max_segment_size=stored.max_segment_mb * 1024),
            quantization_config=_quantisation(stored),
            payload=models.PayloadStorageParams(memory=_MEMORY[stored.payload]),
            id_tracker=models.IdTrackerParams(memory=_MEMORY[stored.ids]),
            metadata=dict(facts),
            timeout_s=_CREATE_S,
        )

    def index_fields(self, collection: str, spec: GallerySpec) -> None:
        """Have the server look up keys and labels by indexes of their own; doing it again changes nothing."""
        stored = find_profile(spec.profile)
        for field in ("key", "label"):
            self.call(
                self._client.create_payload_index,
                collection,
                field,
                models.KeywordIndexParams(
                    type=models.KeywordIndexType.KEYWORD, memory=_MEMORY[stored.payload], enable_hnsw=False
                ),
                wait=True,
                timeout_s=_SLOW_CALL_S,
            )

    def swap(self, alias: str, collection: str) -> None:
        """Make an alias mean a collection, whatever it meant before, in one step."""
        created = models.CreateAlias(collection_name=collection, alias_name=alias)
        action = models.CreateAliasOperation(create_alias=created)
        self.call(self._client.update_collection_aliases, [action])

    def remove_alias(self, alias: str) -> None:
        """Remove an alias; its collection stays."""
        action = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        self.call(self._client.update_collection_aliases, [action])

    def remove(self, collection: str) -> None:
        """Remove a collection."""
        self.call(self._client.delete_collection, collection, timeout_s=_SLOW_CALL_S)

    def gallery(
        self, collection: str, spec: GallerySpec, before_change: Callable[[], None] | None = None
    ) -> "RemoteGallery":
        """Return the gallery that a collection holds; something may have to be done before its first change."""
        return RemoteGallery(self, self._client, collection, spec, before_change)


class RemoteGallery:
    """A gallery in one collection. Safe to use from several threads."""

    def __init__(
        self,
        server: QdrantConnection,
        client: QdrantClient,
        collection: str,
        spec: GallerySpec,
        before_change: Callable[[], None] | None,
    ) -> None:
        """Take the parts; `QdrantConnection.gallery` has them."""
        self._before_change = before_change
        self._server = server
        self._client = client
        self._collection = collection
        self._spec = spec
        self._stored = find_profile(spec.profile)

    @property
    def spec(self) -> GallerySpec:
        """What the gallery is."""
        return self._spec

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries; on return the server has applied them."""
        if not entries:
            return
        codes = check_codes(np.stack([one.code for one in entries]), self._spec.code_size)
        points = [
            models.PointStruct(id=point_id(one.key), vector=code.tolist(), payload=payload(one))
            for one, code in zip(entries, codes, strict=True)
        ]
        self._change()
        for start in range(0, len(points), _AT_ONCE):
            part = points[start : start + _AT_ONCE]
            self._check_applied(self._call(self._client.upsert, points=part, wait=True, timeout_s=_SLOW_CALL_S))

    def search(self, query: Query) -> list[Hit]:
        """Return the nearest entries, nearest first."""
        asked = self._request(query)
        found = self._call(
            self._client.query_points,
            query=asked.query,
            query_filter=asked.filter,
            search_params=asked.params,
            limit=query.options.limit,
            score_threshold=asked.score_threshold,
            with_payload=fields(query.options),
        )
        return [hit(point.payload, point.score) for point in found.points]

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the hits of each query, in the same order."""
        if not queries:
            return []
        requests = [self._request(query) for query in queries]
        found = self._call(self._client.query_batch_points, requests=requests, timeout_s=_SLOW_CALL_S)
        return [[hit(point.payload, point.score) for point in answer.points] for answer in found]

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key; None where there is none."""
        if not keys:
            return []
        records = self._call(
            self._client.retrieve,
            ids=[point_id(key) for key in keys],
            with_payload=True,
            with_vectors=True,
            timeout_s=_SLOW_CALL_S,
        )
        entries = {one.key: one for one in (entry(record.payload, record.vector) for record in records)}
        return [entries.get(key) for key in keys]

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        """Yield all entries in batches."""
        offset: Any = None
        while True:
            records, offset = self._call(
                self._client.scroll,
                limit=batch_count,
                offset=offset,
                with_payload=True,
                with_vectors=True,
                timeout_s=_SLOW_CALL_S,
            )
            yield [entry(record.payload, record.vector) for record in records]
            if offset is None:
                return

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries of these keys."""
        if not keys:
            return
        self._change()
        selected = models.PointIdsList(points=[point_id(key) for key in keys])
        done = self._call(self._client.delete, points_selector=selected, wait=True, timeout_s=_SLOW_CALL_S)
        self._check_applied(done)

    def count(self) -> int:
        """Count the entries, exactly."""
        return int(self._call(self._client.count, exact=True, timeout_s=_SLOW_CALL_S).count)

    def index(self) -> None:
        """Have the server build the graph, and wait until it has.

        Raises:
            StoreError: The server could not build it.
        """
        hnsw = models.HnswConfigDiff(m=self._stored.m)
        self._call(self._client.update_collection, hnsw_config=hnsw, timeout_s=_SLOW_CALL_S)
        greens = 0
        while greens < _GREEN_CHECKS:
            try:
                found = self._call(self._client.get_collection)
            except StoreSlowError:  # it has its hands full with what we wait for
                greens = 0
                continue
            failed = found.status == models.CollectionStatus.RED
            if failed or found.optimizer_status != models.OptimizersStatusOneOf.OK:
                raise StoreUnusableError(
                    f"store {self._server.url} can't index {self._collection}: {found.optimizer_status}"
                )
            greens = greens + 1 if found.status == models.CollectionStatus.GREEN else 0
            if found.status == models.CollectionStatus.GREY:  # it waits to be told, as after a restart
                nothing = models.OptimizersConfigDiff()
                self._call(self._client.update_collection, optimizers_config=nothing, timeout_s=_SLOW_CALL_S)
            time.sleep(_LOOK_EVERY_S)

    def close(self) -> None:
        """Do nothing: the connection belongs to the server."""

    def _change(self) -> None:
        if self._before_change:
            self._before_change()
            self._before_change = None

    def _check_applied(self, done: models.UpdateResult) -> None:
        if done.status != models.UpdateStatus.COMPLETED:
            raise StoreSlowError(
                f"store {self._server.url} took a write and did not apply it in time: run the same again"
            )

    def _call(self, what: Callable[..., T], **named: Any) -> T:
        return self._server.call(what, collection_name=self._collection, **named)

    def _request(self, query: Query) -> models.QueryRequest:
        code = check_codes(query.code[None], self._spec.code_size)[0]
        return models.QueryRequest(
            query=code.tolist(),
            filter=_filter(query),
            params=self._search_params(query),
            limit=query.options.limit,
            score_threshold=threshold(query.options),
            with_payload=fields(query.options),
        )

    def _search_params(self, query: Query) -> models.SearchParams:
        if query.options.exact:
            return models.SearchParams(exact=True, quantization=models.QuantizationSearchParams(ignore=True))
        again = models.QuantizationSearchParams(rescore=True, oversampling=self._stored.oversampling)
        ef = max(self._stored.ef, query.options.limit)
        if query.options.labels:
            # the graph has no links within a label: ACORN looks at neighbours' neighbours instead
            acorn = models.AcornSearchParams(enable=True, max_selectivity=ACORN_SELECTIVITY)
            return models.SearchParams(hnsw_ef=2 * ef, quantization=again, acorn=acorn)
        return models.SearchParams(hnsw_ef=ef, quantization=again)


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


def _quantisation(stored: Profile) -> models.QuantizationConfig | None:
    memory = _MEMORY[stored.shortened]
    match stored.quantised:
        case Quantised.NONE:
            return None
        case Quantised.INT8:
            int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, memory=memory)
            return models.ScalarQuantization(scalar=int8)
        case Quantised.TURBO4:
            return _turbo(models.TurboQuantBitSize.BITS4, memory)
        case Quantised.TURBO2:
            return _turbo(models.TurboQuantBitSize.BITS2, memory)


def _turbo(bits: models.TurboQuantBitSize, memory: models.Memory) -> models.TurboQuantization:
    return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, memory=memory))


def _code(error: BaseException) -> grpc.StatusCode | None:
    if isinstance(error, ResourceExhaustedResponse):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return error.code() if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call) else None


def _may_pass(error: BaseException) -> bool:
    # a cluster that has just lost a node says so with INTERNAL, and asks to try again; all our writes may be repeated
    is_asked = _code(error) is grpc.StatusCode.INTERNAL and "retry" in str(error).lower()
    return is_asked or _code(error) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ResourceExhaustedResponse):
        return float(error.retry_after_s)
    return _PAUSE_S(state)


def _api_key() -> str | None:
    file = os.environ.get("QDRANT_API_KEY_FILE")
    return _read(file).decode().strip() if file else os.environ.get("QDRANT_API_KEY") or None


def _read(file: str) -> bytes:
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise InvalidQueryError(f"{file} can't be read: {error.strerror}") from error
