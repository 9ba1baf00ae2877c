"""Build the gRPC server, start it, and shut it down without failing calls in flight."""

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Self, cast

import grpc

from encoder_service.capacity import return_memory
from encoder_service.encoder import Encoder
from encoder_service.errors import ServiceError
from encoder_service.galleries import Galleries
from encoder_service.http.app import http_app
from encoder_service.http.handlers import Handlers
from encoder_service.http.server import HttpServer
from encoder_service.limits import LIMITS, MAX_CALLS_PER_CONNECTION, MAX_PENDING_CALLS
from encoder_service.rpc.access import READING_RPCS, Tokens
from encoder_service.rpc.addresses import bare, is_local, joined, resolved
from encoder_service.rpc.admission import Admission
from encoder_service.rpc.calls import CallInterceptor
from encoder_service.rpc.config import Config
from encoder_service.rpc.health import NAME as HEALTH_NAME
from encoder_service.rpc.health import Health
from encoder_service.rpc.metrics import Metrics, serve_metrics
from encoder_service.rpc.pools import CallPool, Pool, StreamPool, Sweeper
from encoder_service.rpc.reflection import reflection_handlers
from encoder_service.rpc.servicers import EncoderServicer, GalleryServicer, SearchServicer
from encoder_service.rpc.signals import EndingSignals
from encoder_service.rpc.tls import http_tls, server_credentials
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

# Maximum calls executed concurrently. More would take the GIL from gRPC's single polling thread too often, and would
# not raise throughput.
_MAX_EXECUTING = os.cpu_count() or 1
# Maximum calls in flight during overload. It is lower than `_MAX_EXECUTING` if there are several processors, because
# rejecting the other calls needs CPU time too.
_OVERLOAD_LIMIT = max(1, _MAX_EXECUTING // 4)
# Milliseconds between pings on a connection, which detect clients that have vanished.
_KEEPALIVE_MS = 60_000
# Milliseconds that a client has to answer a ping.
_KEEPALIVE_TIMEOUT_MS = 20_000
# Minimum milliseconds between pings from a client. gRPC closes connections that ping more often. gRPC's own default,
# five minutes, would close the connections of `encoder_service.client`, which pings every 30 s.
_MIN_CLIENT_PING_MS = 5_000
# Maximum milliseconds for the TLS handshake and the HTTP/2 settings of a new connection.
_HANDSHAKE_MS = 20_000
# Maximum bytes of a call that gRPC buffers before the service reads its request. gRPC's default is 4 MiB for each call
# on each connection, and it buffers them even if the client has no valid token.
_LOOKAHEAD_BYTES = 256 * 1024
# Seconds at shutdown during which new calls are rejected with an answer, before the port is closed.
_REJECTING_S = 0.5
# Seconds between checks, at shutdown, whether the calls in flight have finished.
_POLL_S = 0.02
# Names by which a browser on this machine addresses a service without tokens. Under any other name, a web page could
# make the browser send requests here, by pointing the name of its own server at this machine.
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_ANY_PORT = Config(port=0)
_OPTIONS = (
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", _MIN_CLIENT_PING_MS),
    ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
    ("grpc.http2.lookahead_bytes", _LOOKAHEAD_BYTES),
    ("grpc.http2.bdp_probe", 0),  # if on, gRPC enlarges the buffer of `_LOOKAHEAD_BYTES` on fast connections
    ("grpc.per_message_decompression", 0),  # `Codec` decompresses instead, with a size limit for each RPC
    ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
    # if on, gRPC also counts answered calls that it has not cleaned up yet, and cancels new calls because of them
    ("grpc.http.overload_protection", 0),
    ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
    ("grpc.max_receive_message_length", LIMITS.max_message_bytes),
    ("grpc.max_send_message_length", LIMITS.max_message_bytes),
)

SERVICES = (
    encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name,
    search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name,
    gallery_pb2.DESCRIPTOR.services_by_name["GalleryService"].full_name,
)
"""Full names of EncoderService, SearchService and GalleryService. Health is reported for each of them."""
LIVENESS = "liveness"
"""Health check for this name to learn whether the process is alive. Other names report whether calls are accepted."""

_ALL_NAMES = ("", *SERVICES)
_ENCODER_NAMES = SERVICES[:1]
# Names that are SERVING only while the store responds and, if it has galleries, at least one of them can be opened.
_STORE_NAMES = ("", *SERVICES[1:])


class Server:
    """The gRPC server, which serves one encoder and the galleries of one store; and the HTTP server, if configured.

        with Server(store, encoder, config) as server:
            print(server.address)
            server.wait_for_signal()

    Attributes:
        port: The port on which the server listens.
        address: The address on which the server listens, HOST:PORT or unix:PATH.
        http_port: The port on which the HTTP server listens. It is set only if the settings ask for HTTP.
        registry: The metrics.
        metrics_port: The port of the metrics. It is set by `start`, and only if the settings ask for metrics.
    """

    def __init__(self, store: Store, encoder: Encoder, config: Config = _ANY_PORT) -> None:
        """Bind the port. No call is answered yet.

        Args:
            store: The store that holds the galleries.
            encoder: The encoder that answers Encode and Decode. Other encoders are loaded by name when a gallery needs
                them.
            config: The settings; by default, the server listens on a free port of 127.0.0.1.

        Raises:
            ServiceError: The port can't be bound.
            InvalidInputError: A file of certificates, keys or tokens can't be read or is malformed.
        """
        self._encoder = encoder
        self._config = config
        self._galleries = Galleries(store, encoder, compacts=config.compact)
        self._health = Health((LIVENESS, *_ALL_NAMES))
        self._health.set(LIVENESS, True)
        self._traces = Traces() if config.traces else None
        self._metrics = Metrics(self._traces)
        self._metrics.watch(self._galleries.overview, encoder.spec.fingerprint)
        self.registry = self._metrics.registry
        self._stop_metrics: Callable[[], None] | None = None
        calls = CallPool(config.max_concurrent_calls, _OVERLOAD_LIMIT)
        streams = StreamPool(config.max_streams)
        tokens = Tokens(config.tokens_file) if config.tokens_file else None
        self._admission = Admission(tokens, calls, streams, self._metrics)
        self._pools = self._admission.pools
        pools: tuple[Pool, ...] = (*self._pools, self._health.pool)
        self._sweeper = Sweeper([*(pool.sweep for pool in pools), self._admission.delayed.run_due])
        interceptors = [
            self._admission,
            *([self._traces.interceptor] if self._traces else []),
            CallInterceptor(_MAX_EXECUTING, calls, streams, self._metrics),
        ]
        # if on, several processes can bind the same port: the workers of one service, but also two services by mistake
        reuse_port = ("grpc.so_reuseport", int(config.workers > 1))
        self._grpc = grpc.server(self._health.pool, interceptors=interceptors, options=(*_OPTIONS, reuse_port))
        handlers = Handlers(interceptors, READING_RPCS)
        self._register(handlers)
        self.port = self._bind()
        self._http = self._bind_http(handlers, config.http_port) if config.http_port is not None else None
        if self._http:
            self.http_port = self._http.port
        self.address = joined(config.host, self.port)

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
        """Warm up the encoder and open the galleries. Then report SERVING to health checks.

        Raises:
            ServiceError: The port of the metrics can't be bound.
            UnavailableError: The store can't be used.
        """
        return_memory()
        self._sweeper.start()
        self._grpc.start()
        self._encoder.warm()
        self._galleries.open_all()
        if self._http:
            self._http.start()
        if self._config.metrics_port is not None:
            self.metrics_port, self._stop_metrics = serve_metrics(
                self.registry, self._config.metrics_host, self._config.metrics_port
            )
        self._report_ready(True, _ENCODER_NAMES)
        self._galleries.follow(partial(self._report_ready, names=_STORE_NAMES))

    def stop(self, grace_s: float | None = None) -> None:
        """Close the port, let the calls in flight finish, and close the galleries. A second call does nothing.

        Idle streams are ended. This loses nothing, because all messages of an idle stream have been answered.

        Args:
            grace_s: Seconds after which calls in flight are cancelled; None to use the setting `drain_s`.
        """
        self._health.enter_shutdown()
        self._health.end_watches()
        grace_s = self._config.drain_s if grace_s is None else grace_s
        stopped = self._grpc.stop(grace_s)
        if self._http:
            self._http.stop(grace_s)
        while not stopped.wait(_POLL_S):
            self._end_idle()
        if self._http:
            self._http.join()
        self._admission.stop()  # waits for cancelled calls that are still executing, because they need their galleries
        self._galleries.close()
        self._health.close()
        self._sweeper.stop()
        if self._stop_metrics:
            self._stop_metrics()
            self._stop_metrics = None
        if self._traces:
            self._traces.close()

    def wait_for_signal(self, signals: EndingSignals | None = None) -> None:
        """Wait for SIGTERM, SIGINT or SIGHUP. Then reject new calls, let the calls in flight finish, and stop.

        A second signal cancels the calls in flight.

        Args:
            signals: Handler of the signals; None to install one now.
        """
        signals = signals or EndingSignals()
        signals.wait()
        self._drain(signals)
        self.stop(grace_s=_REJECTING_S if signals.count == 1 else 0)

    def _drain(self, signals: EndingSignals) -> None:
        """Reject new calls, and let the calls in flight finish.

        `grpc.Server.stop` alone would cancel calls whose requests it has not read yet.
        """
        self._health.enter_shutdown()
        self._admission.close()
        begun = time.monotonic()
        while signals.count == 1 and (passed := time.monotonic() - begun) < self._config.drain_s - _REJECTING_S:
            if passed > _REJECTING_S and not any(pool.in_flight for pool in self._pools):
                return
            self._end_idle()
            time.sleep(_POLL_S)

    def _end_idle(self) -> None:
        for pool in self._pools:
            pool.end_idle()

    def _register(self, http: Handlers) -> None:
        """Add the services to the gRPC server and to HTTP, and health and reflection to the gRPC server."""
        encoder = EncoderServicer(self._encoder, self._config.limits, self._metrics)
        search = SearchServicer(self._galleries, self._metrics)
        gallery = GalleryServicer(self._galleries, self._metrics)
        for server in (self._grpc, cast(grpc.Server, http)):
            encoder_pb2_grpc.add_EncoderServiceServicer_to_server(encoder, server)
            search_pb2_grpc.add_SearchServiceServicer_to_server(search, server)
            gallery_pb2_grpc.add_GalleryServiceServicer_to_server(gallery, server)
        reflection = reflection_handlers((*SERVICES, HEALTH_NAME))
        self._grpc.add_generic_rpc_handlers((self._health.handler(), *reflection))

    def _bind(self) -> int:
        """Listen on every address that the configured host resolves to, and return the port.

        Raises:
            ServiceError: An address can't be bound.
        """
        credentials = server_credentials(self._config)
        port = self._config.port
        for host in resolved(self._config.host, port):
            address = joined(host, port)
            try:
                if credentials:
                    port = self._grpc.add_secure_port(address, credentials)
                else:
                    port = self._grpc.add_insecure_port(address)
            except RuntimeError as error:
                raise ServiceError(
                    f"can't listen on {address}: choose another --port (0 for a free one), or stop the other process"
                ) from error
        return port

    def _bind_http(self, handlers: Handlers, port: int) -> HttpServer:
        """Listen on every address that the host stands for.

        Raises:
            ServiceError: One of them can't be bound.
        """
        config = self._config
        is_open = is_local(config.host) and not config.tokens_file
        app = http_app(
            handlers,
            hosts=_LOCAL_NAMES if is_open else (),
            origins=(config.http_origin,) if config.http_origin else (),
        )
        addresses = [bare(address) for address in resolved(config.host, port)]
        return HttpServer(app, addresses, port, http_tls(config), reuse_port=config.workers > 1)

    def _report_ready(self, ready: bool, names: Iterable[str]) -> None:
        for name in names:
            self._health.set(name, ready)
