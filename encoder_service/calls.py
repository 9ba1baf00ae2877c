"""What every call goes through before and after its RPC: who calls, whether there is room, what is told of errors.

Health is answered to any prober, whoever it is and however busy the service.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc

from encoder_service.access import Tokens
from encoder_service.errors import OverloadedError
from encoder_service.metrics import Metrics
from encoder_service.status import outcome
from gallery.deadline import deadline
from gallery.errors import LookalikeError, StoreSlowError, UnavailableError

_log = logging.getLogger(__name__)

_RETRY_AFTER_S = 1
_LONGEST_ID = 128
_Metadata = tuple[tuple[str, str], ...]
_FREE = ("/grpc.health.v1.Health/",)


class Calls(grpc.ServerInterceptor):
    """Wraps every RPC of the service."""

    def __init__(
        self, tokens: Tokens | None, max_calls: int, max_streams: int, metrics: Metrics, hidden: Sequence[str]
    ) -> None:
        """Take the parts.

        Args:
            tokens: Says who may call; None lets anybody.
            max_calls: How many calls of one answer may be under way.
            max_streams: How many streams may be.
            metrics: Counts them.
            hidden: Places of this machine that no stranger is told of.
        """
        self._tokens = tokens
        self._calls = threading.BoundedSemaphore(max_calls)
        self._streams = threading.BoundedSemaphore(max_streams)
        self._limits = {self._calls: f"{max_calls} calls", self._streams: f"{max_streams} streams"}
        self._metrics = metrics
        self._hidden = sorted(filter(None, hidden), key=len, reverse=True)

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler of one call."""
        handler = continuation(details)
        method = str(details.method)
        if handler is None or method.startswith(_FREE):
            return handler
        metadata = {str(key): str(value) for key, value in details.invocation_metadata}
        if handler.request_streaming:
            return handler._replace(stream_stream=self._stream(handler.stream_stream, method, metadata))
        return handler._replace(unary_unary=self._unary(handler.unary_unary, method, metadata))

    def _unary(self, answer: Callable[[Any, Any], Any], method: str, metadata: dict[str, str]) -> Callable[..., Any]:
        def run(request: Any, context: grpc.ServicerContext) -> Any:
            with self._call(context, method, metadata, self._calls):
                return answer(request, context)

        return run

    def _stream(self, answer: Callable[[Any, Any], Any], method: str, metadata: dict[str, str]) -> Callable[..., Any]:
        def run(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._call(context, method, metadata, self._streams):
                yield from answer(requests, context)

        return run

    @contextmanager
    def _call(
        self, context: grpc.ServicerContext, method: str, metadata: dict[str, str], room: threading.BoundedSemaphore
    ) -> Iterator[None]:
        begun = time.perf_counter()
        request_id = _request_id(metadata)
        trailing: _Metadata = (("x-request-id", request_id),)
        status = grpc.StatusCode.OK
        try:
            try:
                with self._admitted(method, metadata, room), deadline(context.time_remaining()):
                    if (context.time_remaining() or 1) <= 0:
                        raise StoreSlowError("the caller's time was over before its turn came")
                    context.set_trailing_metadata(trailing)
                    yield
            except GeneratorExit:  # the client has gone away
                status = grpc.StatusCode.CANCELLED
                raise
            except LookalikeError as error:
                status = outcome(error).status
                if isinstance(error, UnavailableError):
                    _log.warning("%s: %s", method, error, extra={"request_id": request_id})
                if isinstance(error, OverloadedError):
                    trailing += (("retry-after", str(_RETRY_AFTER_S)),)
                _abort(context, status, self._told(error, request_id), trailing)
            except Exception as error:
                if not context.is_active():  # aborted below, or the client has gone away
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

    @contextmanager
    def _admitted(self, method: str, metadata: dict[str, str], room: threading.BoundedSemaphore) -> Iterator[None]:
        if self._tokens:
            self._tokens.check(method, metadata.get("authorization", ""))
        if not room.acquire(blocking=False):
            raise OverloadedError(f"the service has {self._limits[room]} under way, its most: try again soon")
        try:
            yield
        finally:
            room.release()

    def _told(self, error: LookalikeError, request_id: str) -> str:
        """Return what a caller is told of an error: of what is wrong with the service itself, only its kind."""
        if isinstance(error, UnavailableError):
            return f"{(type(error).__doc__ or '').splitlines()[0]} The service's log has more under {request_id}."
        text = str(error)
        for place in self._hidden:
            text = text.replace(place, "the store")
        return text


def _request_id(metadata: dict[str, str]) -> str:
    given = metadata.get("x-request-id", "")
    return given if given.isascii() and given.isprintable() and 0 < len(given) <= _LONGEST_ID else uuid.uuid4().hex


def _abort(context: grpc.ServicerContext, status: grpc.StatusCode, message: str, trailing: _Metadata) -> NoReturn:
    context.set_trailing_metadata(trailing)
    context.abort(status, message)
    raise AssertionError("abort always raises")
