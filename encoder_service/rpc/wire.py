"""Protobuf to the types of this project and back. Pure: no calls, no state."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.encoder import EncoderSpec
from encoder_service.errors import ImageError, RequestError
from encoder_service.limits import LIMITS, Limits
from encoder_service.searcher import SearchRequest, SearchResult, Subject
from encoder_service.status import status_for
from encoder_service.v1 import encoder_pb2, gallery_pb2, search_pb2
from gallery import DEFAULT_LIMIT, MAX_LIMIT, GallerySpec, Hit, SearchOptions
from gallery.errors import LookalikeError

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def image_from_proto(message: encoder_pb2.Image) -> bytes | Image.Image:
    """Return an image file's bytes, not decoded yet, or the image that bare pixels make.

    Raises:
        ImageError: No image is set, or its pixels don't fit its size.
    """
    match message.WhichOneof("data"):
        case "encoded":
            return message.encoded
        case "raw":
            return _image_from_raw(message.raw)
        case _:
            raise ImageError("image: expected `encoded` or `raw`, got neither")


def _image_from_raw(raw: encoder_pb2.RawImage) -> Image.Image:
    channels = raw.channel_count or 1
    if channels not in _MODES:
        raise ImageError(f"image.raw.channel_count: expected 1, 3 or 4, got {channels}")
    if raw.width < 1 or raw.height < 1:
        raise ImageError(f"image.raw: expected a width and height of 1 or more, got {raw.width} × {raw.height}")
    images.check_pixel_count(raw.width, raw.height)
    expected = raw.width * raw.height * channels
    if len(raw.pixels) != expected:
        raise ImageError(
            f"image.raw.pixels: expected {raw.width} × {raw.height} × {channels} = {expected:,} bytes, "
            f"got {len(raw.pixels):,}"
        )
    return Image.frombytes(_MODES[channels], (raw.width, raw.height), raw.pixels)


def image_to_proto(subject: bytes | Image.Image) -> encoder_pb2.Image:
    """Return the message for an image file's bytes, or for an image as bare pixels."""
    if isinstance(subject, bytes):
        return encoder_pb2.Image(encoded=subject)
    channels = {mode: count for count, mode in _MODES.items()}
    if subject.mode not in channels:
        subject = subject.convert("RGBA" if subject.has_transparency_data else "RGB")
    raw = encoder_pb2.RawImage(
        width=subject.width,
        height=subject.height,
        channel_count=channels[subject.mode],
        pixels=subject.tobytes(),
    )
    return encoder_pb2.Image(raw=raw)


def code_to_proto(code: NDArray[np.float32]) -> encoder_pb2.Code:
    """Return the message for a code, (code_size,)."""
    return encoder_pb2.Code(values=code.tolist())


def code_from_proto(message: encoder_pb2.Code) -> NDArray[np.float32]:
    """Return a code as an array, (however many were sent,); galleries and decoders check the size."""
    return np.array(message.values, np.float32)


def search_request_from_proto(message: search_pb2.SearchRequest) -> SearchRequest:
    """Return what a request asks for.

    Raises:
        RequestError: It has no query, or too many labels or keys.
        ImageError: Its image is none.
        InvalidQueryError: A number is out of its range.
    """
    for field, values in (("filter.labels", message.filter.labels), ("exclude_keys", message.exclude_keys)):
        if len(values) > MAX_LIMIT:
            raise RequestError(f"{field}: expected at most {MAX_LIMIT:,}, got {len(values):,}")
    options = SearchOptions(
        limit=message.limit or DEFAULT_LIMIT,
        labels=tuple(message.filter.labels),
        max_distance=message.max_distance or None,
        exclude_keys=tuple(message.exclude_keys),
        exact=message.exact,
        with_thumbnails=message.include_thumbnails,
    )
    return SearchRequest(_subject(message), options)


def _subject(message: search_pb2.SearchRequest) -> Subject:
    match message.WhichOneof("query"):
        case "image":
            return image_from_proto(message.image)
        case "code":
            return code_from_proto(message.code)
        case "key":
            return check_keys([message.key])[0]
        case _:
            raise RequestError("query: expected `image`, `code` or `key`, got none")


def search_request_to_proto(request: SearchRequest, gallery: str) -> search_pb2.SearchRequest:
    """Return the message for a request to a gallery, by name; empty for the service's default."""
    options = request.options
    message = search_pb2.SearchRequest(
        gallery=gallery,
        limit=options.limit,
        filter=search_pb2.Filter(labels=options.labels),
        max_distance=options.max_distance or 0.0,
        exclude_keys=options.exclude_keys,
        exact=options.exact,
        include_thumbnails=options.with_thumbnails,
    )
    match request.subject:
        case str():
            message.key = request.subject
        case bytes() | Image.Image():
            message.image.CopyFrom(image_to_proto(request.subject))
        case _:
            message.code.CopyFrom(code_to_proto(request.subject))
    return message


def search_result_to_proto(result: SearchResult) -> search_pb2.SearchResponse:
    """Return the message for a result."""
    return search_pb2.SearchResponse(
        hits=[
            search_pb2.Hit(
                key=hit.key,
                distance=hit.distance,
                label=hit.label,
                thumbnail_png=hit.thumbnail_png,
                distance_percentile=hit.distance_percentile,
            )
            for hit in result.hits
        ],
        gallery=result.gallery,
        gallery_version=result.version,
        encoder=result.encoder,
        encoder_fingerprint=result.fingerprint,
        encode_ms=result.encode_ms,
        search_ms=result.search_ms,
        query_thumbnail_png=result.query_thumbnail_png,
        reconstruction_error=result.reconstruction_error,
        query_percentile=result.query_percentile,
    )


def search_result_from_proto(message: search_pb2.SearchResponse) -> SearchResult:
    """Return the result that a message carries."""
    return SearchResult(
        hits=tuple(
            Hit(hit.key, hit.distance, hit.label, hit.thumbnail_png, _optional(hit, "distance_percentile"))
            for hit in message.hits
        ),
        gallery=message.gallery,
        version=message.gallery_version,
        encoder=message.encoder,
        fingerprint=message.encoder_fingerprint,
        encode_ms=message.encode_ms,
        search_ms=message.search_ms,
        query_thumbnail_png=message.query_thumbnail_png,
        reconstruction_error=_optional(message, "reconstruction_error"),
        query_percentile=_optional(message, "query_percentile"),
    )


def _optional(message: Message, field: str) -> float | None:
    return getattr(message, field) if message.HasField(field) else None


def encoder_to_proto(spec: EncoderSpec, limits: Limits) -> encoder_pb2.GetEncoderResponse:
    """Return the message that describes an encoder and the limits of the service."""
    height, width, channels = spec.input_shape
    return encoder_pb2.GetEncoderResponse(
        encoder=encoder_pb2.EncoderSpec(
            name=spec.name,
            fingerprint=spec.fingerprint,
            input_height=height,
            input_width=width,
            input_channel_count=channels,
            code_size=spec.code_size,
        ),
        limits=encoder_pb2.Limits(**asdict(limits)),
    )


def gallery_to_proto(spec: GallerySpec) -> gallery_pb2.Gallery:
    """Return the message that describes a gallery."""
    return gallery_pb2.Gallery(
        name=spec.name,
        version=spec.version,
        image_count=spec.count,
        encoder=spec.encoder,
        encoder_fingerprint=spec.fingerprint,
        code_size=spec.code_size,
        profile=spec.profile,
        sources=spec.sources,
    )


def item_error_to_proto(error: LookalikeError) -> encoder_pb2.ItemError:
    """Return the message that says why one item of a stream failed."""
    return encoder_pb2.ItemError(status=status_for(type(error)).name, message=str(error))


def check_same_gallery(name: str, requests: Sequence[gallery_pb2.AddImagesRequest]) -> str:
    """Return the gallery that a stream is for.

    Args:
        name: What the messages before have named; empty for the stream's beginning.
        requests: The next messages.

    Raises:
        RequestError: The first message names none, or another names another.
    """
    name = name or requests[0].gallery
    if not name:
        raise RequestError("gallery: expected a name in the first message, got none")
    for request in requests:
        if request.gallery not in ("", name):
            raise RequestError(f"gallery: expected '{name}' all through the stream, got '{request.gallery}'")
    return name


def check_keys(keys: Sequence[str]) -> list[str]:
    """Return the keys of a request.

    Raises:
        RequestError: There are more than 1,000, or one is longer than any can be.
    """
    if len(keys) > MAX_LIMIT:
        raise RequestError(f"keys: expected at most {MAX_LIMIT:,}, got {len(keys):,}")
    longest = max(map(len, keys), default=0)
    if longest > LIMITS.max_key_length:
        raise RequestError(f"key: expected at most {LIMITS.max_key_length:,} characters, got {longest:,}")
    return list(keys)


def check_batch(requests: Sequence[search_pb2.SearchRequest]) -> str:
    """Return the name of the one gallery that all requests of a batch are for; may be empty.

    Raises:
        RequestError: There are none, too many, they name several galleries, or ask for too many hits.
    """
    if not 1 <= len(requests) <= LIMITS.max_batch_count:
        raise RequestError(f"requests: expected 1 to {LIMITS.max_batch_count}, got {len(requests):,}")
    hits = sum(request.limit or DEFAULT_LIMIT for request in requests)
    if hits > LIMITS.max_batch_hit_count:
        raise RequestError(
            f"requests: expected limits of at most {LIMITS.max_batch_hit_count:,} together, got {hits:,}"
        )
    names = sorted({request.gallery for request in requests})
    if len(names) > 1:
        raise RequestError(f"requests: expected all for one gallery, got {', '.join(map(repr, names))}")
    return names[0]
