"""Starting and stopping a server."""

import socket
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.errors import ServiceError
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.v1 import encoder_pb2, encoder_pb2_grpc
from gallery import Store
from gallery.errors import UnavailableError
from tests.digits import png


def test_a_server_runs_within_its_block(store: Store, encoder: Encoder) -> None:
    with Server(store, encoder) as server, Client(server.address) as client:
        client.check_health()
    with Client(server.address, timeout_s=2) as client, pytest.raises(UnavailableError):
        client.check_health()
    Server(store, encoder, Config(port=server.port)).stop()  # the port is free again


def test_stopping_twice_does_nothing(store: Store, encoder: Encoder) -> None:
    with Server(store, encoder, Config(port=0, metrics_port=0)) as server:
        server.stop()


def test_a_server_that_fails_to_start_closes_its_port_and_ends_its_threads(store: Store, encoder: Encoder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = Server(store, encoder, Config(port=0, metrics_port=other.getsockname()[1]))
        before = set(threading.enumerate())
        with pytest.raises(ServiceError, match="choose another --metrics-port"), server:
            pass
        assert set(threading.enumerate()) <= before
    Server(store, encoder, Config(port=server.port)).stop()


def test_an_exception_in_the_block_cancels_calls_in_flight(
    store: Store, encoder: Encoder, queries: list[Image.Image]
) -> None:
    ended = threading.Event()

    def requests() -> Iterator[encoder_pb2.EncodeStreamRequest]:
        yield encoder_pb2.EncodeStreamRequest(image=encoder_pb2.Image(encoded=png(queries[0])))
        ended.wait(20)

    config = Config(port=0, drain_s=20)
    with pytest.raises(ZeroDivisionError), Server(store, encoder, config) as server:
        channel = grpc.insecure_channel(server.address)
        stream = encoder_pb2_grpc.EncoderServiceStub(channel).EncodeStream(requests())
        next(stream)
        begun = time.monotonic()
        raise ZeroDivisionError
    assert time.monotonic() - begun < 10
    with pytest.raises(grpc.RpcError):
        next(stream)
    ended.set()
    channel.close()
