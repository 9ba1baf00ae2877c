"""Build the service, start it, and drain it when asked to stop."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health import HealthServicer
from grpc_reflection.v1alpha import reflection

from encoder_service.encoder import Encoder
from encoder_service.errors import ServiceError
from encoder_service.galleries import Galleries
from encoder_service.servicers import EncoderServicer, GalleryServicer, SearchServicer
from encoder_service.v1 import (
    encoder_pb2,
    encoder_pb2_grpc,
    gallery_pb2,
    gallery_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from encoder_service.wire import MAX_MESSAGE_BYTES
from gallery import Store

# Calls under way at once; more wait their turn. A stream keeps its place until it ends.
_WORKERS = 16
_DRAIN_S = 10.0

SERVICES = (
    encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name,
    search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name,
    gallery_pb2.DESCRIPTOR.services_by_name["GalleryService"].full_name,
)


class Server:
    """The gRPC face of an encoder and a store."""

    def __init__(self, store: Store, encoder: Encoder, host: str = "127.0.0.1", port: int = 0) -> None:
        """Bind the port; nothing is answered yet.

        Args:
            store: Where the galleries are.
            encoder: Encodes queries; galleries of other encoders are refused.
            host: Address to listen on.
            port: Port to listen on; 0 picks a free one.

        Raises:
            ServiceError: The port can't be bound.
        """
        self._encoder = encoder
        self._galleries = Galleries(store, encoder)
        self._health = HealthServicer()
        self._grpc = grpc.server(
            ThreadPoolExecutor(_WORKERS, thread_name_prefix="call"),
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                # Two services on one port would each get half of the calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(EncoderServicer(encoder), self._grpc)
        search_pb2_grpc.add_SearchServiceServicer_to_server(SearchServicer(self._galleries), self._grpc)
        gallery_pb2_grpc.add_GalleryServiceServicer_to_server(GalleryServicer(self._galleries), self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection((*SERVICES, HEALTH_NAME, reflection.SERVICE_NAME), self._grpc)
        self._tell_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            self.port = self._grpc.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise ServiceError(
                f"can't listen on {host}:{port}: choose another --port (0 for a free one), or stop what uses it"
            ) from error
        self.address = f"{host}:{self.port}"

    def start(self) -> None:
        """Open the galleries, warm the encoder, and only then say through health that calls are welcome."""
        self._grpc.start()
        self._encoder.warm()
        self._galleries.open_all()
        self._galleries.follow()
        self._tell_health(health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float = _DRAIN_S) -> None:
        """Take no new calls, finish those in flight for at most `grace_s` seconds, close the galleries."""
        self._health.enter_graceful_shutdown()
        self._grpc.stop(grace_s).wait()
        self._galleries.close()

    def wait_for_signal(self) -> None:
        """Wait for SIGTERM or SIGINT, then stop."""
        asked = threading.Event()

        def ask(signum: int, frame: FrameType | None) -> None:
            asked.set()

        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)
        asked.wait()
        self.stop()

    def _tell_health(self, status: int) -> None:
        for name in ("", *SERVICES):
            self._health.set(name, status)
