"""A service in a process of its own, and a client that speaks HTTP/2 itself, and can do what no gRPC library would."""

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.settings

from gallery import Store
from tests.commands import BIN


class RawClient:
    """One connection. Frames are sent at once; events are read by `receive`."""

    def __init__(self, address: str, window: int | None = None) -> None:
        """Connect.

        Args:
            address: HOST:PORT.
            window: Bytes of each answer that the service may send; None for the protocol's default.
        """
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)))
        config = h2.config.H2Configuration(client_side=True, header_encoding=None, validate_outbound_headers=False)
        self._h2: Any = h2.connection.H2Connection(config)
        if window is not None:
            self._h2.local_settings = h2.settings.Settings(
                client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            )
        self._h2.initiate_connection()
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def begin(self, method: str, *headers: tuple[bytes, bytes]) -> int:
        """Send the headers of a call, and return its number."""
        call: int = self._h2.get_next_available_stream_id()
        named = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", method.encode()), (b":authority", b"a")]
        self._h2.send_headers(call, [*named, (b"content-type", b"application/grpc"), (b"te", b"trailers"), *headers])
        self._flush()
        return call

    def send(self, call: int, content: bytes, end: bool = False) -> None:
        """Send bytes of a call, at most as many as the service's window lets us."""
        size = 16384  # that of a frame
        for start in range(0, max(len(content), 1), size):
            self._h2.send_data(call, content[start : start + size], end_stream=end and start + size >= len(content))
        self._flush()

    def call(self, method: str, message: bytes) -> int:
        """Make a call with one message, and return its number."""
        call = self.begin(method)
        self.send(call, framed(message), end=True)
        return call

    def receive(self, seconds: float) -> list[h2.events.Event]:
        """Return the events of so many seconds. The service's pings are answered, and its window is never widened."""
        events: list[h2.events.Event] = []
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                content = self.socket.recv(65536)
            except TimeoutError:
                break
            if not content:
                break
            events += self._h2.receive_data(content)
            self._flush()
        return events

    def answers(self, count: int, within_s: float = 20) -> list[dict[bytes, bytes]]:
        """Return the trailing metadata of the calls that are answered, once there are `count` answers."""
        answered: list[dict[bytes, bytes]] = []
        ends = time.monotonic() + within_s
        while len(answered) < count:
            assert time.monotonic() < ends
            answered += trailers(self.receive(0.05))
        return answered

    def _flush(self) -> None:
        self.socket.sendall(self._h2.data_to_send())


def framed(message: bytes, size: int | None = None) -> bytes:
    """Return a message as gRPC frames it, or the beginning of one of another size."""
    return b"\0" + struct.pack(">I", len(message) if size is None else size) + message


def trailers(events: list[Any]) -> list[dict[bytes, bytes]]:
    """Return the trailing metadata of the calls that have been answered."""
    sent = [dict(event.headers) for event in events if hasattr(event, "headers")]
    return [headers for headers in sent if b"grpc-status" in headers]


@contextmanager
def process(store: Store, *flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve in a process of its own, and yield its address."""
    command = [str(BIN / "encoder-service"), "serve", "--port", "0", "--store", store.url, "--encoder", "seed", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().split()[-1], process
    finally:
        process.kill()
        process.communicate()
