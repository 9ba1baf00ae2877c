"""Convert between protobuf messages and the types of `encoder_service` and `gallery`, and check requests."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.compactor import Compaction, Stage
from encoder_service.encoder import EncoderSpec
from encoder_service.errors import ImageError, RequestError
from encoder_service.limits import LIMITS, Limits
from encoder_service.searcher import Key, SearchRequest, SearchResult, Subject
from encoder_service.status import error_from_status, status_for
from encoder_service.v1 import encoder_pb2, gallery_pb2, search_pb2
from gallery import DEFAULT_LIMIT, MAX_LIMIT, Calibration, Entry, GallerySpec, Hit, Relation, SearchOptions
from gallery.errors import LookalikeError
from gallery.findings import NO_FINDINGS, Findings
from gallery.types import MAX_DISTANCE

_RELATIONS = {
    search_pb2.RELATION_SAME: Relation.SAME,
    search_pb2.RELATION_SIMILAR: Relation.SIMILAR,
    search_pb2.RELATION_UNRELATED: Relation.UNRELATED,
}
_STAGES = {
    gallery_pb2.COMPACTION_STAGE_COPYING: Stage.COPYING,
    gallery_pb2.COMPACTION_STAGE_INDEXING: Stage.INDEXING,
    gallery_pb2.COMPACTION_STAGE_DONE: Stage.DONE,
    gallery_pb2.COMPACTION_STAGE_NOT_NEEDED: Stage.NOT_NEEDED,
}
_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


def image_from_proto(message: encoder_pb2.Image) -> bytes | Image.Image:
    """Return the bytes of an image file, not decoded yet, or an image made from raw pixels.

    Raises:
        ImageError: The message has no image, or the number of pixels does not match width and height.
        ImageTooLargeError: The raw image has more than 64 million pixels.
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
    if channels not in _CHANNELS.values():
        raise ImageError(f"image.raw.channel_count: expected 1, 3 or 4, got {channels}")
    if raw.width < 1 or raw.height < 1:
        raise ImageError(f"image.raw: expected a width and height of 1 or more, got {raw.width} × {raw.height}")
    images.check_pixel_count(raw.width, raw.height)
    size = raw.width * raw.height * channels
    if len(raw.pixels) != size:
        raise ImageError(
            f"image.raw.pixels: expected {raw.width} × {raw.height} × {channels} = {size:,} bytes, "
            f"got {len(raw.pixels):,}"
        )
    return images.from_pixels(np.frombuffer(raw.pixels, np.uint8).reshape(raw.height, raw.width, channels))


def image_to_proto(image: bytes | Path | Image.Image) -> encoder_pb2.Image:
    """Return the message for an image file, given by its bytes or path, or for a Pillow image.

    This function reads the file of a path. A Pillow image is sent as raw pixels. If its mode is not L, RGB or RGBA, it
    is converted to RGB, or to RGBA if it has transparency.

    Raises:
        ImageError: The file can't be read or is too large, or the argument has another type.
    """
    if isinstance(image, Path):
        image = images.read(image)
    if isinstance(image, bytes):
        return encoder_pb2.Image(encoded=image)
    if not isinstance(image, Image.Image):
        raise ImageError(
            f"image: expected a file's bytes, a Path or an image, got {type(image).__name__} {image!r:.80}"
        )
    if image.mode not in _CHANNELS:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    raw = encoder_pb2.RawImage(
        width=image.width,
        height=image.height,
        channel_count=_CHANNELS[image.mode],
        pixels=image.tobytes(),
    )
    return encoder_pb2.Image(raw=raw)


def code_to_proto(code: NDArray[np.float32]) -> encoder_pb2.Code:
    """Return the message for a code of shape (code_size,)."""
    return encoder_pb2.Code(values=code.tolist())


def code_from_proto(message: encoder_pb2.Code) -> NDArray[np.float32]:
    """Return a code as an array, (n,) float32, where n is the number of values in the message.

    This function does not check n: galleries and decoders do.
    """
    return np.array(message.values, np.float32)


def search_request_from_proto(message: search_pb2.SearchRequest) -> SearchRequest:
    """Convert a message to a search.

    Raises:
        RequestError: The query is missing, or there are too many labels or keys.
        ImageError: The image field is empty or malformed.
        InvalidQueryError: A number is out of its range, or a query by key is to be expanded.
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
    subject = _subject_from_proto(message)
    return SearchRequest(
        subject, options, message.as_is, message.expand, message.include_reconstruction, message.include_code
    )


def _subject_from_proto(message: search_pb2.SearchRequest) -> Subject:
    match message.WhichOneof("query"):
        case "image":
            return image_from_proto(message.image)
        case "code":
            return code_from_proto(message.code)
        case "key":
            return Key(check_keys([message.key])[0])
        case _:
            raise RequestError("query: expected `image`, `code` or `key`, got none")


def search_request_to_proto(request: SearchRequest, gallery: str) -> search_pb2.SearchRequest:
    """Return the message for a search. If the subject is a path, read the file.

    Args:
        request: The search.
        gallery: Name of the gallery; empty for the service's only gallery.

    Raises:
        ImageError: The subject is a path, and its file can't be read or is too large.
    """
    options = request.options
    message = search_pb2.SearchRequest(
        gallery=gallery,
        limit=options.limit,
        filter=search_pb2.Filter(labels=options.labels),
        max_distance=_max_distance(options.max_distance),
        exclude_keys=options.exclude_keys,
        exact=options.exact,
        include_thumbnails=options.with_thumbnails,
        as_is=request.as_is,
        expand=request.expand,
        include_reconstruction=request.with_reconstruction,
        include_code=request.with_code,
    )
    match request.subject:
        case Key():
            message.key = request.subject.value
        case bytes() | Path() | Image.Image():
            message.image.CopyFrom(image_to_proto(request.subject))
        case _:
            message.code.CopyFrom(code_to_proto(request.subject))
    return message


def _max_distance(value: float | None) -> float:
    """Return a maximum distance as a message has it: a float32, where 0 stands for no maximum."""
    if value is None:
        return 0.0
    return min(max(value, float(np.finfo(np.float32).smallest_subnormal)), MAX_DISTANCE)


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
                relation=_relation_to_proto(hit.relation),
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
        prepared=result.prepared,
        expanded_count=result.expanded_count,
        input_png=result.input_png,
        reconstruction_png=result.reconstruction_png,
        code=None if result.code is None else code_to_proto(result.code),
    )


def search_result_from_proto(message: search_pb2.SearchResponse) -> SearchResult:
    """Convert a message to a search result."""
    return SearchResult(
        hits=tuple(
            Hit(
                hit.key,
                hit.distance,
                hit.label,
                hit.thumbnail_png,
                _optional(hit, "distance_percentile"),
                _RELATIONS.get(hit.relation),
            )
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
        prepared=message.prepared,
        expanded_count=message.expanded_count,
        input_png=message.input_png,
        reconstruction_png=message.reconstruction_png,
        code=code_from_proto(message.code) if message.HasField("code") else None,
    )


def _relation_to_proto(relation: Relation | None) -> search_pb2.Relation:
    return next((value for value, known in _RELATIONS.items() if known is relation), search_pb2.RELATION_UNSPECIFIED)


def _optional(message: Message, field: str) -> float | None:
    return getattr(message, field) if message.HasField(field) else None


def encoder_to_proto(spec: EncoderSpec) -> encoder_pb2.EncoderSpec:
    """Return the message for an encoder's description."""
    height, width, channels = spec.input_shape
    return encoder_pb2.EncoderSpec(
        name=spec.name,
        fingerprint=spec.fingerprint,
        decoder_sha256=spec.decoder_sha256,
        input_height=height,
        input_width=width,
        input_channel_count=channels,
        code_size=spec.code_size,
        background=spec.background,
        framing=spec.framing,
        fit=spec.fit,
    )


def encoder_from_proto(message: encoder_pb2.EncoderSpec) -> EncoderSpec:
    """Convert a message to an encoder's description."""
    return EncoderSpec(
        name=message.name,
        fingerprint=message.fingerprint,
        decoder_sha256=message.decoder_sha256,
        input_shape=(message.input_height, message.input_width, message.input_channel_count),
        code_size=message.code_size,
        background=message.background,
        framing=message.framing,
        fit=message.fit or "crop",  # a service of an older release does not send it
    )


def limits_to_proto(limits: Limits) -> encoder_pb2.Limits:
    """Return the message for the limits of a service."""
    return encoder_pb2.Limits(**asdict(limits))


def limits_from_proto(message: encoder_pb2.Limits) -> Limits:
    """Convert a message to the limits of a service."""
    return Limits(**{field.name: getattr(message, field.name) for field in fields(Limits)})


def gallery_to_proto(spec: GallerySpec, findings: Findings = NO_FINDINGS) -> gallery_pb2.Gallery:
    """Return the message for a gallery's description and what commands have found out about the gallery."""
    message = gallery_pb2.Gallery(
        name=spec.name,
        version=spec.version,
        image_count=spec.count,
        encoder=spec.encoder,
        encoder_fingerprint=spec.fingerprint,
        code_size=spec.code_size,
        profile=spec.profile,
        sources=spec.sources,
        published_at=spec.published_at,
        **asdict(findings),
    )
    if spec.calibration:
        message.calibration.errors[:] = spec.calibration.errors
        message.calibration.distances[:] = spec.calibration.distances
        message.calibration.is_relative = spec.calibration.is_relative
        for name in ("same_distance", "similar_distance"):
            if (distance := getattr(spec.calibration, name)) is not None:
                setattr(message.calibration, name, distance)
        if spec.calibration.flatness:
            message.calibration.min_flatness, message.calibration.max_flatness = spec.calibration.flatness
    return message


def gallery_from_proto(message: gallery_pb2.Gallery) -> GallerySpec:
    """Convert a message to a gallery's description.

    Raises:
        InvalidQueryError: A newer service uses a name or a storage profile that this release does not know.
    """
    calibration = message.calibration
    return GallerySpec(
        name=message.name,
        encoder=message.encoder,
        fingerprint=message.encoder_fingerprint,
        code_size=message.code_size,
        version=message.version,
        profile=message.profile,
        sources=tuple(message.sources),
        published_at=message.published_at,
        count=message.image_count,
        calibration=Calibration(
            tuple(calibration.errors),
            tuple(calibration.distances),
            _optional(calibration, "same_distance"),
            _optional(calibration, "similar_distance"),
            (calibration.min_flatness, calibration.max_flatness) if calibration.HasField("min_flatness") else None,
            calibration.is_relative,
        )
        if message.HasField("calibration")
        else None,
    )


def stored_image_to_proto(entry: Entry) -> gallery_pb2.StoredImage:
    """Return the message for a stored image."""
    return gallery_pb2.StoredImage(key=entry.key, label=entry.label, thumbnail_png=entry.thumbnail_png)


def compaction_to_proto(compaction: Compaction) -> gallery_pb2.CompactGalleryResponse:
    """Return the message for the state of a compaction."""
    return gallery_pb2.CompactGalleryResponse(
        gallery=gallery_to_proto(compaction.spec),
        stage=next(value for value, stage in _STAGES.items() if stage is compaction.stage),
        copied_count=compaction.copied,
    )


def compaction_from_proto(message: gallery_pb2.CompactGalleryResponse) -> Compaction:
    """Convert a message to the state of a compaction. A stage that this release does not know becomes INDEXING."""
    stage = _STAGES.get(message.stage, Stage.INDEXING)
    return Compaction(gallery_from_proto(message.gallery), stage, message.copied_count)


def item_error_to_proto(error: LookalikeError) -> encoder_pb2.ItemError:
    """Return the message for the error of one item of a stream, without files or addresses of this machine."""
    return encoder_pb2.ItemError(status=status_for(type(error)).name, message=error.summary or error.message)


def item_error_from_proto(message: encoder_pb2.ItemError) -> LookalikeError:
    """Convert a message to an error."""
    status = grpc.StatusCode.__members__.get(message.status, grpc.StatusCode.UNKNOWN)
    return error_from_status(status, message.message)


def check_same_gallery(name: str, requests: Sequence[gallery_pb2.AddImagesRequest]) -> str:
    """Check that a stream adds to a single gallery, and return the name of that gallery.

    Args:
        name: The name from the stream's earlier messages; empty at its beginning.
        requests: The next messages, at least one.

    Raises:
        RequestError: The first message of the stream has no name, or a later message has a different name.
    """
    name = name or requests[0].gallery
    if not name:
        raise RequestError("gallery: expected a name in the first message, got none")
    for request in requests:
        if request.gallery not in ("", name):
            raise RequestError(f"gallery: expected '{name}' throughout the stream, got '{request.gallery}'")
    return name


def check_keys(keys: Sequence[str]) -> list[str]:
    """Return the keys of a request after checking their number and lengths.

    Raises:
        RequestError: There are more than 1,000 keys, or a key has more than 1,024 characters.
    """
    if len(keys) > MAX_LIMIT:
        raise RequestError(f"keys: expected at most {MAX_LIMIT:,}, got {len(keys):,}")
    longest = max(map(len, keys), default=0)
    if longest > LIMITS.max_key_length:
        raise RequestError(f"key: expected at most {LIMITS.max_key_length:,} characters, got {longest:,}")
    return list(keys)


def check_batch(requests: Sequence[search_pb2.SearchRequest]) -> str:
    """Check a batch of searches, and return the name of the gallery that they search.

    Returns:
        The name; empty for the service's only gallery.

    Raises:
        RequestError: The batch is empty, has more than 256 requests, asks for more than 10,000 hits in total, or
            names several galleries.
    """
    if not 1 <= len(requests) <= LIMITS.max_batch_count:
        raise RequestError(f"requests: expected 1 to {LIMITS.max_batch_count}, got {len(requests):,}")
    hit_count = sum(request.limit or DEFAULT_LIMIT for request in requests)
    if hit_count > LIMITS.max_batch_hit_count:
        raise RequestError(
            f"requests: expected limits of at most {LIMITS.max_batch_hit_count:,} in total, got {hit_count:,}"
        )
    names = sorted({request.gallery for request in requests})
    if len(names) > 1:
        raise RequestError(f"requests: expected one gallery, got {', '.join(map(repr, names))}")
    return names[0]
