"""Connections on which nothing is sent for a while. Each test waits for minutes, as gRPC's intervals are that long."""

import socket
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2

from gallery import Store
from tests.encoder_service.raw import process as serving

pytestmark = pytest.mark.slow


def test_a_client_that_vanished_while_idle_is_disconnected(store: Store) -> None:
    preface, settings, acknowledgement = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\4\0\0\0\0\0",
        b"\0\0\0\4\1\0\0\0\0",
    )
    with serving(store) as (address, _):
        host, port = address.rsplit(":", 1)
        connection = socket.create_connection((host, int(port)), timeout=150)
        with connection:
            connection.sendall(preface + settings + acknowledgement)
            while connection.recv(65536):  # frames, of which pings are never answered
                pass


def test_a_client_that_pings_every_ten_seconds_keeps_its_quiet_stream(store: Store) -> None:
    pings = (("grpc.keepalive_time_ms", 10_000), ("grpc.http2.max_pings_without_data", 0))
    with serving(store) as (address, _), grpc.insecure_channel(address, pings) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        states = watch(health_pb2.HealthCheckRequest())
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        ended = threading.Event()
        states.add_callback(ended.set)
        # gRPC's own policy would close the connection at the third ping within five minutes
        assert not ended.wait(70)
        states.cancel()
