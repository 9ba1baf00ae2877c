"""Image to hits: encode, then search. No gRPC in it; the service and the terminal use the same."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.encoder import Encoder
from encoder_service.errors import at
from gallery import Gallery, Hit, Query, SearchOptions
from gallery.deadline import check_wanted
from gallery.errors import KeyNotFoundError
from gallery.types import check_codes

Subject = bytes | Image.Image | NDArray[np.float32] | str
"""What to look for: an image file's bytes, an image, a code, or the key of a stored image."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What to look for, and among what."""

    subject: Subject
    options: SearchOptions = SearchOptions()


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of one search, nearest first, and where they came from.

    Attributes:
        hits: The stored images that look most like the query.
        gallery: Name of the gallery.
        version: Its version, from 1.
        encoder: Name of the encoder that made its codes.
        fingerprint: SHA-256 of that encoder's weights, 64 hex digits.
        encode_ms: Time to decode, normalise and encode the query; of a batch, all its queries.
        search_ms: Time to search; of a batch, for all its queries.
        query_thumbnail_png: The stored thumbnail of a query given by key, if asked for.
        reconstruction_error: Mean squared error between a query image and its reconstruction; None for others.
        query_percentile: How unusual that error is for the gallery, 0 to 100; above 99, the query is probably
            nothing like the gallery. None where the error or the gallery's calibration is not known.
    """

    hits: tuple[Hit, ...]
    gallery: str
    version: int
    encoder: str
    fingerprint: str
    encode_ms: float
    search_ms: float
    query_thumbnail_png: bytes = b""
    reconstruction_error: float | None = None
    query_percentile: float | None = None

    @property
    def is_unusual(self) -> bool:
        """Whether the gallery probably has nothing like it: query or nearest hit lie above the 99th percentile."""
        nearest = self.hits[0].distance_percentile if self.hits else None
        return any(percentile is not None and percentile > 99 for percentile in (self.query_percentile, nearest))


@dataclass(slots=True)
class _Prepared:
    """A request whose subject has been made small, or looked up."""

    options: SearchOptions
    input: NDArray[np.float32] | None = None
    code: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    thumbnail_png: bytes = b""
    error: float | None = None


class Searcher:
    """Answers "what looks like this?" with one encoder and one gallery. Safe to use from several threads."""

    def __init__(self, encoder: Encoder, gallery: Gallery) -> None:
        """Take the two parts.

        Raises:
            EncoderMismatchError: The gallery was made by another encoder.
        """
        gallery.spec.check_encoder(encoder.spec.name, encoder.spec.fingerprint)
        self._encoder = encoder
        self._gallery = gallery

    def search(self, request: SearchRequest) -> SearchResult:
        """Find the stored images nearest to the subject.

        Raises:
            ImageError: The subject is no image, or too large a one.
            InvalidCodeError: The subject is a code with NaN, infinity or a wrong size.
            KeyNotFoundError: The subject is a key that the gallery does not hold.
        """
        begun = time.perf_counter()
        return self._search([self._prepare(request)], begun)[0]

    def search_batch(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer several requests at once, in the same order. One bad request fails all, named by its index."""
        begun = time.perf_counter()
        prepared = []
        for index, request in enumerate(requests):
            with at(f"requests[{index}]"):
                prepared.append(self._prepare(request))
        return self._search(prepared, begun)

    def _prepare(self, request: SearchRequest) -> _Prepared:
        check_wanted()
        subject, options = request.subject, request.options
        match subject:
            case bytes():
                return _Prepared(options, self._encoder.normalise([images.decode(subject)])[0])
            case Image.Image():
                return _Prepared(options, self._encoder.normalise([subject])[0])
            case str():
                entry = self._gallery.get([subject])[0]
                if entry is None:
                    raise KeyNotFoundError(f"no image '{subject}' in gallery '{self._gallery.spec.name}'")
                options = replace(options, exclude_keys=(*options.exclude_keys, subject))
                return _Prepared(options, None, entry.code, entry.thumbnail_png if options.with_thumbnails else b"")
            case _:
                return _Prepared(options, code=check_codes(subject[None], self._gallery.spec.code_size)[0])

    def _search(self, prepared: list[_Prepared], begun: float) -> list[SearchResult]:
        pictures = [item for item in prepared if item.input is not None]
        self._encode(pictures)
        encoded = time.perf_counter()
        check_wanted()
        answers = self._gallery.search_batch([Query(item.code, item.options) for item in prepared])
        searched = time.perf_counter()
        spec = self._gallery.spec
        usual = spec.calibration
        return [
            SearchResult(
                hits=tuple(
                    replace(hit, distance_percentile=usual.distance_percentile(hit.distance)) if usual else hit
                    for hit in hits
                ),
                gallery=spec.name,
                version=spec.version,
                encoder=spec.encoder,
                fingerprint=spec.fingerprint,
                encode_ms=(encoded - begun) * 1e3 if pictures else 0.0,
                search_ms=(searched - encoded) * 1e3,
                query_thumbnail_png=item.thumbnail_png,
                reconstruction_error=item.error,
                query_percentile=None if usual is None or item.error is None else usual.error_percentile(item.error),
            )
            for hits, item in zip(answers, prepared, strict=True)
        ]

    def _encode(self, items: list[_Prepared]) -> None:
        """Fill in code and reconstruction error of the items that are pictures."""
        if not items:
            return
        inputs = np.stack([item.input for item in items if item.input is not None])
        codes = self._encoder.encode(inputs)
        errors = self._encoder.reconstruction_errors(inputs, codes)
        for item, code, error in zip(items, codes, errors, strict=True):
            item.code, item.error = code, float(error)
