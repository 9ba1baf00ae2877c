"""All limits of the service. The service, its clients, `serve --help` and docs/errors.md take them from this module."""

from dataclasses import dataclass, field

from gallery import MAX_LIMIT

MAX_CALLS_PER_CONNECTION = 8
"""Maximum concurrent calls per connection. Further calls wait in the client's gRPC, and are not rejected."""
MAX_PENDING_CALLS = 32
"""Maximum accepted calls that no handler has picked up. gRPC cancels further calls (CANCELLED) before any Python runs.

It equals the default of `max_concurrent_call_count`, so gRPC never cancels a burst of that many calls."""
UNUSUAL_PERCENTILE = 99
"""A query is flagged as unusual if its relative reconstruction error, or its distance to the nearest hit, exceeds this
percentile of the same values for the gallery's own images, or if its flatness is not usual in the gallery."""

EXACT_DISTANCE = 1e-3
"""A hit within this distance is the query itself, apart from rounding. Different images are typically about a thousand
times as far apart."""

MAX_EXPAND = 8
"""Largest number of nearest hits to average with a query.

Precision@5 on Fashion-MNIST was 0.8736 with none, 0.8742 with 4, and 0.8718 with 8, before `fashion` was quantised."""


def _limit(default: int, unit: str, beyond: str = "INVALID_ARGUMENT") -> int:
    limit: int = field(default=default, metadata={"unit": unit, "beyond": beyond})
    return limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a service. `GetEncoder` reports them under the same names.

    The metadata of each field has two texts for docs/errors.md: `unit` says what the limit counts, and `beyond` says
    what happens above it.
    """

    max_image_bytes: int = _limit(10 * 1024 * 1024, "bytes of one image file")
    max_image_pixels: int = _limit(64_000_000, "pixels of one image, checked before it is decoded")
    max_hit_count: int = _limit(
        MAX_LIMIT, "hits, labels or excluded keys of one search, or keys of one GetImages or DeleteImages"
    )
    max_batch_count: int = _limit(256, "searches of one BatchSearch")
    max_batch_hit_count: int = _limit(10_000, "total hits of all searches of one BatchSearch")
    max_message_bytes: int = _limit(64 * 1024 * 1024, "bytes of one message", "RESOURCE_EXHAUSTED, from gRPC itself")
    max_stream_item_count: int = _limit(
        64, "images of a stream that have been read and not answered yet", "the client waits"
    )
    max_stream_item_bytes: int = _limit(32 * 1024 * 1024, "total bytes of these images", "the client waits")
    max_key_length: int = _limit(1024, "characters of a key or a label")
    max_concurrent_call_count: int = _limit(
        32, "concurrent calls (`--max-concurrent-calls`)", "RESOURCE_EXHAUSTED, `retry-after`"
    )
    max_concurrent_stream_count: int = _limit(
        16, "concurrent streams (`--max-streams`)", "RESOURCE_EXHAUSTED, `retry-after`"
    )


LIMITS = Limits()
"""The limits of a service with default settings."""
