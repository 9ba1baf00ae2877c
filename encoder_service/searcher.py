"""Search by example: encode a query image, then search a gallery. Independent of gRPC."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.capacity import decoded
from encoder_service.encoder import Encoder
from encoder_service.errors import at, quoted
from encoder_service.limits import EXACT_DISTANCE, MAX_EXPAND, UNUSUAL_PERCENTILE
from gallery import Calibration, Gallery, Hit, Query, SearchOptions
from gallery.deadline import check_wanted
from gallery.errors import InvalidInputError, InvalidQueryError, KeyNotFoundError
from gallery.types import MAX_DISTANCE, check_comparable


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a stored image, such as "mnist/train/0", for a search that uses this image as its query."""

    value: str


Subject = bytes | Path | Image.Image | NDArray[np.float32] | Key
"""The query of a search: an image file's bytes, an image file's path, an image, a code, or a stored image's key."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One search.

    Attributes:
        subject: The query. An image has mode L, RGB or RGBA. A code is (code_size,) float32, finite.
        options: The number of hits, filters on the stored images, and whether hits include thumbnails.
        as_is: True to search for an image as it is, even if the encoder has a rule that adapts queries to its training
            data.
        expand: Number of nearest hits whose codes are averaged with the query's, 0 to 8. The hits are then the images
            nearest to the mean. Their distances remain those to the query. 0 searches with the query's code alone.
        with_reconstruction: Whether to return the image as the encoder sees it, and as the decoder reconstructs it.
        with_code: Whether to return the query's code.

    Raises:
        InvalidInputError: The subject has another type. A string is rejected, because it could be a path or a key.
        InvalidQueryError: `expand` is out of its range, or is not 0 although the subject is a key.
    """

    subject: Subject
    options: SearchOptions = SearchOptions()
    as_is: bool = False
    expand: int = 0
    with_reconstruction: bool = False
    with_code: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.subject, bytes | Path | Image.Image | np.ndarray | Key):
            raise InvalidInputError(
                "subject: expected a Path for a file or a Key for a stored image, "
                f"got {type(self.subject).__name__} {self.subject!r:.80}"
            )
        if self.expand not in range(MAX_EXPAND + 1):
            raise InvalidQueryError(f"expand: expected 0 to {MAX_EXPAND}, got {self.expand}")
        if self.expand and isinstance(self.subject, Key):
            raise InvalidQueryError(
                f"expand: expected an image or a code, got the key {quoted(self.subject.value)}: "
                "search with the image itself, or without expanding"
            )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits of one search, and facts about the search.

    Attributes:
        hits: The most similar stored images, nearest first. If the query was expanded, the nearest to the mean come
            first, so their distances may not be in order.
        gallery: Name of the gallery.
        version: The gallery's version, from 1.
        encoder: Name of the encoder that made the gallery's codes.
        fingerprint: SHA-256 of that encoder's weights, 64 hex digits.
        encode_ms: Milliseconds for decoding, normalising and encoding the query. In a batch, the total for all queries.
        search_ms: Milliseconds for searching. In a batch, the total for all queries.
        query_thumbnail_png: The stored thumbnail of a query given by key, if the options ask for thumbnails.
        reconstruction_error: Mean squared error between a query image and its reconstruction; None if the query is
            not an image.
        query_percentile: Percentage of the gallery's own images with a smaller reconstruction error, relative to how
            much of the image is not flat, 0 to 100. For a query that is flatter or noisier than usual in the gallery,
            100. Above 99, the query is probably unlike anything in the gallery. None if the query's error is unknown,
            or the gallery has no calibration.
        prepared: Steps that adapted a query image to the encoder's training data, such as "inverted, centred"; empty
            if no step was needed.
        expanded_count: Number of nearest hits whose codes were averaged with the query's; 0 if the query was not
            expanded. Less than the request's `expand` if fewer images could be hits.
        input_png: The query image as the encoder saw it, a PNG. Empty if the query is not an image, or the request does
            not ask for the reconstruction.
        reconstruction_png: The image that the decoder makes of the query's code, a PNG. Empty if the request does not
            ask for it.
        code: The query's code, (code_size,) float32; None if the request does not ask for it. Comparing two results
            ignores it.
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
    expanded_count: int = 0
    input_png: bytes = b""
    reconstruction_png: bytes = b""
    code: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    @property
    def is_unusual(self) -> bool:
        """Whether the query is probably unlike anything in the gallery.

        True if `query_percentile`, or the percentile of the distance to the nearest hit, is above 99. False if the
        query itself is among the hits.
        """
        nearest = min(self.hits, key=lambda hit: hit.distance, default=None)
        if nearest and nearest.distance <= EXACT_DISTANCE:
            return False
        return any(
            percentile is not None and percentile > UNUSUAL_PERCENTILE
            for percentile in (self.query_percentile, nearest.distance_percentile if nearest else None)
        )


# If the encoder's framing rule changes a query image, two searches run: one for the changed image, then one for the
# image as it is. The second is returned if its nearest hit is less than this fraction as far away as that of the first.
# The gallery then holds the same picture, or pictures that look like the unchanged query.
_AS_IS_FRACTION = 0.5


@dataclass(frozen=True, slots=True)
class _ImageQuery:
    """A query image as one or two inputs of the encoder, (height, width, channels).

    Attributes:
        options: The search's options.
        expand: Number of nearest hits to average with the query.
        input: The image as it is.
        framed: The image as the encoder's framing rule has changed it; None if the rule changes nothing.
        prepared: The steps of that change, such as "inverted, centred".
        is_shown: Whether to return the query's input and reconstruction.
    """

    options: SearchOptions
    expand: int
    input: NDArray[np.float32]
    framed: NDArray[np.float32] | None = None
    prepared: str = ""
    is_shown: bool = False


class _Measures(NamedTuple):
    """What was measured on a query image: its reconstruction error, and its share of equal neighbouring pixels."""

    error: float
    flatness: float


@dataclass(frozen=True, slots=True)
class _CodeQuery:
    """A query as a code, (code_size,), or as a key; and the number of nearest images to average it with.

    A query image has been encoded. `input` is its input, (h, w, c), and `measures` is what was measured on it.
    """

    options: SearchOptions
    expand: int
    code: NDArray[np.float32]
    measures: _Measures | None = None
    thumbnail_png: bytes = b""
    prepared: str = ""
    is_shown: bool = False
    input: NDArray[np.float32] | None = None

    def first_search(self) -> Query:
        """Return the first search, which finds the hits or, for a query to expand, the images to average it with."""
        if not self.expand:
            return Query(self.code, self.options)
        options = replace(self.options, limit=self.expand, with_thumbnails=False)
        return Query(self.code, options, with_codes=True)

    def expanded_search(self, neighbours: Sequence[Hit]) -> Query:
        """Return the search with the mean of the query's code and those of its neighbours.

        The mean is not scaled to a certain length. If all codes of the gallery have length 1, scaling would not change
        the order of hits. Otherwise, there would be no reason for any certain length. The search has no `max_distance`,
        which bounds the distance to the query rather than to the mean.
        """
        codes = np.array([self.code, *(hit.code for hit in neighbours)], np.float32)  # (n, code_size)
        return Query(codes.mean(axis=0), replace(self.options, max_distance=None), with_codes=True)

    def measured(self, hits: Sequence[Hit]) -> list[Hit]:
        """Return the hits of an expanded search with their distances to the query, without those that are too far."""
        codes = np.array([hit.code for hit in hits], np.float32).reshape(-1, len(self.code))  # (n, code_size)
        distances = np.linalg.norm(codes - self.code, axis=1)  # (n,)
        bound = MAX_DISTANCE if self.options.max_distance is None else min(self.options.max_distance, MAX_DISTANCE)
        return [
            replace(hit, distance=float(distance), code=None)
            for hit, distance, is_near in zip(hits, distances, distances <= bound, strict=True)
            if is_near
        ]


_Answer = tuple[_CodeQuery, Sequence[Hit]]


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
        return self._search([request], [self._prepare(request)], begun)[0]

    def search_batch(self, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """Answer several requests at once, in the same order.

        Raises:
            LookalikeError: A request is invalid, and the whole batch fails with the error that `search` would raise.
                The message begins with the position of that request, such as "requests[3]".
        """
        begun = time.perf_counter()
        queries = []
        for index, request in enumerate(requests):
            with at(f"requests[{index}]"):
                queries.append(self._prepare(request))
        return self._search(requests, queries, begun)

    def _prepare(self, request: SearchRequest) -> _ImageQuery | _CodeQuery:
        """Convert one request to a query. An image is reduced to the encoder's input, to free the memory of its pixels.

        A batch calls this for one request at a time, because many large images would not fit in memory.
        """
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
                return _CodeQuery(options, request.expand, code, is_shown=request.with_reconstruction)

    def _image_query(self, image: bytes | Image.Image, request: SearchRequest) -> _ImageQuery:
        with decoded(image) as picture:
            query = _ImageQuery(
                request.options,
                request.expand,
                self._encoder.normalise([picture])[0],
                is_shown=request.with_reconstruction,
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
        return _CodeQuery(options, 0, entry.code, thumbnail_png=entry.thumbnail_png if options.with_thumbnails else b"")

    def _search(
        self, requests: Sequence[SearchRequest], queries: Sequence[_ImageQuery | _CodeQuery], begun: float
    ) -> list[SearchResult]:
        candidates = self._encode(queries)
        encoded_at = time.perf_counter()
        check_wanted()
        hit_lists = iter(
            self._gallery.search_batch([query.first_search() for alternatives in candidates for query in alternatives])
        )
        answers = self._expand(
            [_nearer([(query, next(hit_lists)) for query in alternatives]) for alternatives in candidates]
        )
        searched_at = time.perf_counter()
        spec = self._gallery.spec
        calibration = spec.calibration
        has_images = any(isinstance(query, _ImageQuery) for query in queries)
        return [
            SearchResult(
                hits=tuple(_judged(hit, calibration) for hit in hits) if calibration else tuple(hits),
                gallery=spec.name,
                version=spec.version,
                encoder=spec.encoder,
                fingerprint=spec.fingerprint,
                encode_ms=(encoded_at - begun) * 1e3 if has_images else 0.0,
                search_ms=(searched_at - encoded_at) * 1e3,
                query_thumbnail_png=query.thumbnail_png,
                reconstruction_error=query.measures.error if query.measures else None,
                query_percentile=_percentile(query, calibration, may_be_drawn=bool(self._encoder.spec.framing)),
                prepared=query.prepared,
                expanded_count=query.expand,
                input_png=_png(query.input) if query.is_shown and query.input is not None else b"",
                reconstruction_png=_png(self._encoder.decode(query.code[None])[0]) if query.is_shown else b"",
                code=query.code if request.with_code else None,
            )
            for request, (query, hits) in zip(requests, answers, strict=True)
        ]

    def _expand(self, answers: list[_Answer]) -> list[_Answer]:
        """Search again for the queries to expand, all at once.

        Args:
            answers: Each query with its hits. The hits of a query to expand are the images to average it with.

        Returns:
            Each query with its hits. The query's `expand` is now the number of images that it was averaged with.
        """
        if not any(query.expand for query, _ in answers):
            return answers
        answers = [(replace(query, expand=min(query.expand, len(hits))), hits) for query, hits in answers]
        searches = [query.expanded_search(hits) for query, hits in answers if query.expand]
        if not searches:  # no query has a hit
            return answers
        check_wanted()
        hit_lists = iter(self._gallery.search_batch(searches))
        return [(query, query.measured(next(hit_lists)) if query.expand else hits) for query, hits in answers]

    def _encode(self, queries: Sequence[_ImageQuery | _CodeQuery]) -> list[list[_CodeQuery]]:
        """Encode and measure all query images in one run.

        Returns:
            For each query, a list of the searches to run: one, or two for an image that the framing rule has changed,
            first the changed image and then the image as it is.
        """
        inputs = []
        for query in queries:
            if isinstance(query, _ImageQuery):
                inputs += [query.input] if query.framed is None else [query.framed, query.input]
        encoded = self._measure(np.stack(inputs)) if inputs else iter(())
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
        query: _ImageQuery, image_input: NDArray[np.float32], code: NDArray[np.float32], measures: _Measures
    ) -> _CodeQuery:
        return _CodeQuery(query.options, query.expand, code, measures, is_shown=query.is_shown, input=image_input)

    def _measure(self, inputs: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], _Measures]]:
        """Return the code of each input, (n, h, w, c), and what was measured on it."""
        codes = self._encoder.encode(inputs)
        errors = self._encoder.reconstruction_errors(inputs, codes)
        return zip(codes, map(_Measures, errors.tolist(), images.flatness(inputs).tolist()), strict=True)


def _nearer(answers: Sequence[_Answer]) -> _Answer:
    """Return the better of a query's answers, of which there are one or two; see `_AS_IS_FRACTION`."""
    framed, as_is = answers[0], answers[-1]
    if not as_is[1]:
        return framed
    if not framed[1] or as_is[1][0].distance < _AS_IS_FRACTION * framed[1][0].distance:
        return as_is
    return framed


def _percentile(query: _CodeQuery, calibration: Calibration | None, *, may_be_drawn: bool) -> float | None:
    """Return a query's percentile, 0 to 100; None if it is unknown. See `SearchResult.query_percentile`."""
    if calibration is None or query.measures is None:
        return None
    error, flatness = query.measures
    if not calibration.is_flatness_usual(flatness, may_be_drawn=may_be_drawn):
        return 100.0
    return calibration.error_percentile(error, flatness)


def _png(values: NDArray[np.float32]) -> bytes:
    return images.png(images.from_input(values))


def _judged(hit: Hit, calibration: Calibration) -> Hit:
    """Return the hit with its relation, and with its percentile, which is 0 if the hit is the query itself."""
    is_exact = hit.distance <= EXACT_DISTANCE
    return replace(
        hit,
        distance_percentile=0.0 if is_exact else calibration.distance_percentile(hit.distance),
        relation=calibration.relation(hit.distance),
    )
