"""A typed client of the service, which hides the protobuf messages and raises Lookalike's own errors."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from PIL import Image

from encoder_service.compactor import Compaction, Stage
from encoder_service.encoder import EncoderSpec
from encoder_service.errors import RequestError, ServiceError, at
from encoder_service.limits import LIMITS, Limits
from encoder_service.rpc import wire
from encoder_service.searcher import SearchRequest, SearchResult, Subject
from encoder_service.status import error_from_status
from encoder_service.v1 import (
    encoder_pb2,
    encoder_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from encoder_service.writer import NewImage
from gallery import GallerySpec, SearchOptions
from gallery.errors import LookalikeError, UnavailableError
from gallery.map import GalleryMap

# Retry calls that an overloaded service rejected (RESOURCE_EXHAUSTED), or that gRPC cancelled in the service before a
# handler ran (CANCELLED). gRPC waits as long as the service asks. If the service does not ask, gRPC waits a random
# time: up to 0.1 s before the first retry, 0.2 s before the second, and 0.4 s before the third.
_RETRIES = """{"methodConfig": [{"name": [{}], "retryPolicy": {
    "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "CANCELLED"]}}]}"""

# Milliseconds between pings while calls are in flight, and the milliseconds after which an unanswered ping ends the
# connection. Without pings, a stream would wait forever for a service that has stopped or vanished.
_KEEPALIVE_MS = 30_000
_KEEPALIVE_TIMEOUT_MS = 10_000
# Seconds between two calls that ask for the state of a compaction.
_COMPACTION_POLL_S = 0.25

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response")


class Client:
    """A connection to one service. Safe to use from several threads. Close it, or use it in a `with` block.

    Besides the errors that a method lists, every method may raise:

    * ServiceError: The service can't be reached, or failed unexpectedly.
    * UnavailableError: The service can't answer now, for example because its store is down. Subclasses are
      OverloadedError, and TooLateError if the call exceeded its timeout.
    * UnauthenticatedError: The service requires a token, and the client has sent no token or an unknown one.
    * ForbiddenError: The token permits reading only.
    * RequestError: The request is larger than 64 MiB; it has not been sent.

    `encoder_service.status.ERRORS` lists which class each gRPC status becomes.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        timeout_s: float = 10.0,
        token: str = "",
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Prepare a connection, which the first call opens.

        Args:
            address: HOST:PORT of the service.
            timeout_s: Maximum duration of a call, in seconds. A stream may last as long as the service is alive. If the
                service stops or vanishes, the stream fails within 40 seconds.
            token: Token that identifies the caller; empty if the service requires none.
            credentials: TLS credentials, as from `grpc.ssl_channel_credentials`; None for an unencrypted connection.
        """
        self._address = address
        self._timeout_s = timeout_s
        self._tls_hint = (
            "if it is, its certificate must be issued by this authority and for this name"
            if credentials
            else "if it uses TLS, name its certificate authority with --ca-file"
        )
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        options = [
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            # gRPC also pings to measure the connection. While such a ping is unanswered, which may last 60 s by
            # default, the timeout above does not count.
            ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", LIMITS.max_message_bytes),
            ("grpc.service_config", _RETRIES),
        ]
        self._channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )
        self._encoder = encoder_pb2_grpc.EncoderServiceStub(self._channel)
        self._search = search_pb2_grpc.SearchServiceStub(self._channel)
        self._gallery = gallery_pb2_grpc.GalleryServiceStub(self._channel)

    def search(
        self,
        subject: Subject,
        gallery: str = "",
        options: SearchOptions = SearchOptions(),
        as_is: bool = False,
        expand: int = 0,
        with_reconstruction: bool = False,
    ) -> SearchResult:
        """Find the stored images that are most similar to a subject.

            client.search(Path("digit.png"))
            client.search(Key("mnist/train/0"), options=SearchOptions(limit=10))

        Args:
            subject: The query: an image file's bytes, the Path of an image file, a Pillow image, a code of shape
                (code_size,), or the Key of a stored image.
            gallery: Name of the gallery; empty for the service's only gallery.
            options: The number of hits, filters on the stored images, and whether hits include thumbnails.
            as_is: True to search for an image as it is, even if the encoder has a rule that adapts queries to its
                training data.
            expand: Number of nearest hits, 0 to 8, whose codes are averaged with the query's before searching again.
                Hits are then ranked by the mean, and their distances remain those to the query. Must be 0 for a Key.
            with_reconstruction: Whether to return the image as the encoder sees it, and as the decoder reconstructs it.

        Raises:
            InvalidInputError: The subject or an option is invalid; ImageError if the subject is an unreadable file.
            NotFoundError: No gallery has this name, or no image has this key.
            EncoderMismatchError: The service does not have the encoder that made the gallery.
        """
        request = SearchRequest(subject, options, as_is, expand, with_reconstruction)
        message = wire.search_request_to_proto(request, gallery)
        return wire.search_result_from_proto(self._call(self._search.Search, message))

    def search_batch(self, requests: Sequence[SearchRequest], gallery: str = "") -> list[SearchResult]:
        """Run 1 to 256 searches in one call, and return their results in the same order.

        One failing request fails the whole batch. The error's message begins with the position of that request, such as
        "requests[3]".

        Raises:
            InvalidInputError: A request is invalid.
            NotFoundError: No gallery has this name, or no image has the key of a request.
            EncoderMismatchError: The service does not have the encoder that made the gallery.
        """
        messages = []
        for index, request in enumerate(requests):
            with at(f"requests[{index}]"):
                messages.append(wire.search_request_to_proto(request, gallery))
        response = self._call(self._search.BatchSearch, search_pb2.BatchSearchRequest(requests=messages))
        return [wire.search_result_from_proto(result) for result in response.responses]

    def encode(self, image: bytes | Path | Image.Image) -> NDArray[np.float32]:
        """Return the code, (code_size,), of an image file or an image.

        Raises:
            InvalidInputError: The image can't be read or decoded, or is too large.
        """
        request = encoder_pb2.EncodeRequest(image=wire.image_to_proto(image))
        return wire.code_from_proto(self._call(self._encoder.Encode, request).code)

    def decode(self, code: NDArray[np.float32]) -> bytes:
        """Return the reconstruction of a code, (code_size,), as a PNG file.

        Raises:
            InvalidInputError: The code has NaN, infinity or a wrong size.
        """
        return self._call(self._encoder.Decode, encoder_pb2.DecodeRequest(code=wire.code_to_proto(code))).image_png

    def encode_stream(
        self, images: Iterable[bytes | Path | Image.Image]
    ) -> Iterator[NDArray[np.float32] | LookalikeError]:
        """Encode a stream of images.

        Yields:
            For each image, in the same order, its code, (code_size,), or the error if the service can't encode it.

        Raises:
            ImageError: A Path among the images can't be read, or its file is too large. The results of the images
                before it have been yielded.
        """
        requests = _Requests(encoder_pb2.EncodeStreamRequest(image=wire.image_to_proto(image)) for image in images)
        try:
            for response in self._encoder.EncodeStream(requests, metadata=self._metadata):
                if response.WhichOneof("result") == "code":
                    yield wire.code_from_proto(response.code)
                else:
                    yield wire.item_error_from_proto(response.error)
        except grpc.RpcError as error:
            raise self._error(error) from error
        requests.check()

    def encoder(self) -> EncoderSpec:
        """Return the description of the service's encoder."""
        return wire.encoder_from_proto(self._call(self._encoder.GetEncoder, encoder_pb2.GetEncoderRequest()).encoder)

    def limits(self) -> Limits:
        """Return the limits of the service."""
        return wire.limits_from_proto(self._call(self._encoder.GetEncoder, encoder_pb2.GetEncoderRequest()).limits)

    def galleries(self) -> list[GallerySpec]:
        """Return the descriptions of the service's galleries, sorted by name."""
        response = self._call(self._gallery.ListGalleries, gallery_pb2.ListGalleriesRequest())
        return [wire.gallery_from_proto(message) for message in response.galleries]

    def gallery(self, name: str = "") -> GallerySpec:
        """Return the description of a gallery; an empty name stands for the service's only gallery.

        Raises:
            NotFoundError: No gallery has this name.
            InvalidInputError: The name is invalid, or it is empty and the service has several galleries.
        """
        response = self._call(self._gallery.GetGallery, gallery_pb2.GetGalleryRequest(gallery=name))
        return wire.gallery_from_proto(response.gallery)

    def map(self, gallery: str = "") -> GalleryMap:
        """Return the map of a gallery, which `ingest map` makes; an empty name stands for the service's only gallery.

        Raises:
            NotFoundError: No gallery has this name, or the gallery has no map.
            InvalidInputError: The name is invalid, or it is empty and the service has several galleries.
            StoreDamagedError: The map can't be read.
        """
        response = self._call(self._gallery.GetMap, gallery_pb2.GetMapRequest(gallery=gallery))
        return GalleryMap.from_bytes(response.map_json_gz, f"map of gallery '{gallery}'")

    def add(self, images: Iterable[NewImage], gallery: str) -> Iterator[bool | LookalikeError]:
        """Add images to a gallery. Each image whose result has been yielded stays stored, even if the call fails later.

        Yields:
            For each image, in the same order: True if the gallery already had the same image, False once the image is
            stored as new or in place of another, or the error if it can't be stored.

        Raises:
            NotFoundError: No gallery has this name.
            EncoderMismatchError: The service does not have the encoder that made the gallery.
        """
        requests = _Requests(
            gallery_pb2.AddImagesRequest(
                gallery=gallery,
                key=image.key,
                image=wire.image_to_proto(image.picture),
                label=image.label,
                keep_stored=image.keep_stored,
            )
            for image in images
        )
        try:
            for response in self._gallery.AddImages(requests, metadata=self._metadata):
                if response.WhichOneof("result") == "added":
                    yield response.added.unchanged
                else:
                    yield wire.item_error_from_proto(response.error)
        except grpc.RpcError as error:
            raise self._error(error) from error
        requests.check()

    def delete(self, keys: Sequence[str], gallery: str = "") -> int:
        """Delete up to 1,000 images by key, and return how many the gallery had.

        Raises:
            InvalidInputError: There are too many keys.
            NotFoundError: No gallery has this name.
        """
        request = gallery_pb2.DeleteImagesRequest(gallery=gallery, keys=keys)
        return self._call(self._gallery.DeleteImages, request).deleted_count

    def compact(self, gallery: str = "") -> Iterator[Compaction]:
        """Make the service index a gallery anew, from its stored codes, while it is searched and modified.

        The compaction goes on if the iterator is not read to its end.

        Yields:
            The state of the compaction, four times a second. The stage of the last one is DONE or NOT_NEEDED.

        Raises:
            NotFoundError: No gallery has this name.
            UnavailableError: A load of the gallery is running, or the disk of the service is full.
        """
        request = gallery_pb2.CompactGalleryRequest(gallery=gallery)
        while True:
            compaction = wire.compaction_from_proto(self._call(self._gallery.CompactGallery, request))
            yield compaction
            if compaction.stage in (Stage.DONE, Stage.NOT_NEEDED):
                return
            request.version = request.version or compaction.spec.version
            time.sleep(_COMPACTION_POLL_S)

    def check_health(self, name: str = "") -> None:
        """Ask whether the service accepts calls.

        Args:
            name: Full name of a gRPC service, or "liveness" to ask only whether the process is alive. An empty name
                stands for the server as a whole.

        Raises:
            NotFoundError: The server has no service of this name.
            ServiceError: The service is not ready, or can't be reached.
        """
        health: Any = health_pb2_grpc.HealthStub(self._channel)
        response = self._call(health.Check, health_pb2.HealthCheckRequest(service=name))
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
            raise ServiceError(f"not ready: its status is {status}", place=self._place)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    @property
    def _place(self) -> str:
        return f"service at {self._address}"

    def _call(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        _check_size(request)
        try:
            return method(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _error(self, error: grpc.RpcError) -> LookalikeError:
        """Return Lookalike's error for an error of gRPC."""
        status, details = error.code(), error.details() or ""
        is_answered = any(entry.key == "x-request-id" for entry in error.trailing_metadata() or ())
        if status is grpc.StatusCode.UNAVAILABLE and not is_answered:
            details = f"{details}: is it running? start it with `encoder-service serve`; {self._tls_hint}"
            return ServiceError(f"{status.name}: {details}", place=self._place)
        if status is grpc.StatusCode.DEADLINE_EXCEEDED and not is_answered:
            details = f"no answer within {self._timeout_s:g} s: is the service overloaded or stuck?"
        translated = error_from_status(status, details)
        if isinstance(translated, UnavailableError):
            translated.place = self._place
        return translated


class _Requests(Generic[_Request]):
    """An iterator over the requests of a stream, for gRPC. It ends at the first exception, which `check` raises later.

    If the exception reached gRPC, gRPC would only log it.
    """

    def __init__(self, requests: Iterable[_Request]) -> None:
        self._requests = iter(requests)
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[_Request]:
        return self

    def __next__(self) -> _Request:
        try:
            request = next(self._requests)
            _check_size(request)
            return request
        except StopIteration:
            raise
        except Exception as error:
            self._error = error
            raise StopIteration from error

    def check(self) -> None:
        """Raise the error that ended the stream early, if any."""
        if self._error:
            raise self._error


def _check_size(request: Message) -> None:
    """Reject a message over the service's size limit. gRPC would send all of it, and send it again with each retry."""
    size = request.ByteSize()
    if size > LIMITS.max_message_bytes:
        raise RequestError(f"request: expected at most {LIMITS.max_message_bytes:,} bytes, got {size:,}")
