"""What every call goes through before and after its RPC: its turn, its deadline, its id, what is told of errors.

Health is answered to any prober, whoever it is.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from encoder_service.errors import RequestError
from encoder_service.rpc.metrics import Metrics
from encoder_service.status import status_for
from gallery.deadline import check_wanted, deadline
from gallery.errors import LookalikeError, UnavailableError

_log = logging.getLogger(__name__)

_LONGEST_ID = 128
# Longer, and gRPC would refuse to send it.
_LONGEST_MESSAGE = 1000
_DO_NOT_RETRY = ("grpc-retry-pushback-ms", "-1")
_Metadata = tuple[tuple[str, str], ...]
_FREE = ("/grpc.health.v1.Health/",)


class Calls(grpc.ServerInterceptor):
    """Wraps every RPC of the service."""

    def __init__(self, at_once: int, metrics: Metrics, hidden: Sequence[str]) -> None:
        """Take the parts.

        Args:
            at_once: How many calls with one answer are worked on at once. More would be slower, as most of a call is
                Python, which one thread at a time can run.
            metrics: Counts them.
            hidden: Places of this machine that no stranger is told of.
        """
        self._turns = threading.BoundedSemaphore(at_once)
        self._metrics = metrics
        # not a part of one, such as a home that is `/`, which would be found in every text
        self._hidden = sorted((place for place in hidden if "/" in place and place != "/"), key=len, reverse=True)

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler of one call."""
        handler = continuation(details)
        method = str(details.method)
        if handler is None or method.startswith(_FREE):
            return handler
        handler = handler._replace(request_deserializer=_lenient(handler.request_deserializer))
        if handler.request_streaming:
            return handler._replace(stream_stream=self._stream(handler.stream_stream, method))
        return handler._replace(unary_unary=self._unary(handler.unary_unary, method))

    def _unary(self, answer: Callable[[Any, Any], Any], method: str) -> Callable[..., Any]:
        def run(request: Any, context: grpc.ServicerContext) -> Any:
            with self._call(context, method, "call"):
                whole = _whole(request)
                with self._turns:
                    check_wanted()
                    return answer(whole, context)

        return run

    def _stream(self, answer: Callable[[Any, Any], Any], method: str) -> Callable[..., Any]:
        def run(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._call(context, method, "stream"):
                yield from answer(map(_whole, requests), context)

        return run

    @contextmanager
    def _call(self, context: grpc.ServicerContext, method: str, kind: str) -> Iterator[None]:
        begun = time.perf_counter()
        metadata = context.invocation_metadata()
        request_id = request_id_from(metadata)
        trailing: _Metadata = (("x-request-id", request_id),)
        status = grpc.StatusCode.OK
        try:
            try:
                with (
                    self._metrics.under_way.labels(kind).track_inprogress(),
                    deadline(context.time_remaining(), context.is_active),
                ):
                    context.set_trailing_metadata(trailing)
                    yield
            except GeneratorExit:  # the client has gone away
                status = grpc.StatusCode.CANCELLED
                raise
            except LookalikeError as error:
                status = status_for(type(error))
                if isinstance(error, UnavailableError):
                    _log.warning("%s: %s", method, error, extra={"request_id": request_id})
                if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    trailing += (_DO_NOT_RETRY,)  # it was begun, and whatever is overloaded is not to be asked again
                _abort(context, status, self._told(error, request_id), trailing)
            except Exception as error:
                if not context.is_active():  # the client has gone away
                    status = grpc.StatusCode.CANCELLED
                    raise
                status = grpc.StatusCode.INTERNAL
                _log.exception("%s: unexpected error", method, extra={"request_id": request_id})
                _abort(context, status, f"unexpected error; the service's log has it under {request_id}", trailing)
                raise AssertionError from error
        finally:
            seconds = time.perf_counter() - begun
            self._metrics.call(method, status.name, seconds)
            _log.debug("%s %s %.1f ms", method, status.name, seconds * 1e3, extra={"request_id": request_id})

    def _told(self, error: LookalikeError, request_id: str) -> str:
        """Return what a caller is told of an error: of what is wrong with the service itself, only its kind."""
        if isinstance(error, UnavailableError):
            return f"{(type(error).__doc__ or '').splitlines()[0]} The service's log has more under {request_id}."
        text = str(error)
        for place in self._hidden:
            text = text.replace(place, "the store")
        return text[:_LONGEST_MESSAGE]


class _Unreadable:
    """Stands for bytes that are no message: gRPC itself would call them an INTERNAL error."""


def _lenient(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read_or_tell(content: bytes) -> Any:
        try:
            return read(content)
        except DecodeError:
            return _Unreadable()

    return read_or_tell


def _whole(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise RequestError("request: expected a protobuf message of this call, got bytes that are none")
    return request


def request_id_from(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the request id that a caller gave, or a new one where it gave none that can be logged."""
    given = metadata_value("x-request-id", metadata)
    can_be_logged = given.isascii() and given.isprintable() and 0 < len(given) <= _LONGEST_ID
    return given if can_be_logged else f"{random.getrandbits(128):032x}"


def metadata_value(name: str, metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return a value of the metadata; empty for none."""
    return next((str(value) for key, value in metadata if key == name), "")


def _abort(context: grpc.ServicerContext, status: grpc.StatusCode, message: str, trailing: _Metadata) -> NoReturn:
    context.set_trailing_metadata(trailing)
    context.abort(status, message)
    raise AssertionError("abort always raises")
