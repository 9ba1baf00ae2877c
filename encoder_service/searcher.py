"""Image to hits: encode, then search. No gRPC in it; the service and the terminal use the same."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.encoder import Encoder
from encoder_service.errors import at
from gallery import Gallery, Hit, Query, SearchOptions
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
    """

    hits: tuple[Hit, ...]
    gallery: str
    version: int
    encoder: str
    fingerprint: str
    encode_ms: float
    search_ms: float
    query_thumbnail_png: bytes = b""


@dataclass(slots=True)
class _Prepared:
    """A request whose subject has been decoded or looked up."""

    options: SearchOptions
    picture: Image.Image | None = None
    code: NDArray[np.float32] | None = None
    thumbnail_png: bytes = b""


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
        subject, options = request.subject, request.options
        match subject:
            case bytes():
                return _Prepared(options, picture=images.decode(subject))
            case Image.Image():
                return _Prepared(options, picture=subject)
            case str():
                entry = self._gallery.get([subject])[0]
                if entry is None:
                    raise KeyNotFoundError(f"no image '{subject}' in gallery '{self._gallery.spec.name}'")
                options = replace(options, exclude_keys=(*options.exclude_keys, subject))
                return _Prepared(options, None, entry.code, entry.thumbnail_png if options.with_thumbnails else b"")
            case _:
                return _Prepared(options, code=check_codes(subject[None], self._gallery.spec.code_size)[0])

    def _search(self, prepared: list[_Prepared], begun: float) -> list[SearchResult]:
        pictures = [item.picture for item in prepared if item.picture is not None]
        codes = iter(self._encoder.encode_images(pictures)) if pictures else iter(())
        queries = [Query(next(codes) if p.code is None else p.code, p.options) for p in prepared]
        encoded = time.perf_counter()
        answers = self._gallery.search_batch(queries)
        searched = time.perf_counter()
        spec = self._gallery.spec
        return [
            SearchResult(
                hits=tuple(hits),
                gallery=spec.name,
                version=spec.version,
                encoder=spec.encoder,
                fingerprint=spec.fingerprint,
                encode_ms=(encoded - begun) * 1e3 if pictures else 0.0,
                search_ms=(searched - encoded) * 1e3,
                query_thumbnail_png=item.thumbnail_png,
            )
            for hits, item in zip(answers, prepared, strict=True)
        ]
