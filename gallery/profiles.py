"""What is kept where: the one table of storage profiles, with the same meaning on Qdrant Edge and on a server.

`benchmarks/scale.py` measures them, and docs/scaling.md says what each costs.
"""

from dataclasses import dataclass
from enum import StrEnum

from gallery.errors import InvalidQueryError

DEFAULT_PROFILE = "balanced"
ACORN_SELECTIVITY = 0.5
"""A filter that leaves a larger part of the gallery is searched as if there were none, and filtered after."""


class Memory(StrEnum):
    """Where a part of a gallery is kept besides the disk."""

    COLD = "cold"
    """Read from the disk when needed, and kept while there is room."""
    CACHED = "cached"
    """Read into memory when the gallery is opened, and given up when there is no room."""
    PINNED = "pinned"
    """In memory always."""


class Quantised(StrEnum):
    """How codes are shortened for the first pass of a search; the nearest are then compared in full."""

    NONE = "none"
    INT8 = "int8"
    TURBO4 = "turbo4"
    """4 bits a number, Qdrant's TurboQuant."""
    TURBO2 = "turbo2"
    """2 bits a number, Qdrant's TurboQuant."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How a gallery is stored and searched.

    Attributes:
        name: What it is called.
        meaning: When to choose it, in a line.
        codes: Where the full codes are, 512 bytes each.
        graph: Where the search graph is.
        payload: Where keys, labels and thumbnails are.
        ids: Where the way from a point's id to its place is.
        quantised: How codes are shortened.
        shortened: Where the shortened codes are.
        m: Neighbours of a point in the graph.
        ef_construct: Candidates looked at when a point is put into the graph.
        max_segment_mb: The most full codes, in MB, that one graph spans.
        ef: Candidates that a search keeps, at least.
        oversampling: How many times the hits wanted are compared in full.
    """

    name: str
    meaning: str
    codes: Memory
    graph: Memory
    payload: Memory
    ids: Memory
    quantised: Quantised
    shortened: Memory
    m: int
    ef_construct: int
    max_segment_mb: int
    ef: int
    oversampling: float


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "memory",
            "fastest: everything in memory, codes in full",
            codes=Memory.CACHED,
            graph=Memory.CACHED,
            payload=Memory.CACHED,
            ids=Memory.PINNED,
            quantised=Quantised.NONE,
            shortened=Memory.CACHED,
            m=16,
            ef_construct=100,
            max_segment_mb=4096,
            ef=64,
            oversampling=1.0,
        ),
        Profile(
            "balanced",
            "graph and codes cached, thumbnails on disk",
            codes=Memory.CACHED,
            graph=Memory.CACHED,
            payload=Memory.COLD,
            ids=Memory.PINNED,
            quantised=Quantised.INT8,
            shortened=Memory.CACHED,
            m=16,
            ef_construct=100,
            max_segment_mb=4096,
            ef=64,
            oversampling=4.0,
        ),
        Profile(
            "disk",
            "larger than memory: 4-bit codes cached, all else read from disk when needed",
            codes=Memory.COLD,
            graph=Memory.COLD,
            payload=Memory.COLD,
            ids=Memory.COLD,
            quantised=Quantised.TURBO4,
            shortened=Memory.CACHED,
            m=12,
            ef_construct=100,
            max_segment_mb=4096,
            ef=128,
            oversampling=3.0,
        ),
    )
}


def find_profile(name: str) -> Profile:
    """Return a profile by name.

    Raises:
        InvalidQueryError: There is none of that name.
    """
    if name not in PROFILES:
        raise InvalidQueryError(f"profile: expected one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]
