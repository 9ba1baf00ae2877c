"""A typed client of the service: images in, results out, errors as this project's own."""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from PIL import Image

from encoder_service.errors import ServiceError
from encoder_service.limits import LIMITS
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
from gallery import SearchOptions
from gallery.errors import LookalikeError

# A call that was turned away, or in a rush cancelled before it was read, is tried again: when the service has said or
# soon.
_RETRIES = """{"methodConfig": [{"name": [{}], "retryPolicy": {
    "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "CANCELLED"]}}]}"""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A connection to one service. Safe to use from several threads; close it, or use it in a `with`."""

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        timeout_s: float = 10.0,
        token: str = "",
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Connect at the first call.

        Args:
            address: HOST:PORT of the service.
            timeout_s: How long any one call may take, in seconds; streams take as long as they have images.
            token: Says who calls, where the service wants to know.
            credentials: For TLS, as from `grpc.ssl_channel_credentials`; None for an unencrypted connection.
        """
        self._address = address
        self._timeout_s = timeout_s
        self._tls_hint = (
            "if it is, its certificate must be of this authority and for this name"
            if credentials
            else "if it has TLS, name its authority with --ca-file"
        )
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        options = [
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

    def search(self, subject: Subject, gallery: str = "", options: SearchOptions = SearchOptions()) -> SearchResult:
        """Find the stored images that look like the subject.

        Args:
            subject: An image file's bytes, an image, a code, or the key of a stored image.
            gallery: Name of the gallery; empty for the service's only one.
            options: How many hits, among what, and what they carry.

        Raises:
            InvalidInputError: The service refused the subject or an option.
            NotFoundError: There is no such gallery or key.
            EncoderMismatchError: The gallery was made by another encoder than the service runs.
            ServiceError: The service can't be reached, or failed.
        """
        message = wire.search_request_to_proto(SearchRequest(subject, options), gallery)
        return wire.search_result_from_proto(self._call(self._search.Search, message))

    def search_batch(self, requests: Sequence[SearchRequest], gallery: str = "") -> list[SearchResult]:
        """Answer several requests at once, in the same order. Errors as for `search`; one fails all."""
        messages = [wire.search_request_to_proto(request, gallery) for request in requests]
        response = self._call(self._search.BatchSearch, search_pb2.BatchSearchRequest(requests=messages))
        return [wire.search_result_from_proto(result) for result in response.responses]

    def encode(self, image: bytes | Image.Image) -> NDArray[np.float32]:
        """Return the code of an image, (code_size,). Errors as for `search`."""
        request = encoder_pb2.EncodeRequest(image=wire.image_to_proto(image))
        return wire.code_from_proto(self._call(self._encoder.Encode, request).code)

    def decode(self, code: NDArray[np.float32]) -> bytes:
        """Return the reconstruction of a code, (code_size,), as a PNG file. Errors as for `search`."""
        return self._call(self._encoder.Decode, encoder_pb2.DecodeRequest(code=wire.code_to_proto(code))).image_png

    def encode_stream(self, images: Iterable[bytes | Image.Image]) -> Iterator[NDArray[np.float32] | LookalikeError]:
        """Yield the code of each image as it comes, in order; for a bad image, the error instead of a code."""
        requests = _Sent(encoder_pb2.EncodeStreamRequest(image=wire.image_to_proto(image)) for image in images)
        try:
            for response in self._encoder.EncodeStream(requests, metadata=self._metadata):
                yield self._item(response)
        except grpc.RpcError as error:
            raise self._error(error) from error
        requests.check()

    def encoder(self) -> encoder_pb2.GetEncoderResponse:
        """Return what the service runs and what it accepts."""
        return self._call(self._encoder.GetEncoder, encoder_pb2.GetEncoderRequest())

    def galleries(self) -> list[gallery_pb2.Gallery]:
        """Return what galleries there are, by name."""
        return list(self._call(self._gallery.ListGalleries, gallery_pb2.ListGalleriesRequest()).galleries)

    def gallery(self, name: str = "") -> gallery_pb2.Gallery:
        """Return what a gallery is; empty for the service's only one. Errors as for `search`."""
        return self._call(self._gallery.GetGallery, gallery_pb2.GetGalleryRequest(gallery=name)).gallery

    def add(self, images: Iterable[NewImage], gallery: str) -> Iterator[bool | LookalikeError]:
        """Add images to a gallery, and yield for each, in order, when the service has stored it.

        Yields:
            Whether it was there already, unchanged; for a bad image, the error.

        Raises:
            NotFoundError: There is no such gallery.
            ServiceError: The service can't be reached, or failed; what has been yielded is stored.
        """
        requests = _Sent(
            gallery_pb2.AddImagesRequest(
                gallery=gallery, key=image.key, image=wire.image_to_proto(image.picture), label=image.label
            )
            for image in images
        )
        try:
            for response in self._gallery.AddImages(requests, metadata=self._metadata):
                if response.WhichOneof("result") == "added":
                    yield response.added.unchanged
                else:
                    yield error_from_status(grpc.StatusCode[response.error.status], response.error.message)
        except grpc.RpcError as error:
            raise self._error(error) from error
        requests.check()

    def delete(self, keys: Sequence[str], gallery: str = "") -> int:
        """Remove images by key, at most 1,000, and return how many of them were there."""
        request = gallery_pb2.DeleteImagesRequest(gallery=gallery, keys=keys)
        return self._call(self._gallery.DeleteImages, request).deleted_count

    def check_health(self, name: str = "") -> None:
        """Ask whether the service takes calls.

        Args:
            name: One of its services, or "liveness" to ask whether it lives at all; empty for whether it is ready.

        Raises:
            ServiceError: It does not, or can't be reached.
        """
        health: Any = health_pb2_grpc.HealthStub(self._channel)
        answer = self._call(health.Check, health_pb2.HealthCheckRequest(service=name))
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            raise ServiceError(f"service at {self._address} is not ready: it says {name}")

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

    def _call(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        try:
            return method(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _item(self, response: encoder_pb2.EncodeStreamResponse) -> NDArray[np.float32] | LookalikeError:
        if response.WhichOneof("result") == "code":
            return wire.code_from_proto(response.code)
        return error_from_status(grpc.StatusCode[response.error.status], response.error.message)

    def _error(self, error: grpc.RpcError) -> LookalikeError:
        known = error_from_status(error.code(), error.details() or "")
        if not isinstance(known, ServiceError):
            return known
        answered = any(one.key == "x-request-id" for one in error.trailing_metadata() or ())
        hint = "" if answered else f": is it running? start it with `encoder-service serve`; {self._tls_hint}"
        return ServiceError(f"service at {self._address}: {known}{hint}")


class _Sent(Generic[_Request]):
    """Requests on their way. What making them raises ends the stream, and is kept: gRPC would only log it."""

    def __init__(self, requests: Iterable[_Request]) -> None:
        self._requests = iter(requests)
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[_Request]:
        return self

    def __next__(self) -> _Request:
        try:
            return next(self._requests)
        except StopIteration:
            raise
        except Exception as error:
            self._error = error
            raise StopIteration from error

    def check(self) -> None:
        """Raise what making the requests raised."""
        if self._error:
            raise self._error
