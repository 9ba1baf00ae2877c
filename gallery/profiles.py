"""Storage profiles: which data of a gallery stays in memory, how codes are quantised, and how they are searched.

The profiles are the same for Edge and for servers. `benchmarks/scale.py` measures them, and docs/scaling.md lists what
each one costs.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from gallery.errors import InvalidQueryError
from gallery.types import SearchOptions

DEFAULT_PROFILE = "balanced"
"""The profile of a gallery unless its builder chooses another."""

# ACORN is Qdrant's slower graph search for narrow filters. It is used only if the filter matches at most this fraction
# of the gallery. For broader filters the plain graph search suffices.
_ACORN_SELECTIVITY = 0.5
# Power of the largest segment's share of the codes by which fewer full codes are compared in each segment. With 1,
# three segments of 4,000,000 codes had a recall@5 of 0.9893.
_COMPARED_POWER = 0.7


class Memory(StrEnum):
    """The ways to keep a gallery's data in memory. All data is on disk as well."""

    COLD = "cold"
    """Read from disk on demand, and cached while memory is free."""
    CACHED = "cached"
    """Read into the page cache when the gallery is opened, and evicted under memory pressure."""
    PINNED = "pinned"
    """Always in memory."""


class Quantised(StrEnum):
    """Quantisation of the codes. A search finds candidates by their quantised codes, then compares their full codes."""

    NONE = "none"
    """32 bits per number: searches compare only full codes."""
    INT8 = "int8"
    """8 bits per number, scalar quantisation."""
    TURBO4 = "turbo4"
    """4 bits per number, Qdrant's TurboQuant."""
    TURBO2 = "turbo2"
    """2 bits per number, Qdrant's TurboQuant."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Settings for storing and searching a gallery.

    Attributes:
        name: The profile's name.
        meaning: One line that says when to choose it.
        codes: Memory for the full codes, 512 bytes each.
        graph: Memory for the search graph.
        payload: Memory for keys, labels and thumbnails.
        ids: Memory for the table from point ids to positions.
        quantised: How codes are quantised.
        shortened: Memory for the quantised codes.
        inline: Whether the graph holds, beside each point's links, its full code and the quantised codes of its
            neighbours. A step of a search then reads one place on disk. The full codes are stored only there.
        m: Number of neighbours of a point in the graph; HNSW's `m`.
        ef_construct: Number of candidates compared when a point is inserted into the graph; HNSW's `ef_construct`.
        max_segment_mb: Largest size of a segment, in MB of full codes. Each segment has its own graph.
        ef: Smallest number of candidates that a graph search keeps; HNSW's `ef`.
        oversampling: Number of candidates whose full codes are compared, as a multiple of the search's limit.
    """

    name: str
    meaning: str
    codes: Memory
    graph: Memory
    payload: Memory
    ids: Memory
    quantised: Quantised
    shortened: Memory
    inline: bool
    m: int
    ef_construct: int
    max_segment_mb: int
    ef: int
    oversampling: float


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Parameters of one search of the index.

    Attributes:
        ef: Number of candidates that the graph search keeps.
        oversampling: Number of candidates whose full codes are compared, as a multiple of the search's limit.
        acorn_selectivity: Use ACORN if the filter matches at most this fraction of the gallery; None to never use it.
    """

    ef: int
    oversampling: float
    acorn_selectivity: float | None = None


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
            inline=False,
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
            inline=False,
            m=16,
            ef_construct=100,
            max_segment_mb=4096,
            ef=64,
            oversampling=4.0,
        ),
        Profile(
            "disk",
            "larger than memory: graph and 4-bit codes cached, all else read from disk when needed",
            codes=Memory.COLD,
            graph=Memory.CACHED,
            payload=Memory.COLD,
            ids=Memory.COLD,
            quantised=Quantised.TURBO4,
            shortened=Memory.CACHED,
            inline=False,
            m=12,
            ef_construct=100,
            max_segment_mb=4096,
            ef=128,
            oversampling=3.0,
        ),
        Profile(
            "inline",
            "over three times larger than memory: codes in the graph, everything read from disk when needed",
            codes=Memory.COLD,
            graph=Memory.COLD,
            payload=Memory.COLD,
            ids=Memory.COLD,
            quantised=Quantised.TURBO4,
            shortened=Memory.COLD,
            inline=True,
            m=16,
            ef_construct=100,
            max_segment_mb=4096,
            ef=96,
            oversampling=3.0,
        ),
    )
}


def find_profile(name: str) -> Profile:
    """Return a profile by name.

    Raises:
        InvalidQueryError: No profile has this name.
    """
    if name not in PROFILES:
        raise InvalidQueryError(f"profile: expected one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]


def search_plan(profile: Profile, options: SearchOptions, largest_share: float = 1.0) -> SearchPlan | None:
    """Return the parameters of a search of the index, or None for an exact search, which compares all full codes.

    Args:
        profile: The gallery's storage profile.
        options: Options of the search.
        largest_share: Fraction of the gallery's codes that its largest segment has, 0 to 1. Every segment finds its own
            candidates, so each of several segments may keep and compare fewer. With both reduced like this, recall
            stays above 0.99 (docs/scaling.md has the measurements).
    """
    if options.exact:
        return None
    ef = max(round(profile.ef * math.sqrt(largest_share)), options.limit)
    oversampling = max(1.0, profile.oversampling * largest_share**_COMPARED_POWER)
    if options.labels:
        # The graph has no extra links for each label, so use ACORN, which also visits neighbours' neighbours.
        return SearchPlan(2 * ef, oversampling, _ACORN_SELECTIVITY)
    return SearchPlan(ef, oversampling)
