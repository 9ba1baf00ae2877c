"""Frozen types of what galleries store and search: entries, queries and hits."""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gallery.errors import InvalidCodeError, InvalidQueryError

DEFAULT_LIMIT = 5
"""Default number of hits of a query."""
MAX_LIMIT = 1000
"""Largest number of hits that one query may ask for."""
MAX_DISTANCE = float(np.finfo(np.float32).max)
"""Largest distance that a float32 can hold. A larger bound on distances has no effect."""
MAX_NORM = 1e18
"""Largest Euclidean norm of a code. Encoders make codes with norms of 1 to 100.

Distances are computed in float32, as the root of a sum of squares, which overflows at 3.4e38. Two codes at this bound
are at most 2e18 apart. The square of that is 4e36, which leaves a factor of 85 for intermediate results.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored image.

    Attributes:
        key: The image's name for people, unique in its gallery.
        code: (code_size,) float32, finite.
        label: The image's label, such as a digit; empty if unlabelled.
        sha256: SHA-256 of the image's content, 64 hex digits. A load compares it to detect images that have changed.
        thumbnail_png: A small PNG of the image; empty if it has no thumbnail.
    """

    key: str
    code: NDArray[np.float32]
    label: str = ""
    sha256: str = ""
    thumbnail_png: bytes = b""


class Changes(NamedTuple):
    """Numbers of entries that have changed since a gallery's search index was built.

    Attributes:
        added: Entries that were added or replaced. Each search compares its query with all of them, one by one.
        deleted: Entries that were deleted, whose space on disk is still taken.
    """

    added: int = 0
    deleted: int = 0


class Relation(StrEnum):
    """Relation of a hit to the query, judged by their distance; see `Calibration.relation`."""

    SAME = "same"
    """The same picture, perhaps compressed, scaled or slightly cropped."""
    SIMILAR = "similar"
    """Another picture, no farther away than the gallery's own images are from their five nearest neighbours."""
    UNRELATED = "unrelated"
    """Farther away than that."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result: a stored image and its distance to the query.

    Attributes:
        key: The image's key.
        distance: Euclidean distance to the query, 0 or more; smaller is nearer.
        label: The image's label, such as a digit; empty if unlabelled.
        thumbnail_png: A small PNG of the image; empty unless the query asked for thumbnails.
        distance_percentile: Percentage of the gallery's own images whose nearest neighbour is nearer than this hit,
            0 to 100; None if the gallery has no `Calibration`.
        relation: Whether the hit is the same picture, similar or unrelated; None if the gallery's calibration lacks the
            distances to judge it by.
        code: (code_size,) float32; None unless the query asked for codes. Comparing two hits ignores their codes.
    """

    key: str
    distance: float
    label: str = ""
    thumbnail_png: bytes = b""
    distance_percentile: float | None = None
    relation: Relation | None = None
    code: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """Options of a search.

    Attributes:
        limit: Largest number of hits, 1 to 1,000.
        labels: Return only images with one of these labels; empty for all images.
        max_distance: Return only hits at this distance or nearer, 0 or more; None for no bound.
        exclude_keys: Never return images with these keys.
        exact: Compare the query with every stored code instead of using the index.
        with_thumbnails: Fill in each hit's thumbnail.

    Raises:
        InvalidQueryError: `limit` or `max_distance` is out of its range.
    """

    limit: int = DEFAULT_LIMIT
    labels: tuple[str, ...] = ()
    max_distance: float | None = None
    exclude_keys: tuple[str, ...] = ()
    exact: bool = False
    with_thumbnails: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidQueryError(f"limit: expected 1 to {MAX_LIMIT:,}, got {self.limit:,}")
        if self.max_distance is not None and not (math.isfinite(self.max_distance) and self.max_distance >= 0):
            raise InvalidQueryError(f"max_distance: expected 0 or more, got {self.max_distance}")


@dataclass(frozen=True, slots=True)
class Query:
    """A search for the nearest neighbours of a code.

    Attributes:
        code: (code_size,) float32, finite.
        options: Filters and limits of the search, and the contents of its hits.
        with_codes: Fill in each hit's code.
    """

    code: NDArray[np.float32]
    options: SearchOptions = SearchOptions()
    with_codes: bool = False


def check_codes(codes: NDArray[np.float32], code_size: int) -> NDArray[np.float32]:
    """Return codes, (n, code_size), unchanged if they are valid.

    Raises:
        InvalidCodeError: The codes have the wrong size, or contain NaN or infinity.
    """
    _check_size(codes, code_size)
    finite = np.isfinite(codes)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InvalidCodeError(f"code: expected finite numbers, got {codes[row, column]} at position {column}")
    return codes


def check_comparable(codes: NDArray[np.float32], code_size: int) -> NDArray[np.float32]:
    """Return codes, (n, code_size), unchanged if a gallery can store them and compare them with others.

    Raises:
        InvalidCodeError: The codes are invalid, or so large that distances overflow.
    """
    _check_size(codes, code_size)
    norms = np.linalg.norm(codes.astype(np.float64), axis=1)  # (n,)
    if not (norms <= MAX_NORM).all():  # a code with NaN or infinity has such a norm too
        check_codes(codes, code_size)
        raise InvalidCodeError(
            f"code: expected a Euclidean norm of at most {MAX_NORM:g}, beyond which distances overflow, "
            f"got {norms.max():.3g}"
        )
    return codes


def _check_size(codes: NDArray[np.float32], code_size: int) -> None:
    if codes.ndim != 2 or codes.shape[1] != code_size:
        raise InvalidCodeError(f"code: expected {code_size} numbers, got {codes.shape[-1] if codes.ndim else 0}")
