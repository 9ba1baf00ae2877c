"""The RPCs. Each converts its request from protobuf, does the work, and converts the result to protobuf."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from encoder_service import images
from encoder_service.capacity import decoded
from encoder_service.encoder import Encoder
from encoder_service.errors import at
from encoder_service.galleries import Galleries
from encoder_service.limits import LIMITS, Limits
from encoder_service.rpc import wire
from encoder_service.rpc.arrivals import arrivals
from encoder_service.rpc.calls import request_id_from
from encoder_service.rpc.metrics import Metrics
from encoder_service.searcher import SearchResult
from encoder_service.v1 import (
    encoder_pb2,
    encoder_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from encoder_service.writer import NewImage
from gallery import GallerySpec
from gallery.errors import LookalikeError
from gallery.plurals import counted

_log = logging.getLogger(__name__)


def _size(message: Message) -> int:
    return message.ByteSize()


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """Serves EncoderService with one encoder."""

    def __init__(self, encoder: Encoder, limits: Limits, metrics: Metrics) -> None:
        """Create the servicer.

        Args:
            encoder: Encodes and decodes.
            limits: The limits that GetEncoder reports.
            metrics: Receives durations and counts.
        """
        self._encoder = encoder
        self._limits = limits
        self._metrics = metrics

    def Encode(self, request: encoder_pb2.EncodeRequest, context: grpc.ServicerContext) -> encoder_pb2.EncodeResponse:
        """Encode one image."""
        begun = time.perf_counter()
        code = self._code(request.image)
        return encoder_pb2.EncodeResponse(
            code=wire.code_to_proto(code),
            encoder_fingerprint=self._encoder.spec.fingerprint,
            encode_ms=(time.perf_counter() - begun) * 1e3,
        )

    def EncodeStream(
        self, request_iterator: Iterator[encoder_pb2.EncodeStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[encoder_pb2.EncodeStreamResponse]:
        """Encode images as they arrive. The answer to a bad image is an item error, and the stream continues."""
        for index, request in enumerate(request_iterator):
            response = encoder_pb2.EncodeStreamResponse(index=index)
            try:
                response.code.CopyFrom(wire.code_to_proto(self._code(request.image)))
                self._metrics.items("EncodeStream", "ok")
            except LookalikeError as error:
                response.error.CopyFrom(wire.item_error_to_proto(error))
                self._metrics.items("EncodeStream", "rejected")
            yield response

    def Decode(self, request: encoder_pb2.DecodeRequest, context: grpc.ServicerContext) -> encoder_pb2.DecodeResponse:
        """Reconstruct an image from its code."""
        inputs = self._encoder.decode(wire.code_from_proto(request.code)[None])
        return encoder_pb2.DecodeResponse(
            image_png=images.png(images.from_input(inputs[0])), encoder_fingerprint=self._encoder.spec.fingerprint
        )

    def GetEncoder(
        self, request: encoder_pb2.GetEncoderRequest, context: grpc.ServicerContext
    ) -> encoder_pb2.GetEncoderResponse:
        """Describe the encoder and the limits."""
        return encoder_pb2.GetEncoderResponse(
            encoder=wire.encoder_to_proto(self._encoder.spec), limits=wire.limits_to_proto(self._limits)
        )

    def _code(self, message: encoder_pb2.Image) -> NDArray[np.float32]:
        with decoded(wire.image_from_proto(message)) as image:
            begun = time.perf_counter()
            code: NDArray[np.float32] = self._encoder.encode_images([image])[0]
        self._metrics.stages(encode=(time.perf_counter() - begun) * 1e3)
        return code


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Serves SearchService with the galleries of one store."""

    def __init__(self, galleries: Galleries, metrics: Metrics) -> None:
        """Keep the galleries, and the metrics to update."""
        self._galleries = galleries
        self._metrics = metrics

    def Search(self, request: search_pb2.SearchRequest, context: grpc.ServicerContext) -> search_pb2.SearchResponse:
        """Find the stored images that are most similar to one query."""
        search = wire.search_request_from_proto(request)
        with self._galleries.searcher(request.gallery) as searcher:
            result = searcher.search(search)
        self._measure(result)
        return wire.search_result_to_proto(result)

    def BatchSearch(
        self, request: search_pb2.BatchSearchRequest, context: grpc.ServicerContext
    ) -> search_pb2.BatchSearchResponse:
        """Run several searches at once. One bad request fails the whole batch."""
        gallery = wire.check_batch(request.requests)
        searches = []
        for index, message in enumerate(request.requests):
            with at(f"requests[{index}]"):
                searches.append(wire.search_request_from_proto(message))
        with self._galleries.searcher(gallery) as searcher:
            results = searcher.search_batch(searches)
        self._measure(results[0])
        return search_pb2.BatchSearchResponse(responses=map(wire.search_result_to_proto, results))

    def _measure(self, result: SearchResult) -> None:
        self._metrics.stages(encode=result.encode_ms, search=result.search_ms)


class GalleryServicer(gallery_pb2_grpc.GalleryServiceServicer):
    """Serves GalleryService with the galleries of one store."""

    def __init__(self, galleries: Galleries, metrics: Metrics) -> None:
        """Keep the galleries, and the metrics to update."""
        self._galleries = galleries
        self._metrics = metrics

    def ListGalleries(
        self, request: gallery_pb2.ListGalleriesRequest, context: grpc.ServicerContext
    ) -> gallery_pb2.ListGalleriesResponse:
        """List the galleries."""
        return gallery_pb2.ListGalleriesResponse(galleries=map(self._described, self._galleries.list()))

    def GetGallery(
        self, request: gallery_pb2.GetGalleryRequest, context: grpc.ServicerContext
    ) -> gallery_pb2.GetGalleryResponse:
        """Describe one gallery."""
        with self._galleries.use(request.gallery) as gallery:
            return gallery_pb2.GetGalleryResponse(gallery=self._described(gallery.counted_spec()))

    def GetImages(
        self, request: gallery_pb2.GetImagesRequest, context: grpc.ServicerContext
    ) -> gallery_pb2.GetImagesResponse:
        """Return stored images by key."""
        keys = wire.check_keys(request.keys)
        with self._galleries.use(request.gallery) as gallery:
            return gallery_pb2.GetImagesResponse(images=map(wire.stored_image_to_proto, gallery.get(keys)))

    def GetMap(self, request: gallery_pb2.GetMapRequest, context: grpc.ServicerContext) -> gallery_pb2.GetMapResponse:
        """Return the map of a gallery."""
        return gallery_pb2.GetMapResponse(map_json_gz=self._galleries.map(request.gallery))

    def AddImages(
        self, request_iterator: Iterator[gallery_pb2.AddImagesRequest], context: grpc.ServicerContext
    ) -> Iterator[gallery_pb2.AddImagesResponse]:
        """Add images to a gallery, and acknowledge each image once it is stored.

        Images that have arrived by the time the previous batch is stored form the next batch.
        """
        name, index = "", 0
        with closing(
            arrivals(request_iterator, LIMITS.max_stream_item_count, LIMITS.max_stream_item_bytes, _size)
        ) as batches:
            for batch in batches:
                name = wire.check_same_gallery(name, batch)
                yield from self._add(name, batch, index)
                index += len(batch)

    def DeleteImages(
        self, request: gallery_pb2.DeleteImagesRequest, context: grpc.ServicerContext
    ) -> gallery_pb2.DeleteImagesResponse:
        """Remove images by key."""
        keys = wire.check_keys(request.keys)
        count = self._galleries.write(request.gallery, lambda writer: writer.delete(keys))
        _log.info(
            "%s deleted %s from gallery '%s'",
            context.peer(),
            counted(count, "image"),
            request.gallery or "(the store's only gallery)",
            extra={"request_id": request_id_from(context.invocation_metadata())},
        )
        return gallery_pb2.DeleteImagesResponse(deleted_count=count)

    def CompactGallery(
        self, request: gallery_pb2.CompactGalleryRequest, context: grpc.ServicerContext
    ) -> gallery_pb2.CompactGalleryResponse:
        """Begin to compact a gallery, and return the state of its compaction."""
        return wire.compaction_to_proto(self._galleries.compact(request.gallery, request.version))

    def _described(self, spec: GallerySpec) -> gallery_pb2.Gallery:
        return wire.gallery_to_proto(spec, self._galleries.findings(spec.name))

    def _add(
        self, name: str, requests: list[gallery_pb2.AddImagesRequest], first: int
    ) -> Iterator[gallery_pb2.AddImagesResponse]:
        """Store a batch of images, and yield their responses in order.

        Args:
            name: Name of the gallery.
            requests: The batch.
            first: Index of the batch's first image in the stream, from 0.
        """
        begun = time.perf_counter()
        results: dict[int, bool | LookalikeError] = {}
        new: dict[int, NewImage] = {}
        for index, request in enumerate(requests):
            try:
                picture = wire.image_from_proto(request.image)
                label = request.label if request.HasField("label") else None
                new[index] = NewImage(request.key, picture, label, request.keep_stored)
            except LookalikeError as error:
                results[index] = error
        added = self._galleries.write(name, lambda writer: writer.add(list(new.values())))
        results.update(zip(new, added, strict=True))
        self._metrics.stages(store=(time.perf_counter() - begun) * 1e3)
        for index, request in enumerate(requests):
            response = gallery_pb2.AddImagesResponse(index=first + index, key=request.key)
            result = results[index]
            if isinstance(result, LookalikeError):
                response.error.CopyFrom(wire.item_error_to_proto(result))
            else:
                response.added.unchanged = result
            self._metrics.items("AddImages", "rejected" if isinstance(result, LookalikeError) else "ok")
            yield response
