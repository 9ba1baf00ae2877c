"""Search by example: encode a query image, then search a gallery. Independent of gRPC."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.capacity import decoded
from encoder_service.encoder import Encoder
from encoder_service.errors import at, quoted
from encoder_service.limits import EXACT_DISTANCE, UNUSUAL_PERCENTILE
from gallery import Calibration, Gallery, Hit, Query, SearchOptions
from gallery.deadline import check_wanted
from gallery.errors import InvalidInputError, KeyNotFoundError
from gallery.types import check_comparable


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a stored image, such as "mnist/train/0", as the subject of a search for similar images."""

    value: str


Subject = bytes | Path | Image.Image | NDArray[np.float32] | Key
"""The query of a search: an image file's bytes, an image file's path, an image, a code, or a stored image's key."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search.

    Attributes:
        subject: The query. An image is of mode L, RGB or RGBA, a code is (code_size,) float32 and finite.
        options: The number of hits, the stored images that may answer, and what a hit carries.
        as_is: Whether to search for an image as it is, even if the encoder has a rule that brings queries to the form
            of its data.
        with_reconstruction: Whether to return the query image as the encoder saw it, and as the decoder reconstructs
            it.

    Raises:
        InvalidInputError: The subject has another type. A string is rejected, as it could be a path or a key.
    """

    subject: Subject
    options: SearchOptions = SearchOptions()
    as_is: bool = False
    with_reconstruction: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.subject, bytes | Path | Image.Image | np.ndarray | Key):
            raise InvalidInputError(
                "subject: expected a Path for a file or a Key for a stored image, "
                f"got {type(self.subject).__name__} {self.subject!r:.80}"
            )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of one search, with the gallery and encoder that they come from.

    Attributes:
        hits: The most similar stored images, nearest first.
        gallery: Name of the gallery.
        version: The gallery's version, from 1.
        encoder: Name of the encoder that made the gallery's codes.
        fingerprint: SHA-256 of that encoder's weights, 64 hex digits.
        encode_ms: Milliseconds to decode, normalise and encode the query; in a batch, all queries together.
        search_ms: Milliseconds to search; in a batch, for all queries together.
        query_thumbnail_png: The stored thumbnail of a query given by key, if the options ask for thumbnails.
        reconstruction_error: Mean squared error between a query image and its reconstruction; None if the query is
            not an image.
        query_percentile: Percentage of the gallery's own images with a smaller error, 0 to 100. Above 99, the query
            is probably unlike anything in the gallery. None if the error or the gallery's calibration is unknown.
        prepared: Steps that brought a query image to the form of the encoder's data, such as "inverted, centred"; empty
            if none were needed.
        input_png: A query image as the encoder saw it, if the request asks for the reconstruction.
        reconstruction_png: The image that the decoder makes of the query's code, if the request asks for it.
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
    prepared: str = ""
    input_png: bytes = b""
    reconstruction_png: bytes = b""

    @property
    def is_unusual(self) -> bool:
        """Whether the query is probably unlike anything in the gallery.

        True if the query's error or its nearest hit's distance is above the 99th percentile of the gallery's own, and
        the query itself is not a hit.
        """
        if self.hits and self.hits[0].distance <= EXACT_DISTANCE:
            return False
        nearest = self.hits[0].distance_percentile if self.hits else None
        return any(
            percentile is not None and percentile > UNUSUAL_PERCENTILE
            for percentile in (self.query_percentile, nearest)
        )


# A framed query is also searched as it is. The unframed search wins if its nearest distance is below this share of the
# framed one's, because the gallery then holds the same picture, or others in the same form.
_AS_IS_PART = 0.5


@dataclass(frozen=True, slots=True)
class _ImageQuery:
    """A query image as an encoder's input, (height, width, channels).

    Attributes:
        options: The search's options.
        input: The image as it is.
        framed: The image in the form of the encoder's data; None if it has that form already.
        prepared: Steps that brought it to that form.
        is_shown: Whether to return its input and its reconstruction.
    """

    options: SearchOptions
    input: NDArray[np.float32]
    framed: NDArray[np.float32] | None = None
    prepared: str = ""
    is_shown: bool = False


@dataclass(frozen=True, slots=True)
class _CodeQuery:
    """A query whose code, (code_size,), is known, and its input if it is an image."""

    options: SearchOptions
    code: NDArray[np.float32]
    error: float | None = None
    thumbnail_png: bytes = b""
    prepared: str = ""
    is_shown: bool = False
    input: NDArray[np.float32] | None = None


class Searcher:
    """Searches one gallery with one encoder. Safe to use from several threads."""

    def __init__(self, encoder: Encoder, gallery: Gallery) -> None:
        """Pair an encoder with a gallery of its codes.

        Raises:
            EncoderMismatchError: Another encoder made the gallery.
        """
        gallery.spec.check_encoder(encoder.spec.name, encoder.spec.fingerprint)
        self._encoder = encoder
        self._gallery = gallery

    def search(self, request: SearchRequest) -> SearchResult:
        """Find the stored images nearest to the subject.

        Raises:
            ImageError: The subject can't be read, is not an image, or is too large.
            InvalidCodeError: The subject is a code with NaN, infinity or a wrong size.
            KeyNotFoundError: The gallery has no image with the subject's key.
            TooLateError: The caller's deadline has passed, or the caller has gone.
            UnavailableError: The gallery's store can't be used.
        """
        begun = time.perf_counter()
        return self._search([self._prepare(request)], begun)[0]

    def search_batch(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer several requests at once, in the same order.

        Raises:
            LookalikeError: One request is invalid. The batch fails as a whole with the error that `search` would
                raise, and the message begins with the request's position, as in "requests[3]".
        """
        begun = time.perf_counter()
        queries = []
        for index, request in enumerate(requests):
            with at(f"requests[{index}]"):
                queries.append(self._prepare(request))
        return self._search(queries, begun)

    def _prepare(self, request: SearchRequest) -> _ImageQuery | _CodeQuery:
        """Reduce a request's image to an input, one request at a time: many large images would not fit in memory."""
        check_wanted()
        subject, options = request.subject, request.options
        match subject:
            case Path():
                return self._image_query(images.read(subject), request)
            case bytes() | Image.Image():
                return self._image_query(subject, request)
            case Key():
                return replace(self._key_query(subject.value, options), is_shown=request.with_reconstruction)
            case _:
                code = check_comparable(subject[None], self._gallery.spec.code_size)[0]
                return _CodeQuery(options, code, is_shown=request.with_reconstruction)

    def _image_query(self, image: bytes | Image.Image, request: SearchRequest) -> _ImageQuery:
        with decoded(image) as picture:
            query = _ImageQuery(
                request.options, self._encoder.normalise([picture])[0], is_shown=request.with_reconstruction
            )
            if request.as_is:
                return query
            framed, done = self._encoder.frame(picture)
            if not done:
                return query
            return replace(query, framed=self._encoder.normalise([framed])[0], prepared=", ".join(done))

    def _key_query(self, key: str, options: SearchOptions) -> _CodeQuery:
        entry = self._gallery.get([key])[0]
        if entry is None:
            raise KeyNotFoundError(f"no image {quoted(key)} in gallery '{self._gallery.spec.name}'")
        options = replace(options, exclude_keys=(*options.exclude_keys, key))
        return _CodeQuery(options, entry.code, thumbnail_png=entry.thumbnail_png if options.with_thumbnails else b"")

    def _search(self, queries: Sequence[_ImageQuery | _CodeQuery], begun: float) -> list[SearchResult]:
        candidates = self._encode(queries)
        encoded_at = time.perf_counter()
        check_wanted()
        hit_lists = iter(
            self._gallery.search_batch(
                [Query(query.code, query.options) for alternatives in candidates for query in alternatives]
            )
        )
        answers = [_nearer([(query, next(hit_lists)) for query in alternatives]) for alternatives in candidates]
        searched_at = time.perf_counter()
        spec = self._gallery.spec
        calibration = spec.calibration
        has_images = any(isinstance(query, _ImageQuery) for query in queries)
        return [
            SearchResult(
                hits=tuple(_with_percentile(hit, calibration) for hit in hits) if calibration else tuple(hits),
                gallery=spec.name,
                version=spec.version,
                encoder=spec.encoder,
                fingerprint=spec.fingerprint,
                encode_ms=(encoded_at - begun) * 1e3 if has_images else 0.0,
                search_ms=(searched_at - encoded_at) * 1e3,
                query_thumbnail_png=query.thumbnail_png,
                reconstruction_error=query.error,
                query_percentile=calibration.error_percentile(query.error)
                if calibration and query.error is not None
                else None,
                prepared=query.prepared,
                input_png=_png(query.input) if query.is_shown and query.input is not None else b"",
                reconstruction_png=_png(self._encoder.decode(query.code[None])[0]) if query.is_shown else b"",
            )
            for query, hits in answers
        ]

    def _encode(self, queries: Sequence[_ImageQuery | _CodeQuery]) -> list[list[_CodeQuery]]:
        """Encode all query images in one run, and measure their reconstruction errors.

        Returns:
            For each query, the query itself. For an image that had to be framed, the framed query and the original one.
        """
        inputs = []
        for query in queries:
            if isinstance(query, _ImageQuery):
                inputs += [query.input] if query.framed is None else [query.framed, query.input]
        encoded = self._codes_and_errors(np.stack(inputs)) if inputs else iter(())
        candidates = []
        for query in queries:
            if isinstance(query, _CodeQuery):
                candidates.append([query])
            elif query.framed is None:
                candidates.append([self._encoded(query, query.input, *next(encoded))])
            else:
                framed = self._encoded(query, query.framed, *next(encoded))
                as_is = self._encoded(query, query.input, *next(encoded))
                candidates.append([replace(framed, prepared=query.prepared), as_is])
        return candidates

    @staticmethod
    def _encoded(
        query: _ImageQuery, image_input: NDArray[np.float32], code: NDArray[np.float32], error: float
    ) -> _CodeQuery:
        return _CodeQuery(query.options, code, error, is_shown=query.is_shown, input=image_input)

    def _codes_and_errors(self, inputs: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], float]]:
        codes = self._encoder.encode(inputs)
        errors = self._encoder.reconstruction_errors(inputs, codes)
        return zip(codes, errors.tolist(), strict=True)


def _nearer(answers: Sequence[tuple[_CodeQuery, Sequence[Hit]]]) -> tuple[_CodeQuery, Sequence[Hit]]:
    """Return the only answer, or the better of the answers to a framed query and to the same query as it is."""
    framed, as_is = answers[0], answers[-1]
    if not as_is[1]:
        return framed
    if not framed[1] or as_is[1][0].distance < _AS_IS_PART * framed[1][0].distance:
        return as_is
    return framed


def _png(values: NDArray[np.float32]) -> bytes:
    return images.png(images.from_input(values))


def _with_percentile(hit: Hit, calibration: Calibration) -> Hit:
    """Return the hit with its percentile. A hit that is the query itself gets percentile 0."""
    is_exact = hit.distance <= EXACT_DISTANCE
    return replace(hit, distance_percentile=0.0 if is_exact else calibration.distance_percentile(hit.distance))
