"""Intercept every RPC, to apply concurrency limits and deadlines, translate errors and record metrics."""

import functools
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import grpc

from encoder_service.capacity import ExecutionSlots
from encoder_service.rpc.codec import Codec
from encoder_service.rpc.metrics import Metrics
from encoder_service.rpc.pools import CallPool, Stream, StreamPool, current_call
from encoder_service.status import status_for
from gallery.deadline import check_wanted, deadline
from gallery.errors import LookalikeError

_log = logging.getLogger(__name__)

# Maximum characters of a request id that a client chooses. Each log line about the call repeats it.
_MAX_ID_LENGTH = 128
# Maximum bytes of an error message as gRPC sends it. All trailing metadata together may have 8 KiB.
_MAX_MESSAGE_BYTES = 4000
# Metadata that keeps gRPC's own clients from retrying, even if they are configured to.
_DO_NOT_RETRY = ("grpc-retry-pushback-ms", "-1")
# Health checks bypass this interceptor, so that they never wait for other calls.
_HEALTH_PREFIX = "/grpc.health.v1.Health/"


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps every RPC of the server except health checks."""

    def __init__(self, max_executing: int, calls: CallPool, streams: StreamPool, metrics: Metrics) -> None:
        """Create the interceptor.

        Args:
            max_executing: Maximum calls with one request and one response that execute concurrently. If the pool has
                admitted more, the others wait. Streams do not count.
            calls: Pool of the calls with one request and one response.
            streams: Pool of the streams.
            metrics: Counts and times the calls.
        """
        self._slots = ExecutionSlots(max_executing)
        self._calls = calls
        self._streams = streams
        self._metrics = metrics
        self._wrapped = functools.cache(self._wrap)  # an RPC keeps its handler, so each is wrapped once

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Return the wrapped handler of an RPC. Calls with JSON over HTTP have another one than calls with protobuf."""
        handler = continuation(details)
        method = str(details.method)
        if handler is None or method.startswith(_HEALTH_PREFIX):
            return handler
        return self._wrapped(handler, method)

    def _wrap(self, handler: Any, method: str) -> Any:
        codec = Codec(method, handler.request_deserializer, handler.response_serializer)
        handler = handler._replace(request_deserializer=None, response_serializer=None)
        if handler.request_streaming:
            return handler._replace(stream_stream=self._stream(handler.stream_stream, method, codec))
        return handler._replace(unary_unary=self._unary(handler.unary_unary, method, codec))

    def _unary(self, behaviour: Callable[[Any, Any], Any], method: str, codec: Codec) -> Callable[..., Any]:
        def run(content: bytes, context: grpc.ServicerContext) -> Any:
            with self._call(context, method, "call"):
                call = current_call()
                self._calls.arrived(call, len(content))
                with self._slots.slot():
                    check_wanted()
                    answer = codec.serialize(behaviour(codec.parse(content), context))
                self._calls.answered(call, len(answer), context)
                return answer

        return run

    def _stream(self, behaviour: Callable[[Any, Any], Any], method: str, codec: Codec) -> Callable[..., Any]:
        def run(contents: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            stream: Stream = current_call()

            def requests() -> Iterator[Any]:
                for content in contents:
                    stream.received(len(content))
                    request = codec.parse(content)
                    del content
                    yield request
                    del request
                    self._streams.wait_for_room(stream, context)

            with self._call(context, method, "stream"), closing(behaviour(requests(), context)) as responses:
                for response in responses:
                    answer = codec.serialize(response)
                    stream.sending()
                    yield answer
                    stream.sent()

        return run

    @contextmanager
    def _call(self, context: grpc.ServicerContext, method: str, kind: str) -> Iterator[None]:
        """Execute the block as one call: set its deadline, record its metrics, and send its error to the client."""
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
                # usually the store is overloaded, not this service: a retry would add to the store's load
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
    """Return an error's text without details of this machine, because the client is untrusted.

    The file or address in `error.place` is left out. A class whose messages may name files or servers too has a
    `summary`. The client then receives the summary, and the log has the message.
    """
    if error.summary:
        return f"{error.summary} {_see_log(request_id)}"
    return _cut(error.message)


def _cut(message: str) -> str:
    """Cut a message to fit into a header, where each byte that is not printable ASCII takes three: %XX."""
    size = 0
    for position, character in enumerate(message):
        is_plain = character.isascii() and character.isprintable() and character != "%"
        size += 1 if is_plain else 3 * len(character.encode("utf-8", "replace"))
        if size > _MAX_MESSAGE_BYTES:
            return message[:position]
    return message


def _see_log(request_id: str) -> str:
    return f"The service's log has more under {request_id}."


def request_id_from(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the call's `x-request-id`, or a new one if it is missing or can't be logged."""
    given = metadata_value("x-request-id", metadata)
    can_be_logged = given.isascii() and given.isprintable() and 0 < len(given) <= _MAX_ID_LENGTH
    return given if can_be_logged else f"{random.getrandbits(128):032x}"


def metadata_value(name: str, metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the first value that the metadata has for a name; empty if there is no value."""
    return next((str(value) for key, value in metadata if key == name), "")
