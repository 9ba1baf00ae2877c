"""What the service counts and measures, for Prometheus, on a port of its own."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from encoder_service.errors import ServiceError
from encoder_service.rpc.traces import Traces
from gallery import GallerySpec
from gallery.errors import LookalikeError

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The figures of one service."""

    def __init__(self, traces: Traces | None = None) -> None:
        """Begin at nothing; `traces` are told of each stage too."""
        self._traces = traces
        self._turned_away: dict[tuple[str, str], Counter] = {}
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "lookalike_calls", "Calls by RPC and gRPC status.", ["method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "lookalike_call_seconds", "Time of a call.", ["method"], buckets=_SECONDS, registry=self.registry
        )
        self._stages = Histogram(
            "lookalike_stage_seconds", "Time of a stage.", ["stage"], buckets=_SECONDS, registry=self.registry
        )
        self._items = Counter(
            "lookalike_items", "Images by what became of them.", ["method", "outcome"], registry=self.registry
        )

        self.under_way = Gauge(
            "lookalike_calls_under_way", "Calls and streams that are being worked on.", ["kind"], registry=self.registry
        )

    def call(self, method: str, status: str, seconds: float) -> None:
        """Count a call that has ended."""
        name = method.rpartition("/")[2]
        self._calls.labels(name, status).inc()
        self._seconds.labels(name).observe(seconds)

    def turned_away(self, method: str, status: str) -> None:
        """Count a call that was not let in. In a rush there are many: the counter is looked up once."""
        counter = self._turned_away.get((method, status))
        if counter is None:
            counter = self._calls.labels(method.rpartition("/")[2], status)
            self._turned_away[method, status] = counter
        counter.inc()

    def stage(self, stage: str, milliseconds: float, ended_ms_ago: float = 0.0) -> None:
        """Note how long a stage took: "encode", "search", "store"."""
        self._stages.labels(stage).observe(milliseconds / 1e3)
        if self._traces:
            self._traces.stage(stage, milliseconds, ended_ms_ago)

    def items(self, method: str, outcome: str, count: int = 1) -> None:
        """Count images of a stream or a batch: "ok" or "rejected"."""
        self._items.labels(method, outcome).inc(count)

    def watch(self, galleries: Callable[[], Iterable[GallerySpec]], fingerprint: str) -> None:
        """Tell of galleries and the encoder whenever somebody looks."""
        self.registry.register(_Galleries(galleries, fingerprint))

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Answer Prometheus over HTTP; return the port and what ends it.

        Raises:
            ServiceError: The port can't be bound.
        """
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise ServiceError(
                f"can't listen on {host}:{port} for metrics: {error.strerror}: choose another --metrics-port"
            ) from error

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return server.server_port, end


class _Galleries(Collector):
    def __init__(self, galleries: Callable[[], Iterable[GallerySpec]], fingerprint: str) -> None:
        self._galleries = galleries
        self._fingerprint = fingerprint

    def collect(self) -> Iterable[Metric]:
        info = InfoMetricFamily("lookalike_encoder", "The encoder of Encode and Decode.")
        info.add_metric([], {"fingerprint": self._fingerprint})
        images = GaugeMetricFamily("lookalike_gallery_images", "Images in a gallery.", labels=["gallery"])
        version = GaugeMetricFamily("lookalike_gallery_version", "Live version of a gallery.", labels=["gallery"])
        try:
            for spec in self._galleries():
                images.add_metric([spec.name], spec.count)
                version.add_metric([spec.name], spec.version)
        except LookalikeError:  # the store is away: the rest is told all the same
            pass
        return [info, images, version]
