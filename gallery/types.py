"""The plain values that galleries take and give. All are frozen."""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gallery.errors import EncoderMismatchError, InvalidCodeError, InvalidQueryError, StoreDamagedError
from gallery.profiles import DEFAULT_PROFILE, find_profile

DEFAULT_LIMIT = 5
"""The hits of a query that does not say how many."""
MAX_LIMIT = 1000
"""The most hits that one query may ask for."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored image.

    Attributes:
        key: Its name for people, unique in its gallery.
        code: (code_size,) float32, finite.
        label: What it is said to show; empty for none.
        sha256: Hash of the image's content, 64 hex digits; tells whether a key's image has changed.
        thumbnail_png: A small PNG of it; empty for none.
    """

    key: str
    code: NDArray[np.float32]
    label: str = ""
    sha256: str = ""
    thumbnail_png: bytes = b""


@dataclass(frozen=True, slots=True)
class Hit:
    """One result: a stored image and how near it is.

    Attributes:
        key: The image's name.
        distance: Euclidean distance to the query, 0 or more, smaller is nearer.
        label: What the image is said to show; empty for none.
        thumbnail_png: A small PNG of it, if asked for.
        distance_percentile: How the distance compares with the gallery's own, see `Calibration`; None for unknown.
    """

    key: str
    distance: float
    label: str = ""
    thumbnail_png: bytes = b""
    distance_percentile: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """Which stored images may answer a query, and what a hit carries.

    Attributes:
        limit: The most hits wanted, 1 to 1,000.
        labels: Only images with one of these labels; empty for all.
        max_distance: The farthest a hit may be; None for no bound.
        exclude_keys: Keys that must not answer.
        exact: Compare with every stored code instead of using the index.
        with_thumbnails: Fill each hit's thumbnail.

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
    """A code, (code_size,) float32 and finite, to search a gallery for."""

    code: NDArray[np.float32]
    options: SearchOptions = SearchOptions()


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is usual in a gallery, as quantiles of a sample of its own images: 0 %, 1 %, … 100 %.

    Attributes:
        errors: Mean squared error between an image and its reconstruction.
        distances: Distance from an image to its nearest neighbour.
    """

    errors: tuple[float, ...]
    distances: tuple[float, ...]

    @classmethod
    def from_samples(cls, errors: Sequence[float], distances: Sequence[float]) -> "Calibration":
        """Make one of samples, each of at least one value."""
        steps = np.linspace(0, 1, 101)
        return cls(*(tuple(float(v) for v in np.quantile(sample, steps)) for sample in (errors, distances)))

    def error_percentile(self, error: float) -> float:
        """Return which part of the gallery's images has a smaller error, 0 to 100."""
        return _percentile(error, self.errors)

    def distance_percentile(self, distance: float) -> float:
        """Return which part of the gallery's images has its nearest neighbour nearer, 0 to 100."""
        return _percentile(distance, self.distances)


@dataclass(frozen=True, slots=True)
class Placement:
    """How a gallery is spread over a cluster; None leaves it to the server.

    Attributes:
        shards: In how many parts.
        replicas: How many nodes hold each part.
        write_consistency: How many of them must have taken a write before it is acknowledged.
    """

    shards: int | None = None
    replicas: int | None = None
    write_consistency: int | None = None

    def require_default(self, store: str) -> None:
        """Refuse to spread a gallery where there is no cluster.

        Raises:
            InvalidQueryError: Something is set.
        """
        if self != DEFAULT_PLACEMENT:
            raise InvalidQueryError(
                f"store {store}: expected a server for shards and replicas: --store http://HOST:6333"
            )


DEFAULT_PLACEMENT = Placement()
"""Wherever the server puts it."""


@dataclass(frozen=True, slots=True)
class GallerySpec:
    """What a gallery is.

    Attributes:
        name: 1 to 64 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit.
        encoder: Name of the encoder that makes its codes.
        fingerprint: SHA-256 of that encoder's weights file, 64 hex digits.
        code_size: How many numbers a code has.
        profile: How it is stored and searched, a name in `gallery.profiles`.
        version: The build this is, from 1; 0 before it is one.
        sources: What has been loaded into it, such as "mnist/train".
        count: How many images it holds.
        calibration: What is usual in it; None where that is not known.

    Raises:
        InvalidQueryError: The name can't be a gallery's, or there is no such profile.
    """

    name: str
    encoder: str
    fingerprint: str
    code_size: int
    version: int = 0
    profile: str = DEFAULT_PROFILE
    sources: tuple[str, ...] = ()
    count: int = 0
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        find_profile(self.profile)

    @classmethod
    def from_json(cls, facts: object, where: str) -> "GallerySpec":
        """Make one of what `dataclasses.asdict` and JSON made of another.

        Raises:
            StoreDamagedError: The facts are not a gallery's; the message says where they are.
        """
        try:
            fields = dict(facts)  # type: ignore[call-overload]
            usual = fields["calibration"] and Calibration(
                *(tuple(fields["calibration"][name]) for name in ("errors", "distances"))
            )
            return cls(**{**fields, "sources": tuple(fields["sources"]), "calibration": usual})
        except (KeyError, TypeError, ValueError, InvalidQueryError) as error:
            raise StoreDamagedError(f"{where} can't be read as a gallery's description: {error}") from error

    def check_encoder(self, encoder: str, fingerprint: str) -> None:
        """Refuse codes of another encoder.

        Raises:
            EncoderMismatchError: The fingerprints differ.
        """
        if fingerprint != self.fingerprint:
            raise EncoderMismatchError(
                f"gallery '{self.name}' was made by encoder '{self.encoder}' ({self.fingerprint[:8]}…) and "
                f"this runs '{encoder}' ({fingerprint[:8]}…): build it again with `ingest load … "
                f"--name {self.name} --encoder {encoder} --rebuild`"
                + (f", or run with `--encoder {self.encoder}`" if encoder != self.encoder else "")
            )

    def extended_by(self, other: "GallerySpec") -> "GallerySpec":
        """Return this with the other's sources added.

        Raises:
            EncoderMismatchError: The other's codes come from another encoder.
        """
        self.check_encoder(other.encoder, other.fingerprint)
        return replace(self, sources=tuple(dict.fromkeys((*self.sources, *other.sources))))


def _percentile(value: float, quantiles: tuple[float, ...]) -> float:
    """Return where a value lies among 101 quantiles, 0 to 100, between two of them in proportion."""
    above = bisect_right(quantiles, value)
    if above in (0, len(quantiles)):
        return 100.0 if above else 0.0
    low, high = quantiles[above - 1], quantiles[above]
    return above - 1 + (value - low) / (high - low)


def check_name(name: str) -> str:
    """Return the gallery name unchanged.

    Raises:
        InvalidQueryError: It can't be a gallery's name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidQueryError(
            f"gallery name {name!r}: expected 1 to 64 of a-z, 0-9, '.', '-' and '_', beginning with a letter or digit"
        )
    return name


def check_codes(codes: NDArray[np.float32], code_size: int) -> NDArray[np.float32]:
    """Return the codes, (n, code_size), unchanged.

    Raises:
        InvalidCodeError: They have another size, or hold NaN or infinity.
    """
    if codes.ndim != 2 or codes.shape[1] != code_size:
        raise InvalidCodeError(f"code: expected {code_size} numbers, got {codes.shape[-1] if codes.ndim else 0}")
    finite = np.isfinite(codes)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InvalidCodeError(f"code: expected finite numbers, got {codes[row, column]} at position {column}")
    return codes
