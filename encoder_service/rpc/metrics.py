"""Metrics of the service, exported over HTTP on a separate port for Prometheus."""

import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from encoder_service.errors import ServiceError
from encoder_service.rpc.addresses import bare, joined
from encoder_service.rpc.traces import Traces
from gallery import GallerySpec
from gallery.errors import LookalikeError

# Maximum connections to the metrics port, of which Prometheus needs one. Each further connection ends the oldest.
_MAX_CONNECTIONS = 8
# Timeout, in seconds, for reading from or writing to a connection to the metrics port.
_TIMEOUT_S = 10
# Upper bounds of the histograms' buckets, in seconds. The smallest is about the duration of a fast search. Calls over
# 10 s share the last bucket.
_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The metrics of one service, in a Prometheus registry of their own."""

    def __init__(self, traces: Traces | None = None) -> None:
        """Create the metrics.

        Args:
            traces: Receives a span for each stage of a call; None if the service sends no traces.
        """
        self._traces = traces
        self._rejected: dict[tuple[str, str], Counter] = {}
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "lookalike_calls", "Calls by RPC and gRPC status.", ["method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "lookalike_call_seconds", "Duration of calls.", ["method"], buckets=_BUCKETS_S, registry=self.registry
        )
        self._stages = Histogram(
            "lookalike_stage_seconds",
            "Duration of a call's stages.",
            ["stage"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._items = Counter(
            "lookalike_items", "Images of streams, by outcome.", ["method", "outcome"], registry=self.registry
        )
        self.in_flight = Gauge(
            "lookalike_calls_under_way", "Calls and streams in flight.", ["kind"], registry=self.registry
        )

    def call(self, method: str, status: str, seconds: float) -> None:
        """Count a call that has ended."""
        name = method.rpartition("/")[2]
        self._calls.labels(name, status).inc()
        self._seconds.labels(name).observe(seconds)

    def rejected(self, method: str, status: str) -> None:
        """Count a rejected call. To be fast during overload, keep each counter instead of looking it up again."""
        counter = self._rejected.get((method, status))
        if counter is None:
            counter = self._calls.labels(method.rpartition("/")[2], status)
            self._rejected[method, status] = counter
        counter.inc()

    def stages(self, **milliseconds: float) -> None:
        """Record the stages of the call that this thread executes. The last stage must have just ended.

        Args:
            **milliseconds: Durations of the stages `encode`, `search` and `store`, in the order in which they ran. A
                duration of exactly 0 means that the stage did not run.
        """
        completed = {stage: duration for stage, duration in milliseconds.items() if duration}
        for stage, duration in completed.items():
            self._stages.labels(stage).observe(duration / 1e3)
        if self._traces:
            self._traces.add_stages(completed)

    def items(self, method: str, outcome: str) -> None:
        """Count one image of a stream, with its outcome: "ok" or "rejected"."""
        self._items.labels(method, outcome).inc()

    def watch(self, galleries: Callable[[], Mapping[str, GallerySpec | None]], fingerprint: str) -> None:
        """Export gauges for the galleries and the encoder. Their values are read whenever Prometheus scrapes.

        Args:
            galleries: Returns the spec of each gallery by name, None for a gallery that can't be searched.
            fingerprint: SHA-256 of the encoder, 64 hex digits.
        """
        self.registry.register(_Galleries(galleries, fingerprint))


def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> tuple[int, Callable[[], None]]:
    """Start the HTTP server that Prometheus scrapes.

    Args:
        registry: The metrics.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.

    Returns:
        The port, and a function that stops the HTTP server.

    Raises:
        ServiceError: The port can't be bound.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(bare(host), port, type=socket.SOCK_STREAM)[0]
        server = _HttpServer.at(family, address)
    except OSError as error:
        raise ServiceError(
            f"can't listen on {joined(host, port)} for metrics: {error.strerror}: choose another --metrics-port"
        ) from error
    server.set_app(make_wsgi_app(registry))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, stop


class _Galleries(Collector):
    def __init__(self, galleries: Callable[[], Mapping[str, GallerySpec | None]], fingerprint: str) -> None:
        self._galleries = galleries
        self._fingerprint = fingerprint

    def collect(self) -> Iterable[Metric]:
        info = InfoMetricFamily("lookalike_encoder", "The encoder of Encode and Decode.")
        info.add_metric([], {"fingerprint": self._fingerprint})
        images = GaugeMetricFamily("lookalike_gallery_images", "Images in a gallery.", labels=["gallery"])
        version = GaugeMetricFamily("lookalike_gallery_version", "Live version of a gallery.", labels=["gallery"])
        up = GaugeMetricFamily("lookalike_gallery_up", "1 if a gallery can be searched.", labels=["gallery"])
        try:
            for name, spec in self._galleries().items():
                up.add_metric([name], spec is not None)
                if spec:
                    images.add_metric([name], spec.count)
                    version.add_metric([name], spec.version)
        except LookalikeError:  # while the store is unavailable, export only the encoder
            pass
        return [info, up, images, version]


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class _HttpServer(ThreadingMixIn, WSGIServer):
    """An HTTP server with one thread per connection and a limit on connections."""

    daemon_threads = True
    request_queue_size = 64

    @classmethod
    def at(cls, family: int, address: Any) -> "_HttpServer":
        """Return a server that listens on an address.

        Args:
            family: Address family, from `socket.getaddrinfo`.
            address: Socket address, from `socket.getaddrinfo`.
        """

        class Server(cls):  # type: ignore[misc, valid-type]
            address_family = family

        server: _HttpServer = Server(address[:2], _Handler)
        return server

    def __init__(self, address: Any, handler: type[WSGIRequestHandler]) -> None:
        """Bind the port, and begin without connections."""
        self._connections: dict[Any, None] = {}
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind the port. Unlike the base class, don't look up this machine's name, because DNS may be slow."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a new thread. If there are too many connections, end the oldest."""
        self._connections[request] = None
        if len(self._connections) > _MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            self._connections.pop(oldest, None)
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: errors here mean that the client has gone, or that its connection was ended."""
