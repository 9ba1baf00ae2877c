"""The description of a gallery, which is stored beside its codes: name, encoder, profile, calibration and more."""

import math
import re
import reprlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gallery.errors import EncoderMismatchError, InvalidQueryError, StoreDamagedError
from gallery.formats import FORMAT_KEY, check_format
from gallery.profiles import DEFAULT_PROFILE, find_profile
from gallery.types import Relation

_FORMAT = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Minimum of each integer field in a spec's JSON object.
_LEAST = {"code_size": 1, "version": 0, "count": 0}
_QUANTILES = 101
# Added to the share of neighbouring pixels that differ, which is 0 in a blank image.
_DIFFERING_FLOOR = 0.02


@dataclass(frozen=True, slots=True)
class Calibration:
    """Typical reconstruction errors and neighbour distances of a gallery's images, for comparison with a query's.

    Errors and distances are given by the quantiles 0 %, 1 %, …, 100 % of a sample of the images.

    Attributes:
        errors: 101 quantiles of the error between an image and its reconstruction; see `is_relative`.
        distances: 101 quantiles of the distance from an image to its nearest neighbour.
        same_distance: Largest distance between two codes of the same picture, 0 or more, as measured with slightly
            altered copies of some images; None if it has not been measured, as in galleries of earlier releases.
        similar_distance: Largest distance between two codes of similar images, 0 or more: 99 % of the images have their
            five nearest neighbours within it. None if it has not been measured.
        flatness: Usual range of the share of equal neighbouring pixels, 0 to 1; see `usual_flatness`. Noise has less,
            and blank images have more. None if it has not been measured.
        is_relative: Whether the errors are relative; see `relative_error`. False in galleries of earlier releases,
            whose errors are mean squared errors.
    """

    errors: tuple[float, ...]
    distances: tuple[float, ...]
    same_distance: float | None = None
    similar_distance: float | None = None
    flatness: tuple[float, float] | None = None
    is_relative: bool = False

    @classmethod
    def from_samples(cls, errors: Sequence[float], distances: Sequence[float]) -> "Calibration":
        """Compute the quantiles of two samples, each of at least one value.

        Args:
            errors: Relative errors of some images of the gallery; see `relative_error`.
            distances: Distances from some images of the gallery to their nearest neighbours.
        """
        steps = np.linspace(0, 1, _QUANTILES)
        quantiles = [tuple(float(v) for v in np.quantile(sample, steps)) for sample in (errors, distances)]
        return cls(quantiles[0], quantiles[1], is_relative=True)

    def error_percentile(self, error: float, flatness: float) -> float:
        """Return the percentage of the gallery's images that are reconstructed better than an image, 0 to 100.

        Args:
            error: Mean squared error of the image's reconstruction.
            flatness: The image's share of equal neighbouring pixels, 0 to 1.
        """
        return _percentile(relative_error(error, flatness) if self.is_relative else error, self.errors)

    def distance_percentile(self, distance: float) -> float:
        """Return the percentage of the gallery's images with a neighbour nearer than `distance`, 0 to 100."""
        return _percentile(distance, self.distances)

    def is_flatness_usual(self, flatness: float, *, may_be_drawn: bool) -> bool:
        """Return whether an image's share of equal neighbouring pixels is in the usual range of the gallery's images.

        Args:
            flatness: The share, 0 to 1.
            may_be_drawn: Whether queries may be drawings of what the gallery has scans of, such as digits that are
                drawn with a mouse. Drawings have more equal pixels, so the range then ends at three quarters of the way
                from its usual end to 1.
        """
        if self.flatness is None:
            return True
        least, most = self.flatness
        return least <= flatness <= (1 - (1 - most) / 4 if may_be_drawn else most)

    def relation(self, distance: float) -> Relation | None:
        """Return the relation of two images, judged by the distance of their codes; None if it can't be judged."""
        if self.same_distance is None or self.similar_distance is None:
            return None
        if distance <= self.same_distance:
            return Relation.SAME
        return Relation.SIMILAR if distance <= self.similar_distance else Relation.UNRELATED


def usual_flatness(shares: Sequence[float]) -> tuple[float, float]:
    """Return the usual range of the share of equal neighbouring pixels.

    Args:
        shares: The shares in a sample of a gallery's images, 0 to 1, at least one.

    Returns:
        The smallest share; and the point a quarter of the way from the 90th percentile to 1, which varies less from
        sample to sample than the largest share.
    """
    most = float(np.quantile(shares, 0.9))
    return min(shares), most + (1 - most) / 4


def relative_error(error: float, flatness: float) -> float:
    """Return the error of a reconstruction, relative to the share of neighbouring pixels that differ.

    Flat areas are easy to reconstruct. Without this division, a small drawing on a plain background would have a small
    error, however badly it is reconstructed.

    Args:
        error: Mean squared error between an image and its reconstruction, 0 to 1.
        flatness: The image's share of equal neighbouring pixels, 0 to 1.
    """
    return error / (1 - flatness + _DIFFERING_FLOOR)


@dataclass(frozen=True, slots=True)
class Placement:
    """Distribution of a gallery over the nodes of a cluster. None leaves a setting to the server.

    Attributes:
        shards: Number of shards that the gallery is split into.
        replicas: Number of nodes that hold each shard.
        write_consistency: Number of replicas that must apply a write before it is acknowledged.
    """

    shards: int | None = None
    replicas: int | None = None
    write_consistency: int | None = None

    def filled_from(self, other: "Placement") -> "Placement":
        """Return this placement with the settings of another one where this one has None."""
        return Placement(
            self.shards or other.shards,
            self.replicas or other.replicas,
            self.write_consistency or other.write_consistency,
        )

    def require_default(self, url: str) -> None:
        """Check that no setting is given. Stores that are not on a server call this.

        Args:
            url: The store's URL, for the error.

        Raises:
            InvalidQueryError: A setting is not None.
        """
        if self != DEFAULT_PLACEMENT:
            raise InvalidQueryError(
                "shards and replicas: expected a store on a server: name one with --store http://HOST:6333",
                place=f"store {url}",
            )


DEFAULT_PLACEMENT = Placement()
"""Leaves every setting to the server."""


@dataclass(frozen=True, slots=True)
class GallerySpec:
    """Description of one version of a gallery.

    Attributes:
        name: 1 to 64 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit.
        encoder: Name of the encoder that makes its codes.
        fingerprint: SHA-256 of that encoder's weights file, 64 hex digits.
        code_size: Length of a code.
        version: Number of the version, from 1; 0 before it is built.
        profile: Name of its storage profile, see `gallery.profiles`.
        sources: Names of the sources loaded into it, such as "mnist/train".
        count: Number of its images when it was last published.
        calibration: Its typical errors and distances; None if they have not been measured.
        published_at: Time of the last publication, in UTC as in RFC 3339, such as "2026-11-26T09:30:00Z"; empty if
            unknown. Comparisons ignore it.

    Raises:
        InvalidQueryError: `name` is not a valid gallery name, or `profile` is not the name of a profile.
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
    published_at: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        find_profile(self.profile)

    @classmethod
    def from_json(cls, content: object, place: str) -> "GallerySpec":
        """Make a spec from the JSON object that `to_json` returned.

        Unknown fields are ignored and missing fields take their defaults, because a newer release may add a field
        without changing the format.

        Args:
            content: The object.
            place: The file or collection that holds it, for errors.

        Raises:
            NewerFormatError: A newer release wrote the object, in a format that this one can't read.
            StoreDamagedError: The object does not describe a gallery.
        """
        try:
            if not isinstance(content, Mapping):
                raise TypeError(f"expected a JSON object, got {reprlib.repr(content)}")
            check_format(content, _FORMAT, place)
            missing = [field.name for field in fields(cls) if field.default is MISSING and field.name not in content]
            if missing:
                raise ValueError(f"no {', '.join(missing)}")
            known = {field.name: content[field.name] for field in fields(cls) if field.name in content}
            return cls(**{name: _checked(name, value) for name, value in known.items()})
        except (KeyError, TypeError, ValueError, InvalidQueryError) as error:
            raise StoreDamagedError(f"can't be read as a gallery's description: {error}", place=place) from error

    def to_json(self) -> dict[str, Any]:
        """Return the spec as an object that can be written as JSON."""
        return {FORMAT_KEY: _FORMAT, **asdict(self)}

    def check_encoder(self, encoder: str, fingerprint: str) -> None:
        """Check that the encoder in use is the one that made this gallery's codes.

        Args:
            encoder: Name of the encoder in use.
            fingerprint: SHA-256 of its weights file, 64 hex digits.

        Raises:
            EncoderMismatchError: The fingerprint differs from this gallery's.
        """
        if fingerprint != self.fingerprint:
            raise EncoderMismatchError(
                f"gallery '{self.name}' was made by encoder '{self.encoder}' ({self.fingerprint[:8]}…), and the one in "
                f"use is '{encoder}' ({fingerprint[:8]}…): build it again with `ingest load … --gallery {self.name} "
                f"--encoder {encoder} --rebuild`"
                + (f", or run with `--encoder {self.encoder}`" if encoder != self.encoder else "")
            )

    @property
    def publication(self) -> tuple[int, str, str]:
        """What tells one publication from all others: version, fingerprint and time.

        A load that extends a gallery on a Qdrant server publishes the same version again.
        """
        return self.version, self.fingerprint, self.published_at

    def published(self, count: int, calibration: Calibration | None) -> "GallerySpec":
        """Return this spec as it is published now, with the number of its images and its typical values."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return replace(self, count=count, calibration=calibration, published_at=now)

    def extended_by(self, other: "GallerySpec") -> "GallerySpec":
        """Return this spec with the sources of `other` added.

        Raises:
            EncoderMismatchError: `other` has another encoder.
        """
        self.check_encoder(other.encoder, other.fingerprint)
        return replace(self, sources=tuple(dict.fromkeys((*self.sources, *other.sources))))


def _checked(name: str, value: Any) -> Any:
    """Check the JSON value of a spec's field, and return it with the field's own type, such as tuple for a list.

    Raises:
        KeyError, TypeError, ValueError: The field can't have this value.
    """
    if name == "calibration":
        return value if value is None else _calibration(value)
    if name == "sources":
        if not (isinstance(value, list | tuple) and all(isinstance(source, str) for source in value)):
            raise TypeError(f"sources: expected names, got {reprlib.repr(value)}")
        return tuple(value)
    if name in _LEAST:
        if type(value) is not int or value < _LEAST[name]:
            raise ValueError(f"{name}: expected a whole number of {_LEAST[name]} or more, got {reprlib.repr(value)}")
    elif not isinstance(value, str):
        raise TypeError(f"{name}: expected a text, got {reprlib.repr(value)}")
    return value


def _calibration(value: Any) -> Calibration:
    cuts = [value.get(name) for name in ("same_distance", "similar_distance")]
    if any(cut is not None and not (math.isfinite(cut) and cut >= 0) for cut in cuts):
        raise ValueError(f"calibration: expected distances that are finite and 0 or more, got {cuts}")
    flatness = value.get("flatness")
    if flatness is not None:
        least, most = flatness
        if not 0 <= least <= most <= 1:
            raise ValueError(f"calibration: expected a range of flatness from 0 to 1, got {flatness}")
        flatness = least, most
    same, similar = cuts
    is_relative = bool(value.get("is_relative", False))
    return Calibration(
        _quantiles(value["errors"]), _quantiles(value["distances"]), same, similar, flatness, is_relative
    )


def _quantiles(values: Any) -> tuple[float, ...]:
    quantiles = tuple(map(float, values))
    if len(quantiles) != _QUANTILES or not all(map(math.isfinite, quantiles)):
        raise ValueError(f"calibration: expected {_QUANTILES} finite numbers, got {reprlib.repr(values)}")
    return quantiles


def _percentile(value: float, quantiles: tuple[float, ...]) -> float:
    """Return the percentile of a value among 101 quantiles, 0 to 100, interpolated linearly between two of them."""
    above = bisect_right(quantiles, value)
    if above in (0, len(quantiles)):
        return 100.0 if above else 0.0
    low, high = quantiles[above - 1], quantiles[above]
    return above - 1 + (value - low) / (high - low)


def check_name(name: str) -> str:
    """Return a gallery's name unchanged if it is valid.

    Raises:
        InvalidQueryError: The name is invalid.
    """
    if not _NAME.fullmatch(name):
        raise InvalidQueryError(
            f"gallery name {name!r}: expected 1 to 64 of a-z, 0-9, '.', '-' and '_', beginning with a letter or digit"
        )
    return name
