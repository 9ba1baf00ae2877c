"""How a service ends: by which signals, how soon, and with what it has acknowledged."""

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from encoder_service.client import Client
from encoder_service.v1 import encoder_pb2, gallery_pb2, gallery_pb2_grpc
from encoder_service.writer import NewImage
from gallery import Store
from gallery.errors import LookalikeError
from tests.commands import BIN, Command
from tests.digits import png
from tests.encoder_service.raw import RawClient
from tests.encoder_service.raw import process as serving


def ended(process: subprocess.Popen[str], number: signal.Signals) -> float:
    """Send a signal, and return the seconds until the process has ended."""
    begun = time.monotonic()
    process.send_signal(number)
    assert process.wait(30) == 0
    return time.monotonic() - begun


def test_a_signal_that_another_thread_takes_is_heard() -> None:
    script = """
import signal, threading, time
from encoder_service.rpc.signals import EndingSignals
signals = EndingSignals()
def take():
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(60)
threading.Thread(target=take, daemon=True).start()
signals.wait()
"""
    begun = time.monotonic()
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0
    assert time.monotonic() - begun < 10


def test_a_signal_is_heard_at_whatever_moment_it_comes() -> None:
    script = """
import os, signal, time
from encoder_service.rpc import signals as module
module._POLL_S = 1e-6
process = os.getpid()
for attempt in range(500):
    signals = module.EndingSignals()
    waits, waiting = os.pipe()
    killer = os.fork()
    if not killer:
        os.read(waits, 1)
        time.sleep(attempt % 7 * 1e-4)
        os.kill(process, signal.SIGTERM)
        os._exit(0)
    told = []
    signals.wait(lambda: told or told.append(os.write(waiting, b"1")))
    os.waitpid(killer, 0)
    os.close(waits)
    os.close(waiting)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0


@pytest.mark.parametrize(
    ("number", "method"),
    [
        (signal.SIGTERM, "GalleryService/AddImages"),
        (signal.SIGINT, "EncoderService/EncodeStream"),
        (signal.SIGHUP, "GalleryService/AddImages"),
    ],
)
def test_idle_streams_delay_no_end_and_nothing_acknowledged_is_lost(
    store: Store, command: Command, queries: list[Image.Image], number: signal.Signals, method: str
) -> None:
    with serving(store) as (address, process), Client(address) as client:
        assert list(client.add([NewImage("new", png(queries[0]))], "digits")) == [False]
        with RawClient(address) as idle:
            idle.begin(f"/encoder_service.v1.{method}")
            idle.begin("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            idle.call("/grpc.health.v1.Health/Watch", b"")
            time.sleep(0.2)
            assert ended(process, number) < 7
    checked = command("ingest", "check", "digits", "--store", store.url)
    assert (checked.returncode, "401 images" in checked.stdout) == (0, True), checked.stderr


def test_a_second_signal_ends_the_draining(store: Store, command: Command, queries: list[Image.Image]) -> None:
    acknowledged = 0
    stopped = threading.Event()

    def images() -> Iterator[gallery_pb2.AddImagesRequest]:
        for index in range(100_000):
            if stopped.wait(0.02):
                return
            picture = encoder_pb2.Image(encoded=png(queries[index % 100]))
            yield gallery_pb2.AddImagesRequest(gallery="digits", key=f"new/{index}", image=picture)

    with serving(store, "--drain-s", "25") as (address, process), grpc.insecure_channel(address) as channel:
        answers: Any = gallery_pb2_grpc.GalleryServiceStub(channel).AddImages(images())
        for _ in range(20):
            next(answers)
            acknowledged += 1
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError):
            for _ in answers:
                acknowledged += 1
                if time.monotonic() - begun > 1.5:
                    process.send_signal(signal.SIGTERM)
        stopped.set()
        assert process.wait(20) == 0
        assert time.monotonic() - begun < 15
    assert acknowledged > 20
    checked = command("ingest", "check", "digits", "--store", store.url)
    assert checked.returncode == 0, checked.stderr
    assert int(checked.stdout.partition(" images")[0].split()[-1].replace(",", "")) >= 400 + acknowledged


def test_the_draining_ends_in_its_time_whatever_streams_do(store: Store, queries: list[Image.Image]) -> None:
    stopped = threading.Event()

    def pictures() -> Iterator[bytes]:
        while not stopped.wait(0.05):
            yield png(queries[0])

    def stream(client: Client) -> None:
        try:
            for _ in client.encode_stream(pictures()):
                pass
        except LookalikeError:
            pass

    with serving(store, "--drain-s", "2") as (address, process), Client(address) as client:
        streaming = threading.Thread(target=stream, args=(client,))
        streaming.start()
        time.sleep(1.5)
        assert 1 < ended(process, signal.SIGTERM) < 10
        stopped.set()
        streaming.join()


def test_a_signal_during_the_start_ends_it(store: Store) -> None:
    command = [str(BIN / "encoder-service"), "serve", "--port", "0", "--store", store.url, "--encoder", "seed"]
    for seconds in (0.4, 0.6, 0.8):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=10)
        assert process.returncode in (0, 128 + signal.SIGTERM, -signal.SIGTERM), log
        # Python reports an exception that ends nothing, because it was raised in a destructor, with a traceback
        assert b"Traceback" not in log or b"Exception ignored in" in log


def test_a_signal_ends_the_start_even_if_an_import_turns_it_into_another_error() -> None:
    # as a C extension does
    script = """
import os, signal
from encoder_service.rpc.signals import EndingSignals
with EndingSignals() as signals:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit as error:
        raise ImportError("initialization failed") from error
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30, check=False)
    assert (process.returncode, process.stderr) == (128 + signal.SIGTERM, b"")


def test_a_client_does_not_wait_for_ever_for_a_frozen_service(
    store: Store, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoder_service.client._KEEPALIVE_MS", 1000)
    monkeypatch.setattr("encoder_service.client._KEEPALIVE_TIMEOUT_MS", 1000)
    with serving(store) as (address, process), Client(address, timeout_s=1) as client:
        codes = client.encode_stream(queries[0] for _ in iter(int, 1))
        assert len(list(itertools.islice(codes, 500))) == 500
        process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(LookalikeError, match="UNAVAILABLE"):
            for _ in codes:
                pass
        assert time.monotonic() - begun < 30
        with pytest.raises(LookalikeError, match="no answer within 1 s: is the service overloaded or stuck"):
            client.check_health()


@pytest.mark.parametrize("name", ["LOOKALIKE_PORT", "LOOKALIKE_METRICS_PORT"])
def test_a_variable_that_kubernetes_sets_for_a_service_is_ignored(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:50051")
    shown = command("encoder-service", "config", "--store", f"edge:{tmp_path}")
    assert shown.returncode == 0, shown.stderr
    assert '"port": 50051' in shown.stdout
    assert '"metrics_port": null' in shown.stdout
    assert shown.stderr.count("\n") == 1
    assert f"{name}=tcp://10.0.0.1:50051 is ignored" in shown.stderr
    monkeypatch.setenv(name, "50x")
    assert command("encoder-service", "config").returncode == 2
