"""All limits of the service. The service, its clients, the help texts and docs/errors.md read them here."""

from dataclasses import dataclass, field

from gallery import MAX_LIMIT

MAX_CALLS_PER_CONNECTION = 8
"""Concurrent calls of one connection. gRPC makes the client hold back further calls, so they are not rejected."""
MAX_PENDING_CALLS = 32
"""Accepted calls that no handler has picked up. gRPC itself cancels further calls (CANCELLED), before Python runs.

As many calls run or queue at once by default, so that a burst of these is never cancelled."""
UNUSUAL_PERCENTILE = 99
"""A query is unusual if its error or the distance of its nearest hit is above this percentile of the gallery's own."""

EXACT_DISTANCE = 1e-3
"""A hit this near or nearer is the query itself, to within rounding. Different images are about a thousand times as far
apart."""

MAX_EXPAND = 8
"""Largest number of nearest hits to average with a query.

Precision@5 on Fashion-MNIST is 0.8736 with none, 0.8742 with 4, and 0.8718 with 8."""


def _limit(default: int, unit: str, beyond: str = "INVALID_ARGUMENT") -> int:
    limit: int = field(default=default, metadata={"unit": unit, "beyond": beyond})
    return limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits in force, under the names that `GetEncoder` reports.

    Each field's metadata has the `unit`, and the consequence `beyond` the limit: a gRPC status or a phrase.
    """

    max_image_bytes: int = _limit(10 * 1024 * 1024, "bytes of one image file")
    max_image_pixels: int = _limit(64_000_000, "pixels of one image, checked before it is decoded")
    max_hit_count: int = _limit(MAX_LIMIT, "hits, labels or excluded keys of one search, or keys of one DeleteImages")
    max_batch_count: int = _limit(256, "searches of one BatchSearch")
    max_batch_hit_count: int = _limit(10_000, "hits of all searches of one BatchSearch together")
    max_message_bytes: int = _limit(64 * 1024 * 1024, "bytes of one message", "RESOURCE_EXHAUSTED, from gRPC itself")
    max_stream_item_count: int = _limit(
        64, "images of a stream that are read ahead of their answers", "the client waits"
    )
    max_stream_item_bytes: int = _limit(32 * 1024 * 1024, "bytes of those images together", "the client waits")
    max_key_length: int = _limit(1024, "characters of a key or a label")
    max_concurrent_call_count: int = _limit(
        32, "concurrent calls (`--max-concurrent-calls`)", "RESOURCE_EXHAUSTED, `retry-after`"
    )
    max_concurrent_stream_count: int = _limit(
        16, "concurrent streams (`--max-streams`)", "RESOURCE_EXHAUSTED, `retry-after`"
    )


LIMITS = Limits()
"""The limits of a service with default settings."""
