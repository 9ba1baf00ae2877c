"""Interceptor around every RPC: concurrency, deadline, request id, error translation, metrics."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from encoder_service.errors import RequestError
from encoder_service.rpc.metrics import Metrics
from encoder_service.status import status_for
from gallery.deadline import check_wanted, deadline
from gallery.errors import LookalikeError

_log = logging.getLogger(__name__)

# Characters of a request id that clients may choose: it is repeated in each log line of the call.
_MAX_ID_LENGTH = 128
# Characters of an error message: it travels in a header, and gRPC refuses to send a header that is too long.
_MAX_MESSAGE_LENGTH = 1000
# Tells gRPC's own clients not to retry, even if they are configured to.
_DO_NOT_RETRY = ("grpc-retry-pushback-ms", "-1")
# Health checks bypass this interceptor: any prober may send them, and they must not wait for other calls.
_HEALTH_PREFIX = "/grpc.health.v1.Health/"


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps every RPC of the service."""

    def __init__(self, max_executing: int, metrics: Metrics) -> None:
        """Take the parts.

        Args:
            max_executing: Maximum calls with one request that execute at once; the others of their pool wait for
                their turn. Streams are not counted.
            metrics: Counts and times the calls.
        """
        self._turns = threading.BoundedSemaphore(max_executing)
        self._metrics = metrics

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler of one call."""
        handler = continuation(details)
        method = str(details.method)
        if handler is None or method.startswith(_HEALTH_PREFIX):
            return handler
        handler = handler._replace(request_deserializer=_lenient(handler.request_deserializer))
        if handler.request_streaming:
            return handler._replace(stream_stream=self._stream(handler.stream_stream, method))
        return handler._replace(unary_unary=self._unary(handler.unary_unary, method))

    def _unary(self, behaviour: Callable[[Any, Any], Any], method: str) -> Callable[..., Any]:
        def run(request: Any, context: grpc.ServicerContext) -> Any:
            with self._call(context, method, "call"):
                message = _check_message(request)
                with self._turns:
                    check_wanted()
                    return behaviour(message, context)

        return run

    def _stream(self, behaviour: Callable[[Any, Any], Any], method: str) -> Callable[..., Any]:
        def run(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._call(context, method, "stream"):
                yield from behaviour(map(_check_message, requests), context)

        return run

    @contextmanager
    def _call(self, context: grpc.ServicerContext, method: str, kind: str) -> Iterator[None]:
        """Execute the block as one call: with its deadline, its metrics, and its errors sent to the client."""
        begun = time.perf_counter()
        request_id = request_id_from(context.invocation_metadata())
        id_metadata = ("x-request-id", request_id)
        status = grpc.StatusCode.OK
        try:
            with (
                self._metrics.in_flight.labels(kind).track_inprogress(),
                deadline(context.time_remaining(), context.is_active),
            ):
                context.set_trailing_metadata((id_metadata,))
                yield
        except GeneratorExit:  # the client has cancelled the stream
            status = grpc.StatusCode.CANCELLED
            raise
        except LookalikeError as error:
            status = status_for(type(error))
            if error.summary:
                _log.warning("%s: %s", method, error, extra={"request_id": request_id})
            if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
                # The store is overloaded, not this service: a retry would only add to the store's load.
                context.set_trailing_metadata((id_metadata, _DO_NOT_RETRY))
            context.abort(status, message_for_client(error, request_id))
        except Exception:
            if not context.is_active():  # the client has cancelled the call
                status = grpc.StatusCode.CANCELLED
                raise
            status = grpc.StatusCode.INTERNAL
            _log.exception("%s: unexpected error", method, extra={"request_id": request_id})
            context.abort(status, f"Unexpected error. {_see_log(request_id)}")
        finally:
            seconds = time.perf_counter() - begun
            self._metrics.call(method, status.name, seconds)
            _log.debug("%s %s %.1f ms", method, status.name, seconds * 1e3, extra={"request_id": request_id})


def message_for_client(error: LookalikeError, request_id: str) -> str:
    """Return the text about an error that an untrusted client may read.

    It never contains the error's place. If the error's class has a summary, then its message may name files or servers
    of this machine too, so the client receives the summary and the log has the rest.
    """
    if error.summary:
        return f"{error.summary} {_see_log(request_id)}"
    return error.message[:_MAX_MESSAGE_LENGTH]


def _see_log(request_id: str) -> str:
    return f"The service's log has more under {request_id}."


class _Malformed:
    """Stands for bytes that can't be parsed. gRPC itself would answer INTERNAL, though the mistake is the client's."""


def _lenient(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse_or_mark(content: bytes) -> Any:
        try:
            return parse(content)
        except DecodeError:
            return _Malformed()

    return parse_or_mark


def _check_message(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise RequestError("request: expected a protobuf message of this RPC, got bytes that can't be parsed as one")
    return request


def request_id_from(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the call's `x-request-id`, or a new one if the caller sent none that can be logged."""
    given = metadata_value("x-request-id", metadata)
    can_be_logged = given.isascii() and given.isprintable() and 0 < len(given) <= _MAX_ID_LENGTH
    return given if can_be_logged else f"{random.getrandbits(128):032x}"


def metadata_value(name: str, metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the first value of a name in the metadata, "" if it is missing."""
    return next((str(value) for key, value in metadata if key == name), "")
