"""A service whose calls several processes answer, before a server that claims to be Qdrant and has no galleries."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

import grpc
import pytest

from encoder_service.errors import ServiceError
from encoder_service.rpc.config import Config
from encoder_service.rpc.workers import Workers
from encoder_service.v1 import encoder_pb2, encoder_pb2_grpc, gallery_pb2, gallery_pb2_grpc
from tests.commands import BIN, Command
from tests.gallery.test_faulty_servers import Faulty
from tests.waiting import eventually

URL = "http://127.0.0.1:6333"


class Qdrant(Faulty):
    """Lists its aliases only while `is_free` is set."""

    def __init__(self) -> None:
        self.is_free = threading.Event()
        self.is_free.set()

    def service(self, call: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        if call.method.endswith("ListAliases"):
            self.is_free.wait(20)
        return super().service(call)


@pytest.fixture(scope="module")
def qdrant() -> Iterator[Qdrant]:
    server, handler = grpc.server(ThreadPoolExecutor(16)), Qdrant()
    server.add_generic_rpc_handlers((handler,))
    handler.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("QDRANT_GRPC_PORT", str(handler.port))
        yield handler
    server.stop(0).wait()


class Service:
    """A running service with two workers.

    Attributes:
        process: The parent.
        addresses: The printed addresses of gRPC, HTTP and the metrics, such as "serving on 127.0.0.1:50051".
        workers: The process ids of the workers.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout
        self.process = process
        self.addresses = [process.stdout.readline().strip() for _ in range(3)]
        self.workers = children(process.pid)

    def connect(self) -> grpc.Channel:
        """Return a channel with a connection of its own."""
        return grpc.insecure_channel(self.addresses[0].split()[-1], [("grpc.use_local_subchannel_pool", 1)])

    def call(self) -> None:
        """Make one call over a connection of its own."""
        with self.connect() as channel:
            encoder_pb2_grpc.EncoderServiceStub(channel).GetEncoder(encoder_pb2.GetEncoderRequest(), timeout=20)

    def metric(self, sample: str) -> dict[str, float]:
        """Return the value of a sample, such as `name{label="value"`, by worker."""
        with urlopen(self.addresses[2].split()[-1]) as answer:
            text = answer.read().decode()
        return {worker: float(value) for worker, value in re.findall(sample + r',worker="(\d)"} (\S+)', text)}


def children(pid: int) -> set[int]:
    """Return the ids of the workers that a process has started."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return {int(row[0]) for row in rows if row[1] == str(pid) and "spawn_main" in row[2]}


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")


@contextmanager
def serving() -> Iterator[Service]:
    command = [str(BIN / "encoder-service"), "serve", "--store", URL, "--encoder", "seed", "--workers", "2"]
    command += ["--port", "0", "--http-port", "0", "--metrics-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Service(process)
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def service(qdrant: Qdrant) -> Iterator[Service]:
    with serving() as service:
        yield service


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give all connections to one worker")
def test_connections_are_spread_over_the_workers_whose_metrics_are_on_one_port(service: Service) -> None:
    sample = 'lookalike_calls_total{method="GetEncoder",status="OK"'
    before = sum(service.metric(sample).values())
    for _ in range(20):
        service.call()
    counts = service.metric(sample)
    assert counts.keys() == {"1", "2"}
    assert sum(counts.values()) - before == 20


def test_the_search_page_is_served_by_the_workers_too(service: Service) -> None:
    with urlopen(service.addresses[1].split()[-1]) as answer:
        assert b"<!doctype html>" in answer.read()


def test_a_worker_that_was_killed_is_replaced_and_calls_go_on(service: Service) -> None:
    before = children(service.process.pid)
    assert len(before) == 2
    killed = before.pop()
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: len(children(service.process.pid) - {killed}) == 2)
    eventually(lambda: service.metric('lookalike_encoder_info{fingerprint="[0-9a-f]+"') == {"1": 1, "2": 1})
    for _ in range(5):
        service.call()
    assert service.process.poll() is None


def test_sigterm_lets_calls_in_flight_finish_and_ends_all_processes(qdrant: Qdrant) -> None:
    with serving() as service, service.connect() as channel:
        stub: Any = gallery_pb2_grpc.GalleryServiceStub(channel)
        grpc.channel_ready_future(channel).result(20)
        try:
            qdrant.is_free.clear()
            call = stub.ListGalleries.future(gallery_pb2.ListGalleriesRequest(), timeout=20)
            time.sleep(2)  # until the call has begun
            service.process.send_signal(signal.SIGTERM)
            time.sleep(1)
            assert service.process.poll() is None
        finally:
            qdrant.is_free.set()
        assert call.result().galleries == []
        assert service.process.wait(20) == 0
        assert not any(map(is_alive, service.workers))


def test_a_parent_that_was_killed_leaves_no_worker(qdrant: Qdrant) -> None:
    with serving() as service:
        service.process.kill()
        eventually(lambda: not any(map(is_alive, service.workers)))


def test_an_error_of_all_workers_is_one_line(qdrant: Qdrant, command_process: Command) -> None:
    flags = ("--store", URL, "--port", "0", "--workers", "2")
    ended = command_process("encoder-service", "serve", *flags, "--encoder", "unknown")
    assert (ended.returncode, ended.stdout) == (4, "")
    assert ended.stderr.startswith("error: no encoder 'unknown'")
    assert ended.stderr.count("\n") == 1


def test_a_port_on_which_another_service_listens_is_not_shared(service: Service) -> None:
    port = int(service.addresses[0].rpartition(":")[2])
    config = Config(store=URL, workers=2, port=port)
    with (
        pytest.raises(ServiceError, match=f"can't listen on 127.0.0.1:{port}: .*choose another --port"),
        Workers(config),
    ):
        pass


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--store", "edge:/tmp"),
            "expected a Qdrant server as --store, because only one process can open a local store",
        ),
        (("--store", URL, "--host", "unix:/tmp/socket"), "expected --host to be a name or an address"),
        (("--store", URL, "--http-port", "50051"), "expected another port than --port"),
    ],
)
def test_settings_that_several_processes_can_not_share_are_refused(
    command: Command, flags: tuple[str, ...], message: str
) -> None:
    refused = command("encoder-service", "config", "--workers", "2", *flags)
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
    assert message in refused.stderr
