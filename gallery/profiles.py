"""Storage profiles: where the parts of a gallery are kept and how they are searched, on Edge and on a server alike.

`benchmarks/scale.py` measures the profiles, and docs/scaling.md says what each costs.
"""

from dataclasses import dataclass
from enum import StrEnum

from gallery.errors import InvalidQueryError
from gallery.types import SearchOptions

DEFAULT_PROFILE = "balanced"
"""The profile of a gallery unless its builder chooses another."""

# Largest fraction of a gallery that a filter may leave for ACORN to be used: broader filters need only the graph.
_ACORN_SELECTIVITY = 0.5


class Memory(StrEnum):
    """Memory in which a part of a gallery is kept, in addition to the disk."""

    COLD = "cold"
    """Read from disk on demand, and cached while memory is free."""
    CACHED = "cached"
    """Read into the page cache when the gallery is opened, and evicted under memory pressure."""
    PINNED = "pinned"
    """Always in memory."""


class Quantised(StrEnum):
    """Quantisation of the codes for the first pass of a search. The nearest candidates are then compared in full."""

    NONE = "none"
    """32 bits a number, and a single pass."""
    INT8 = "int8"
    """8 bits a number, scalar quantisation."""
    TURBO4 = "turbo4"
    """4 bits a number, Qdrant's TurboQuant."""
    TURBO2 = "turbo2"
    """2 bits a number, Qdrant's TurboQuant."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Settings for storing and searching a gallery.

    Attributes:
        name: The profile's name.
        meaning: One line that says when to choose it.
        codes: Where the full codes are kept, 512 bytes each.
        graph: Where the search graph is kept.
        payload: Where keys, labels and thumbnails are kept.
        ids: Where the table from point ids to positions is kept.
        quantised: How codes are quantised.
        shortened: Where the quantised codes are kept.
        m: Neighbours of a point in the graph.
        ef_construct: Candidates compared when a point is inserted into the graph.
        max_segment_mb: Largest size, in MB of full codes, of one segment; each segment has a graph of its own.
        ef: Lower bound on the candidates that a search keeps.
        oversampling: Candidates compared in full, as a multiple of the search's limit.
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


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """Parameters of one search of the index.

    Attributes:
        ef: Candidates that the graph search keeps.
        oversampling: Candidates compared in full, as a multiple of the search's limit.
        acorn_selectivity: Largest fraction of the gallery that the filter may leave for ACORN to be used; None to
            search without ACORN.
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
        InvalidQueryError: No profile has this name.
    """
    if name not in PROFILES:
        raise InvalidQueryError(f"profile: expected one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]


def search_plan(profile: Profile, options: SearchOptions) -> SearchPlan | None:
    """Return the parameters to search the index with, or None to compare the query with every code in full."""
    if options.exact:
        return None
    ef = max(profile.ef, options.limit)
    if options.labels:
        # The graph has no links within a label, so ACORN also looks at neighbours' neighbours.
        return SearchPlan(2 * ef, profile.oversampling, _ACORN_SELECTIVITY)
    return SearchPlan(ef, profile.oversampling)
