"""One call over HTTP, in the form in which gRPC's pools, interceptors and servicers know calls.

A pool's thread runs the call, and waits there for the rest of the request, as with gRPC. So the pools' limits on slow
requests and unread answers hold for HTTP too.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

import grpc

from encoder_service.errors import RequestError
from encoder_service.http.handlers import CallDetails, Metadatum


class Answer(NamedTuple):
    """The outcome of a call.

    Attributes:
        status: The gRPC status.
        content: The serialised response; empty if the status is not OK.
        message: The error's message; empty if the status is OK.
        metadata: Trailing metadata.
        http_status: HTTP status, if the gRPC status alone does not determine it; None otherwise.
    """

    status: grpc.StatusCode
    content: bytes = b""
    message: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    http_status: int | None = None


class HttpCall:
    """A call, as the event loop and a pool see it.

    Attributes:
        call_details: Its headers.
        call: Its connection.
        answer: Its answer, once that is known.
    """

    def __init__(
        self, details: CallDetails, client: tuple[str, int] | None, timeout_s: float | None, abort: Callable[[], None]
    ) -> None:
        """Begin a call. Only the thread of the event loop calls this and the public methods.

        Args:
            details: Its headers.
            client: The client's host and port; None if unknown.
            timeout_s: Seconds that the client waits for the answer; None for no deadline.
            abort: Closes the client's connection at once.
        """
        self._loop = asyncio.get_running_loop()
        self._abort = abort
        self._request: Future[bytes] = Future()
        self._context = _Context(details.invocation_metadata, _peer(client), timeout_s)
        self.call_details = details
        self.call = _Connection(self._context.peer(), self._cancel_from_thread)
        self.answer: asyncio.Future[Answer] = self._loop.create_future()

    def start(self, handler: Any, unpack: Callable[[bytes], bytes]) -> None:
        """Run a handler in the pool that admission has chosen.

        Args:
            handler: The handler. One that rejects the call reads no request.
            unpack: Returns the message in the content of the request, or raises RequestError. The pool's thread calls
                it.
        """
        behaviour = handler.unary_unary or handler.stream_stream
        behaviour.experimental_thread_pool.submit(self._run, behaviour, unpack if handler.unary_unary else None, self)

    def received(self, content: bytes) -> None:
        """Pass the content of the request to the handler, which waits for it."""
        if not self._request.done():
            self._request.set_result(content)

    def end(self, answer: Answer) -> None:
        """Answer the call, unless it has been answered. The handler stops soon, because nobody waits for it."""
        if not self.answer.done():
            self.answer.set_result(answer)
        if not self._request.done():
            self._request.set_exception(ConnectionAbortedError())

    def close(self) -> None:
        """Note that the answer has left, or that the client has gone."""
        self.end(Answer(grpc.StatusCode.CANCELLED))
        self._context.close()

    def _run(
        self, behaviour: Callable[[Any, Any], Any], unpack: Callable[[bytes], bytes] | None, call: "HttpCall"
    ) -> None:
        """Execute the handler, in a thread of a pool. The pool finds the call among the arguments."""
        context = self._context
        try:
            content = behaviour(unpack(self._request.result()) if unpack else None, context)
        except ConnectionAbortedError:
            return
        except RequestError as error:
            answer = Answer(grpc.StatusCode.INVALID_ARGUMENT, message=error.message)
        except Exception:
            status, message = context.status or (grpc.StatusCode.INTERNAL, "Unexpected error.")
            answer = Answer(status, message=message, metadata=context.trailing)
        else:
            answer = Answer(grpc.StatusCode.OK, content, metadata=context.trailing)
        self._from_thread(self.end, answer)

    def _cancel_from_thread(self) -> None:
        self._from_thread(self._cancel)

    def _cancel(self) -> None:
        if self.answer.done():  # nobody reads it
            self._abort()
        self.end(Answer(grpc.StatusCode.CANCELLED, message="the service has ended the call, which took too long"))

    def _from_thread(self, function: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the event loop has stopped, so nobody waits
            self._loop.call_soon_threadsafe(function, *arguments)


class _Context:
    """What a handler and its interceptors use of a `grpc.ServicerContext`.

    Attributes:
        status: Status and message with which the handler has ended the call; None if it has not.
        trailing: Trailing metadata.
    """

    def __init__(self, metadata: tuple[Metadatum, ...], peer: str, timeout_s: float | None) -> None:
        self._metadata = metadata
        self._peer = peer
        self._ends = None if timeout_s is None else time.monotonic() + timeout_s
        self._callbacks: list[Callable[[], None]] = []
        self._is_active = True
        self._lock = threading.Lock()
        self.status: tuple[grpc.StatusCode, str] | None = None
        self.trailing: tuple[tuple[str, str], ...] = ()

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        return self._metadata

    def peer(self) -> str:
        return self._peer

    def is_active(self) -> bool:
        return self._is_active

    def time_remaining(self) -> float | None:
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self.trailing = tuple(metadata)

    def abort(self, status: grpc.StatusCode, message: str) -> NoReturn:
        self.status = (status, message)
        raise Exception(message)  # as gRPC does

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if self._is_active:
                self._callbacks.append(callback)
            return self._is_active

    def close(self) -> None:
        with self._lock:
            self._is_active = False
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class _Connection:
    """What a pool uses of gRPC's own object for a call."""

    def __init__(self, peer: str, cancel: Callable[[], None]) -> None:
        self._peer = peer
        self.cancel = cancel

    def peer(self) -> bytes:
        return self._peer.encode()


def _peer(client: tuple[str, int] | None) -> str:
    """Return a client's address as gRPC writes it."""
    if client is None:
        return "unknown"
    host, port = client
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
