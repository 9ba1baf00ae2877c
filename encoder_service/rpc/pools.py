"""Thread pools for calls, which limit both the calls at work and the calls that wait for their clients.

A call waits for its client until the rest of its request arrives, until a stream's next message arrives, or until its
answer has been read. Only calls at work count as load. A waiting call costs little, but could wait forever. So waiting
has a time limit, and if too many calls wait, the pool ends the call that has waited longest.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import grpc

from encoder_service.rpc.access import READING_RPCS
from encoder_service.rpc.overload import OverloadDetector
from gallery.errors import OverloadedError

T = TypeVar("T")

_log = logging.getLogger(__name__)

# Maximum seconds for a request to arrive, and for an answer to be read. The largest message, 64 MiB, takes this long at
# 9 Mbit/s.
_MAX_TRANSFER_S = 60.0
# Seconds for which a new call counts as being at work although its request has not arrived. A request usually arrives
# in the same packet as the call's headers. A request that takes more than these seconds to arrive is slow.
_FRESH_S = 0.1
# Maximum calls whose requests are slow to arrive. Each of them holds a thread and up to one message.
_MAX_SLOW = 32
# Maximum total bytes of all unanswered requests. Unread answers have a separate limit of the same size, which is twice
# the largest message, so that one large message does not block all other calls.
_MAX_BYTES = 128 * 1024 * 1024
# Seconds for which a client may leave an answer unread even while the unread answers exceed `_MAX_BYTES`.
_MIN_UNREAD_S = 1.0
# Maximum seconds that a stream may be idle, that is, wait for its client. The limit is long, because the client may be
# a person or may have a slow source of images.
_MAX_IDLE_S = 600.0
# Seconds after which an idle stream is ended if the pool is full and a new stream arrives.
_MAX_IDLE_WHEN_FULL_S = 5.0
# Seconds after which an idle stream is ended while the service shuts down.
_MAX_IDLE_AT_END_S = 0.5
# Number of a pool's threads beyond its limit. After a call has been ended, its thread takes a moment to stop.
_SPARE_THREADS = 8
# Maximum seconds for a health request to arrive, enough to resend a lost packet. An untrusted client could send a large
# request, which gRPC would buffer until the limit ends the call.
_MAX_HEALTH_TRANSFER_S = 1.0
# Seconds after which a health request is slow. It usually arrives in the same packet as the call's headers.
_SLOW_HEALTH_S = 0.02
# Maximum health calls whose requests are slow to arrive. Each of them holds a thread and up to 128 MiB of memory: a
# message of up to 64 MiB, and the copy that gRPC makes of it once it has arrived.
_MAX_SLOW_HEALTH = 1
# Number of threads that wait for health requests to arrive: one for a slow request, and one more, so that other health
# calls are answered meanwhile.
_HEALTH_THREADS = _MAX_SLOW_HEALTH + 1
# Maximum health calls that wait for one of the `_HEALTH_THREADS`.
_MAX_HEALTH_WAITING = 64
# Name of health calls in log lines.
_HEALTH = "/grpc.health.v1.Health"
# Seconds between checks for calls that have waited too long.
_SWEEP_S = 0.01

_current = threading.local()


class Call:
    """The state of a call in its pool.

    Attributes:
        method: Full name of the RPC.
        begun: Monotonic time at which the call began.
        waiting_since: Monotonic time at which the call began to wait for its client; None while it is at work.
        has_arrived: Whether the call's request has arrived.
        size: Bytes of the call's request. Once the answer is computed, bytes of the answer.
    """

    def __init__(self, method: str, arguments: Iterable[Any]) -> None:
        """Begin to wait for the request. The server's own call object is taken from the arguments of `Pool.submit`."""
        self.method = method
        self._core = next(argument.call for argument in arguments if hasattr(argument, "call_details"))
        self.begun = time.monotonic()
        self.waiting_since: float | None = self.begun
        self.has_arrived = False
        self.size = 0
        self._is_cancelled = False

    def waited_s(self, now: float) -> float:
        """Return the seconds for which the call has waited for its client; 0 while it is at work."""
        since = self.waiting_since
        return 0.0 if since is None else now - since

    def cancel(self, reason: str, level: int = logging.INFO) -> None:
        """End the call with CANCELLED, and log the reason."""
        if not self._is_cancelled:
            self._is_cancelled = True
            _log.log(level, "%s from %s is ended: %s", self.method, self._core.peer().decode(), reason)
            self._core.cancel()


class Stream(Call):
    """The state of a stream in its pool.

    A stream waits for its client while all its requests are answered, and while the client has an answer to read.

    Attributes:
        reads: Whether the stream's RPC only reads. False if the RPC modifies galleries.
    """

    def __init__(self, method: str, arguments: Iterable[Any]) -> None:
        """Begin to wait for the first request."""
        super().__init__(method, arguments)
        self.reads = method in READING_RPCS
        self._sizes: deque[int] = deque()  # bytes of each unanswered request
        self._is_sending = False

    def received(self, size: int) -> None:
        """Count a request as arrived and not answered yet.

        Args:
            size: Bytes of the request.
        """
        self._sizes.append(size)
        self.size += size
        if not self._is_sending:
            self.waiting_since = None

    def sending(self) -> None:
        """Record that the answer to the oldest request is being sent, and wait for the client to read it."""
        self._is_sending = True
        self.waiting_since = time.monotonic()

    def sent(self) -> None:
        """Record that the answer has been sent, and count the oldest request as answered."""
        self.size -= self._sizes.popleft()
        self._is_sending = False
        self.waiting_since = None if self._sizes else time.monotonic()


def current_call() -> Any:
    """Return the `Call` or `Stream` that this thread executes. The thread must belong to a pool."""
    return _current.call


class Pool(ThreadPoolExecutor):
    """Threads for the calls of one kind.

    Attributes:
        kind: The kind of call, for messages: "calls" or "streams".
    """

    _call_type: type[Call] = Call

    def __init__(self, kind: str, max_threads: int) -> None:
        """Begin without calls."""
        super().__init__(max_threads, thread_name_prefix=kind)
        self.kind = kind
        self._lock = threading.Lock()
        self._calls: dict[Call, None] = {}  # calls that have a thread, oldest first
        self._admitted = threading.local()

    @property
    def in_flight(self) -> int:
        """Number of calls that count as load."""
        return len(self._calls)

    def admits(self, method: str) -> bool:
        """Return whether an arriving call is admitted, and note its method for `submit`.

        gRPC has one thread that runs this method and then `submit`, and so has the HTTP server. So if this call is
        admitted, it is the next one that the same thread submits.

        Args:
            method: Full name of the RPC.
        """
        self._admitted.method = method
        return True

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        """Execute a call in a thread of this pool. The server calls this for each admitted call."""
        call = self._call_type(self._admitted.method, arguments)
        self._enter(call)
        return super().submit(self._run, call, work, *arguments, **named)

    def sweep(self) -> None:
        """End the calls that have waited for their clients for too long. `Sweeper` calls this regularly."""

    def end_idle(self) -> None:
        """End the calls for which a shutdown need not wait."""

    def _enter(self, call: Call) -> None:
        with self._lock:
            self._calls[call] = None

    def _leave(self, call: Call) -> None:
        with self._lock:
            self._calls.pop(call, None)

    def _run(self, call: Call, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
        _current.call = call
        try:
            return work(*arguments, **named)
        finally:
            _current.call = None
            self._leave(call)


class CallPool(Pool):
    """Threads for calls with one request and one response. `CallInterceptor` limits how many execute at once.

    A call is at work from the arrival of its request until its answer is computed. A new call is also assumed to be at
    work for its first 0.1 s.
    """

    def __init__(self, limit: int, overload_limit: int | None = None) -> None:
        """Begin without calls.

        Args:
            limit: Maximum calls at work, including calls that wait to be executed.
            overload_limit: Maximum calls at work during overload; see `OverloadDetector`. None keeps `limit`.
        """
        super().__init__("calls", limit + _MAX_SLOW + _SPARE_THREADS)
        self._limit = limit
        self._detector = OverloadDetector(limit, overload_limit)
        self._fresh: deque[Call] = deque()  # calls that began less than 0.1 s ago
        self._slow: dict[Call, None] = {}  # calls that began earlier, and whose requests have not arrived
        self._unread: dict[Call, None] = {}  # calls whose answers are unread
        self._request_bytes = self._unread_bytes = 0

    @property
    def in_flight(self) -> int:
        """Number of calls at work, including calls that began less than 0.1 s ago."""
        with self._lock:
            return self._in_flight()

    def admits(self, method: str) -> bool:
        """Count an arriving call, and return whether it is admitted."""
        super().admits(method)
        with self._lock:
            return self._detector.admits(self._in_flight())

    def arrived(self, call: Call, size: int) -> None:
        """Count a call as being at work, because its request has arrived.

        Args:
            call: The call.
            size: Bytes of the call's request.

        Raises:
            OverloadedError: The limit of calls or of bytes has been reached since the call was admitted.
        """
        with self._lock:
            call.waiting_since = None
            if call in self._slow and self._in_flight() >= self._limit:
                raise OverloadedError(f"the service has {self._limit} calls in flight, which is its limit: retry soon")
            if self._request_bytes and self._request_bytes + size > _MAX_BYTES:
                raise OverloadedError(
                    f"the service has requests of {self._request_bytes:,} bytes in flight, and this one has {size:,}: "
                    f"expected at most {_MAX_BYTES:,} in total: retry soon"
                )
            self._slow.pop(call, None)
            call.has_arrived = True
            call.size = size
            self._request_bytes += size

    def answered(self, call: Call, size: int, context: grpc.ServicerContext) -> None:
        """Count a call's answer as unread, until gRPC reports that it has been sent.

        Args:
            call: The call.
            size: Bytes of the answer.
            context: The call's context.
        """
        with self._lock:
            self._request_bytes -= call.size
            call.size = size
            call.waiting_since = time.monotonic()
            self._unread[call] = None
            self._unread_bytes += size
        if not context.add_callback(partial(self._was_read, call)):
            self._was_read(call)

    def sweep(self) -> None:
        """End the calls whose requests do not arrive, and those whose answers are not read."""
        now = time.monotonic()
        with self._lock:
            self._in_flight()
            slow, unread, excess = list(self._slow), list(self._unread), self._unread_bytes - _MAX_BYTES
        for position, call in enumerate(slow):
            if call.waited_s(now) > _MAX_TRANSFER_S:
                call.cancel(f"its request has not arrived in {_MAX_TRANSFER_S:.0f} s")
            elif len(slow) - position > _MAX_SLOW:
                call.cancel(f"more than {_MAX_SLOW} requests are slow to arrive, and it has waited longest")
        for call in unread:
            if call.waited_s(now) > _MAX_TRANSFER_S:
                call.cancel(f"its answer has not been read in {_MAX_TRANSFER_S:.0f} s")
            elif excess > 0 and call.waited_s(now) > _MIN_UNREAD_S:
                call.cancel(f"answers of more than {_MAX_BYTES:,} bytes have not been read, and it has waited longest")
                excess -= call.size

    def _in_flight(self) -> int:
        fresh_since = time.monotonic() - _FRESH_S
        while self._fresh and self._fresh[0].begun < fresh_since:
            call = self._fresh.popleft()
            if call in self._calls and not call.has_arrived:
                self._slow[call] = None
        return len(self._calls) - len(self._slow)

    def _enter(self, call: Call) -> None:
        with self._lock:
            self._calls[call] = None
            self._fresh.append(call)

    def _leave(self, call: Call) -> None:
        with self._lock:
            self._calls.pop(call, None)
            self._slow.pop(call, None)
            if call.has_arrived and call not in self._unread and call.waiting_since is None:
                self._request_bytes -= call.size  # the call has failed, so `answered` has not subtracted its size

    def _was_read(self, call: Call) -> None:
        with self._lock:
            del self._unread[call]
            self._unread_bytes -= call.size


class StreamPool(Pool):
    """Threads for streams, one for each. A quarter of them is reserved for streams that modify galleries."""

    _call_type = Stream

    def __init__(self, limit: int, kind: str = "streams") -> None:
        """Begin without streams.

        Args:
            limit: Maximum streams.
            kind: The kind of stream, for messages.
        """
        super().__init__(kind, limit + _SPARE_THREADS)
        self._limit = limit
        self._max_reading = limit - limit // 4
        self._room = threading.Condition(self._lock)

    def admits(self, method: str) -> bool:
        """Return whether a new stream is admitted. If the pool is full, end an idle stream to make room."""
        super().admits(method)
        reads = method in READING_RPCS
        with self._lock:
            if self._has_room(reads):
                return True
            idle = self._longest_idle(reads)
            if idle:
                del self._calls[idle]
        if not idle:
            return False
        idle.cancel("it was idle, and a new stream needs its thread")
        return True

    def wait_for_room(self, stream: Stream, context: grpc.ServicerContext) -> None:
        """Before a stream reads its next request, wait while the unanswered requests of all streams exceed the limit.

        A stream whose own requests are all answered does not wait.
        """
        with self._room:
            while stream.size and sum(other.size for other in self._calls) > _MAX_BYTES and context.is_active():
                self._room.wait(_SWEEP_S)

    def sweep(self) -> None:
        """End the streams that have been idle for more than ten minutes."""
        self._end_idle(_MAX_IDLE_S)

    def end_idle(self) -> None:
        """End the streams that have been idle for more than half a second, because the service is shutting down."""
        self._end_idle(_MAX_IDLE_AT_END_S)

    def _end_idle(self, limit_s: float) -> None:
        now = time.monotonic()
        with self._lock:
            idle = [stream for stream in self._calls if stream.waited_s(now) > limit_s]
        for stream in idle:
            stream.cancel(f"it was idle for {stream.waited_s(now):.1f} s")

    def _has_room(self, reads: bool) -> bool:
        if len(self._calls) >= self._limit:
            return False
        return not reads or sum(_reads(stream) for stream in self._calls) < self._max_reading

    def _longest_idle(self, reads: bool) -> Call | None:
        now = time.monotonic()
        idle = [stream for stream in self._calls if stream.waited_s(now) > _MAX_IDLE_WHEN_FULL_S]
        if reads:  # a reading stream may only replace another reading stream
            idle = [stream for stream in idle if _reads(stream)]
        return max(idle, key=lambda stream: stream.waited_s(now), default=None)


class HealthPool(Pool):
    """A few threads for health calls, which untrusted clients may make without limit.

    The newest call is executed first, so that a client whose requests never arrive does not delay other clients.
    """

    def __init__(self) -> None:
        """Begin without calls."""
        super().__init__("health", _HEALTH_THREADS)
        self._waiting: deque[tuple[Call, Callable[[], Any]]] = deque()

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> "Future[T]":
        """Execute a call in a thread, before the calls that are already waiting. If too many wait, end the oldest."""
        self._waiting.append((Call(_HEALTH, arguments), partial(work, *arguments, **named)))
        if len(self._waiting) > _MAX_HEALTH_WAITING:
            call, _ = self._waiting.popleft()
            call.cancel("too many health calls are waiting", logging.DEBUG)
        return ThreadPoolExecutor.submit(self, self._run_newest)  # type: ignore[arg-type] # gRPC ignores the result

    def sweep(self) -> None:
        """End the calls whose requests do not arrive."""
        now = time.monotonic()
        with self._lock:
            slow = [call for call in self._calls if call.waited_s(now) > _SLOW_HEALTH_S]
        for position, call in enumerate(slow):
            if call.waited_s(now) > _MAX_HEALTH_TRANSFER_S or len(slow) - position > _MAX_SLOW_HEALTH:
                call.cancel("its request has not arrived", logging.DEBUG)

    def arrived(self) -> None:
        """Record that the request has arrived for the call that this thread executes."""
        current_call().waiting_since = None

    def _run_newest(self) -> None:
        try:
            call, work = self._waiting.pop()
        except IndexError:  # `submit` has ended a waiting call, and other threads have taken the rest
            return
        call.waiting_since = time.monotonic()
        self._enter(call)
        self._run(call, work)


def _reads(stream: Call) -> bool:
    return isinstance(stream, Stream) and stream.reads


class Sweeper:
    """A thread that calls functions every 10 ms, to end calls that have waited for their clients for too long."""

    def __init__(self, sweeps: Iterable[Callable[[], None]]) -> None:
        """Prepare the thread without starting it.

        Args:
            sweeps: The functions to call.
        """
        self._sweeps = tuple(sweeps)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, if it was started."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_SWEEP_S):
            for sweep in self._sweeps:
                sweep()
