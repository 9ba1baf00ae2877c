"""Build the service, start it, and drain it when asked to stop."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any

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
from encoder_service.rpc.calls import Calls
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

# Threads for health alone: one that asks and sends nothing keeps one.
_HEALTH_THREADS = 32
# Calls that are worked on at once: more would keep the one thread that reads what comes from its turn in Python, and
# answer no more calls. In a rush fewer are let in, as turning others away is work too.
_AT_ONCE = os.cpu_count() or 1
_OVERLOAD_LIMIT = max(1, _AT_ONCE // 4)
# A client that has vanished without a word is found out after so long.
_KEEPALIVE_MS = 60_000
# So long, clients that come are told to go elsewhere when the service is to end.
_LAST_CALLS_S = 0.5
_LOOK_S = 0.02
_ANY_PORT = Config(port=0)

SERVICES = (
    encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name,
    search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name,
    gallery_pb2.DESCRIPTOR.services_by_name["GalleryService"].full_name,
)


_OF_GALLERIES = SERVICES[1:]
LIVENESS = "liveness"
"""What health is asked for to learn whether the process lives; all other names tell whether calls are welcome."""


class Server:
    """The gRPC face of an encoder and a store."""

    def __init__(self, store: Store, encoder: Encoder, config: Config = _ANY_PORT) -> None:
        """Bind the port; nothing is answered yet.

        Args:
            store: Where the galleries are.
            encoder: Answers Encode and Decode; a gallery of another encoder brings that one.
            config: All that can be set; on loopback and a free port if not given.

        Raises:
            ServiceError: The port can't be bound.
            InvalidInputError: A file of certificates or tokens is not what it should be.
        """
        self._encoder = encoder
        self._config = config
        self._galleries = Galleries(store, encoder)
        self._health = Health(("", LIVENESS, *SERVICES))
        self._traces = Traces() if config.traces else None
        self._metrics = Metrics(self._traces)
        self._metrics.watch(self._galleries.list, encoder.spec.fingerprint)
        self._end_metrics: Callable[[], None] | None = None
        tokens = Tokens(config.tokens_file) if config.tokens_file else None
        hidden = (store.url, store.url.partition(":")[2], str(encoder.folder), os.path.expanduser("~"))  # noqa: PTH111 (Path raises where there is none)
        self._rooms = (
            CallPool(config.max_concurrent_calls, "calls", _OVERLOAD_LIMIT),
            CallPool(config.max_streams, "streams"),
        )
        self._admission = Admission(tokens, *self._rooms, self._metrics)
        self._grpc = grpc.server(
            ThreadPoolExecutor(_HEALTH_THREADS, thread_name_prefix="health"),
            interceptors=[
                self._admission,
                *([self._traces.interceptor] if self._traces else []),
                Calls(_AT_ONCE, self._metrics, hidden),
            ],
            options=[
                ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
                ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
                # gRPC would also count calls that are answered and not cleared away yet, and cut new ones off
                ("grpc.http.overload_protection", 0),
                ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
                ("grpc.max_receive_message_length", LIMITS.max_message_bytes),
                ("grpc.max_send_message_length", LIMITS.max_message_bytes),
                # Two services on one port would each get half of the calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(
            EncoderServicer(encoder, config.limits, self._metrics), self._grpc
        )
        search_pb2_grpc.add_SearchServiceServicer_to_server(SearchServicer(self._galleries, self._metrics), self._grpc)
        gallery_pb2_grpc.add_GalleryServiceServicer_to_server(
            GalleryServicer(self._galleries, self._metrics), self._grpc
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection((*SERVICES, HEALTH_NAME, reflection.SERVICE_NAME), self._grpc)
        self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        self._tell_ready(False, ("", *SERVICES))
        self.port = self._bind()
        self.address = f"{config.host}:{self.port}"

    def start(self) -> None:
        """Open the galleries, warm the encoder, and only then say through health that calls are welcome."""
        self._grpc.start()
        self._encoder.warm()
        self._galleries.open_all()
        if self._config.metrics_port is not None:
            self.metrics_port, self._end_metrics = self._metrics.serve(
                self._config.metrics_host, self._config.metrics_port
            )
        self._tell_ready(True, ("", *SERVICES))
        self._galleries.follow(partial(self._tell_ready, names=("", *_OF_GALLERIES)))

    def stop(self, grace_s: float | None = None) -> None:
        """Take no new calls, finish those under way for at most `grace_s` seconds, close the galleries."""
        self._health.enter_graceful_shutdown()
        self._grpc.stop(self._config.drain_s if grace_s is None else grace_s).wait()
        for room in self._rooms:  # a call that was cut off may still be at work, and needs its gallery
            room.shutdown()
        self._galleries.close()
        if self._end_metrics:
            self._end_metrics()
            self._end_metrics = None
        if self._traces:
            self._traces.close()

    def wait_for_signal(self) -> None:
        """Wait for SIGTERM or SIGINT, then stop."""
        asked = threading.Event()

        def ask(signum: int, frame: FrameType | None) -> None:
            asked.set()

        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)
        asked.wait()
        self._wind_down()
        self.stop(grace_s=_LAST_CALLS_S)

    def _wind_down(self) -> None:
        """Send new calls elsewhere, let those under way finish: gRPC's own end cancels what it has not read yet."""
        self._health.enter_graceful_shutdown()
        self._admission.close()
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < self._config.drain_s:
            if passed > _LAST_CALLS_S and all(room.is_empty for room in self._rooms):
                return
            time.sleep(_LOOK_S)

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

    def _tell_ready(self, ready: bool, names: Iterable[str]) -> None:
        status = health_pb2.HealthCheckResponse
        for name in names:
            self._health.set(name, status.SERVING if ready else status.NOT_SERVING)


class Health(HealthServicer):
    """Answers for its own names alone: of others it keeps nothing, or a stranger could fill the memory with them."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names that will be told of."""
        super().__init__()
        self._names = frozenset(names)

    def Watch(  # noqa: N802 (the protocol names it)
        self, request: Any, context: Any, send_response_callback: Callable[[Any], None] | None = None
    ) -> Any:
        """Tell of a name now and whenever it changes; of one that is not known, once."""
        if request.service in self._names or send_response_callback is None:
            return super().Watch(request, context, send_response_callback)
        send_response_callback(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN))
        send_response_callback(None)
        return None
