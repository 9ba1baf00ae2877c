"""The RPCs, thin: read the message, call the part that does the work, write the answer."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images, wire
from encoder_service.adder import Adder, NewImage
from encoder_service.encoder import Encoder
from encoder_service.errors import at
from encoder_service.galleries import Galleries
from encoder_service.status import outcome
from encoder_service.v1 import (
    encoder_pb2,
    encoder_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from encoder_service.waiting import waiting
from gallery.deadline import deadline
from gallery.errors import LookalikeError

_log = logging.getLogger(__name__)


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Answers EncoderService with one encoder."""

    def __init__(self, encoder: Encoder) -> None:
        """Take the encoder."""
        self._encoder = encoder

    def Encode(self, request: encoder_pb2.EncodeRequest, context: grpc.ServicerContext) -> encoder_pb2.EncodeResponse:
        """Encode one image."""
        with _errors_as_status(context):
            begun = time.perf_counter()
            code = self._code(request.image)
            return encoder_pb2.EncodeResponse(
                code=wire.code_message(code),
                encoder_fingerprint=self._encoder.spec.fingerprint,
                encode_ms=(time.perf_counter() - begun) * 1e3,
            )

    def EncodeStream(
        self, request_iterator: Iterator[encoder_pb2.EncodeStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[encoder_pb2.EncodeStreamResponse]:
        """Encode images as they arrive; a bad one yields an item error and the stream goes on."""
        for index, request in enumerate(request_iterator):
            response = encoder_pb2.EncodeStreamResponse(index=index)
            try:
                response.code.CopyFrom(wire.code_message(self._code(request.image)))
            except LookalikeError as error:
                response.error.CopyFrom(wire.item_error(error))
            yield response

    def Decode(self, request: encoder_pb2.DecodeRequest, context: grpc.ServicerContext) -> encoder_pb2.DecodeResponse:
        """Reconstruct the image that a code stands for."""
        with _errors_as_status(context):
            inputs = self._encoder.decode(wire.code(request.code)[None])
            return encoder_pb2.DecodeResponse(
                image_png=images.png(images.from_input(inputs[0])), encoder_fingerprint=self._encoder.spec.fingerprint
            )

    def GetEncoder(
        self, request: encoder_pb2.GetEncoderRequest, context: grpc.ServicerContext
    ) -> encoder_pb2.GetEncoderResponse:
        """Describe the encoder and the limits."""
        return wire.encoder_response(self._encoder.spec)

    def _code(self, message: encoder_pb2.Image) -> NDArray[np.float32]:
        picture = wire.picture(message)
        image = picture if isinstance(picture, Image.Image) else images.decode(picture)
        code: NDArray[np.float32] = self._encoder.encode_images([image])[0]
        return code


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Answers SearchService with the galleries of one store."""

    def __init__(self, galleries: Galleries) -> None:
        """Take the galleries."""
        self._galleries = galleries

    def Search(self, request: search_pb2.SearchRequest, context: grpc.ServicerContext) -> search_pb2.SearchResponse:
        """Find the stored images that look like one query."""
        with _errors_as_status(context):
            wanted = wire.search_request(request)
            with self._galleries.searcher(request.gallery) as searcher:
                return wire.search_response(searcher.search(wanted))

    def BatchSearch(
        self, request: search_pb2.BatchSearchRequest, context: grpc.ServicerContext
    ) -> search_pb2.BatchSearchResponse:
        """Answer several searches at once, or none."""
        with _errors_as_status(context):
            gallery = wire.check_batch(request.requests)
            wanted = []
            for index, message in enumerate(request.requests):
                with at(f"requests[{index}]"):
                    wanted.append(wire.search_request(message))
            with self._galleries.searcher(gallery) as searcher:
                results = searcher.search_batch(wanted)
            return search_pb2.BatchSearchResponse(responses=map(wire.search_response, results))


class GalleryServicer(gallery_pb2_grpc.GalleryServiceServicer):
    """Answers GalleryService with the galleries of one store."""

    def __init__(self, galleries: Galleries) -> None:
        """Take the galleries."""
        self._galleries = galleries

    def ListGalleries(
        self, request: gallery_pb2.ListGalleriesRequest, context: grpc.ServicerContext
    ) -> gallery_pb2.ListGalleriesResponse:
        """List the galleries."""
        with _errors_as_status(context):
            return gallery_pb2.ListGalleriesResponse(galleries=map(wire.gallery_message, self._galleries.list()))

    def GetGallery(
        self, request: gallery_pb2.GetGalleryRequest, context: grpc.ServicerContext
    ) -> gallery_pb2.GetGalleryResponse:
        """Describe one gallery."""
        with _errors_as_status(context), self._galleries.opened(request.gallery) as opened:
            spec = replace(opened.gallery.spec, count=opened.gallery.count())
            return gallery_pb2.GetGalleryResponse(gallery=wire.gallery_message(spec))

    def AddImages(
        self, request_iterator: Iterator[gallery_pb2.AddImagesRequest], context: grpc.ServicerContext
    ) -> Iterator[gallery_pb2.AddImagesResponse]:
        """Add images as they arrive, those that wait together; each is answered when the store has it."""
        with _errors_as_status(context):
            name, index = "", 0
            for batch in waiting(request_iterator, wire.MAX_ADDED_AT_ONCE):
                name = wire.check_same_gallery(name, batch)
                with self._galleries.opened(name) as opened:
                    yield from _added(opened.adder, batch, index)
                index += len(batch)

    def DeleteImages(
        self, request: gallery_pb2.DeleteImagesRequest, context: grpc.ServicerContext
    ) -> gallery_pb2.DeleteImagesResponse:
        """Remove images by key."""
        with _errors_as_status(context):
            keys = wire.check_keys(request.keys)
            with self._galleries.opened(request.gallery) as opened:
                return gallery_pb2.DeleteImagesResponse(deleted_count=opened.adder.delete(keys))


def _added(
    adder: Adder, requests: list[gallery_pb2.AddImagesRequest], first: int
) -> Iterator[gallery_pb2.AddImagesResponse]:
    """Store what can be stored, and yield the answers in order."""
    errors: dict[int, LookalikeError] = {}
    new: dict[int, NewImage] = {}
    for index, request in enumerate(requests):
        try:
            new[index] = NewImage(request.key, wire.picture(request.image), request.label)
        except LookalikeError as error:
            errors[index] = error
    results = dict(zip(new, adder.add(list(new.values())), strict=True)) if new else {}
    for index, request in enumerate(requests):
        response = gallery_pb2.AddImagesResponse(index=first + index, key=request.key)
        result = errors.get(index) or results[index]
        if isinstance(result, LookalikeError):
            response.error.CopyFrom(wire.item_error(result))
        else:
            response.added.unchanged = result
        yield response


@contextmanager
def _errors_as_status(context: grpc.ServicerContext) -> Iterator[None]:
    """End the call with the status of an error; what is not expected is logged, and told to nobody."""
    try:
        with deadline(context.time_remaining()):
            yield
    except LookalikeError as error:
        _abort(context, outcome(error).status, str(error))
    except Exception:
        _log.exception("unexpected error in a call")
        _abort(context, grpc.StatusCode.INTERNAL, "unexpected error; the service's log has it")


def _abort(context: grpc.ServicerContext, status: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(status, message)
    raise AssertionError("abort always raises")
