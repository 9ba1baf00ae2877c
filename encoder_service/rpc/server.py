"""Build the service, start it, and drain it when asked to stop."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health import HealthServicer
from grpc_reflection.v1alpha import reflection

from encoder_service.encoder import Encoder
from encoder_service.errors import ServiceError
from encoder_service.galleries import Galleries
from encoder_service.limits import LIMITS, MAX_CALLS_PER_CONNECTION, MAX_PENDING_CALLS
from encoder_service.rpc.access import Tokens, server_credentials
from encoder_service.rpc.admission import Admission, CallPool
from encoder_service.rpc.calls import CallInterceptor
from encoder_service.rpc.config import Config
from encoder_service.rpc.metrics import Metrics
from encoder_service.rpc.servicers import EncoderServicer, GalleryServicer, SearchServicer
from encoder_service.rpc.traces import Traces
from encoder_service.v1 import (
    encoder_pb2,
    encoder_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from gallery import Store

# Threads for health checks alone. A client that opens a check and never sends its request occupies one of them.
_HEALTH_THREADS = 32
# Calls executed concurrently. More would starve gRPC's single polling thread of the GIL without raising throughput.
_MAX_EXECUTING = os.cpu_count() or 1
# Calls in flight during overload. It is lower, because rejecting the other calls costs CPU too.
_OVERLOAD_LIMIT = max(1, _MAX_EXECUTING // 4)
# Milliseconds between pings, by which the service notices that a client has vanished without closing its connection.
_KEEPALIVE_MS = 60_000
# Seconds during which a service that shuts down rejects new calls before it closes its port.
_REJECTING_S = 0.5
# Seconds between two looks at whether the calls in flight have ended.
_POLL_S = 0.02
_ANY_PORT = Config(port=0)
_OPTIONS = (
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
    # this protection also counts calls that are answered but not cleaned up yet, and would cancel new calls for them
    ("grpc.http.overload_protection", 0),
    ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
    ("grpc.max_receive_message_length", LIMITS.max_message_bytes),
    ("grpc.max_send_message_length", LIMITS.max_message_bytes),
    # with this, two services could bind one port by mistake, and each would receive half of the calls
    ("grpc.so_reuseport", 0),
)

SERVICES = (
    encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name,
    search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name,
    gallery_pb2.DESCRIPTOR.services_by_name["GalleryService"].full_name,
)
"""Full names of the services, by which health is reported: the encoder's, the search's and the galleries'."""
LIVENESS = "liveness"
"""The name whose health is whether the process lives. All other names report whether calls are accepted."""

_ALL_NAMES = ("", *SERVICES)
_ENCODER_NAMES = SERVICES[:1]
_STORE_NAMES = ("", *SERVICES[1:])  # these need the store, and a gallery that can be opened if there are galleries


class Server:
    """The gRPC server over an encoder and a store.

        with Server(store, encoder, config) as server:
            print(server.address)
            server.wait_for_signal()

    Attributes:
        port: The port that it listens on.
        address: HOST:PORT.
        metrics_port: The port of the metrics; only after `start`, and if they are configured.
    """

    def __init__(self, store: Store, encoder: Encoder, config: Config = _ANY_PORT) -> None:
        """Bind the port. No call is answered yet.

        Args:
            store: Holds the galleries.
            encoder: Answers Encode and Decode. A gallery that another encoder made loads that encoder.
            config: The settings; by default, loopback and a free port.

        Raises:
            ServiceError: The port can't be bound.
            InvalidInputError: A file of certificates, keys or tokens can't be read or is malformed.
        """
        self._encoder = encoder
        self._config = config
        self._galleries = Galleries(store, encoder)
        self._health = Health((LIVENESS, *_ALL_NAMES))
        self._traces = Traces() if config.traces else None
        self._metrics = Metrics(self._traces)
        self._metrics.watch(self._galleries.overview, encoder.spec.fingerprint)
        self._stop_metrics: Callable[[], None] | None = None
        self._pools = (
            CallPool(config.max_concurrent_calls, "calls", _OVERLOAD_LIMIT),
            CallPool(config.max_streams, "streams"),
        )
        tokens = Tokens(config.tokens_file) if config.tokens_file else None
        self._admission = Admission(tokens, *self._pools, self._metrics)
        self._grpc = grpc.server(
            ThreadPoolExecutor(_HEALTH_THREADS, thread_name_prefix="health"),
            interceptors=[
                self._admission,
                *([self._traces.interceptor] if self._traces else []),
                CallInterceptor(_MAX_EXECUTING, self._metrics),
            ],
            options=_OPTIONS,
        )
        self._register()
        self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        self._report_ready(False, _ALL_NAMES)
        self.port = self._bind()
        self.address = f"{config.host}:{self.port}"

    def __enter__(self) -> Self:
        """Start the server."""
        try:
            self.start()
        except BaseException:
            self.stop(grace_s=0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server. After an exception, calls in flight are cancelled."""
        self.stop(grace_s=None if error is None else 0)

    def start(self) -> None:
        """Open the galleries and warm up the encoder, and only then report through health that calls are accepted.

        Raises:
            ServiceError: The port of the metrics can't be bound.
            UnavailableError: The store can't be used.
        """
        self._grpc.start()
        self._encoder.warm()
        self._galleries.open_all()
        if self._config.metrics_port is not None:
            self.metrics_port, self._stop_metrics = self._metrics.serve(
                self._config.metrics_host, self._config.metrics_port
            )
        self._report_ready(True, _ENCODER_NAMES)
        self._galleries.follow(partial(self._report_ready, names=_STORE_NAMES))

    def stop(self, grace_s: float | None = None) -> None:
        """Accept no new calls, let the calls in flight finish, and close the galleries. A second call does nothing.

        Args:
            grace_s: Seconds after which calls in flight are cancelled; None for the setting `drain_s`.
        """
        self._health.enter_graceful_shutdown()
        self._grpc.stop(self._config.drain_s if grace_s is None else grace_s).wait()
        for pool in self._pools:  # a cancelled call may still be executing, and needs its gallery
            pool.shutdown()
        self._galleries.close()
        if self._stop_metrics:
            self._stop_metrics()
            self._stop_metrics = None
        if self._traces:
            self._traces.close()

    def wait_for_signal(self) -> None:
        """Wait for SIGTERM or SIGINT, then drain and stop."""
        received = threading.Event()

        def receive(signum: int, frame: FrameType | None) -> None:
            received.set()

        signal.signal(signal.SIGTERM, receive)
        signal.signal(signal.SIGINT, receive)
        received.wait()
        self._drain()
        self.stop(grace_s=_REJECTING_S)

    def _drain(self) -> None:
        """Reject new calls, and let those in flight finish. `grpc.Server.stop` would cancel calls it has not read."""
        self._health.enter_graceful_shutdown()
        self._admission.close()
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < self._config.drain_s:
            if passed > _REJECTING_S and not any(pool.in_flight for pool in self._pools):
                return
            time.sleep(_POLL_S)

    def _register(self) -> None:
        """Add the services, health and reflection to the gRPC server."""
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(
            EncoderServicer(self._encoder, self._config.limits, self._metrics), self._grpc
        )
        search_pb2_grpc.add_SearchServiceServicer_to_server(SearchServicer(self._galleries, self._metrics), self._grpc)
        gallery_pb2_grpc.add_GalleryServiceServicer_to_server(
            GalleryServicer(self._galleries, self._metrics), self._grpc
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection((*SERVICES, HEALTH_NAME, reflection.SERVICE_NAME), self._grpc)

    def _bind(self) -> int:
        address = f"{self._config.host}:{self._config.port}"
        credentials = server_credentials(self._config)
        try:
            if credentials:
                return self._grpc.add_secure_port(address, credentials)
            return self._grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise ServiceError(
                f"can't listen on {address}: choose another --port (0 for a free one), or stop what uses it"
            ) from error

    def _report_ready(self, ready: bool, names: Iterable[str]) -> None:
        status = health_pb2.HealthCheckResponse
        for name in names:
            self._health.set(name, status.SERVING if ready else status.NOT_SERVING)


class Health(HealthServicer):
    """The health of the given names alone: otherwise a client could exhaust memory by watching made-up names."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names."""
        super().__init__()
        self._names = frozenset(names)

    def Watch(  # noqa: N802 (the protocol names it)
        self, request: Any, context: Any, send_response_callback: Callable[[Any], None] | None = None
    ) -> Any:
        """Send the health of a name now and whenever it changes. For an unknown name, answer once and end."""
        if request.service in self._names or send_response_callback is None:
            return super().Watch(request, context, send_response_callback)
        send_response_callback(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))
        send_response_callback(None)
        return None
