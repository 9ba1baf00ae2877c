"""Behaviour of every call: limits, request ids, metrics, logs, and the errors that clients receive."""

import gc
import json
import logging
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.limits import LIMITS, MAX_CALLS_PER_CONNECTION
from encoder_service.rpc.config import Config, LogFormat, LogLevel
from encoder_service.rpc.logs import begin_logging
from encoder_service.rpc.server import Server
from encoder_service.status import status_for
from encoder_service.v1 import encoder_pb2, encoder_pb2_grpc, gallery_pb2, gallery_pb2_grpc, search_pb2, search_pb2_grpc
from gallery import Store
from gallery.edge.shard import EdgeGallery
from gallery.errors import LookalikeError
from tests.digits import png
from tests.waiting import eventually

CONFIG = Config(port=0, max_concurrent_calls=2, max_streams=1, metrics_port=0)


@pytest.fixture
def server(store: Store, encoder: Encoder) -> Iterator[Server]:
    with Server(store, encoder, CONFIG) as server:
        yield server


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def search(channel: grpc.Channel, picture: Image.Image, **more: Any) -> Any:
    """Search, and return the call, whether it succeeded or failed."""
    request = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=png(picture)))
    try:
        return search_pb2_grpc.SearchServiceStub(channel).Search.with_call(request, **more)[1]
    except grpc.RpcError as error:
        return error


def hold(monkeypatch: pytest.MonkeyPatch, method: str, free: threading.Event) -> threading.Semaphore:
    """Keep calls of a gallery's method waiting until they are freed. Return a semaphore that counts those begun."""
    begun = threading.Semaphore(0)
    original = getattr(EdgeGallery, method)

    def wait(self: EdgeGallery, argument: Any) -> Any:
        begun.release()
        return free.wait(20) and original(self, argument)

    monkeypatch.setattr(EdgeGallery, method, wait)
    return begun


def trailing(call: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in call.trailing_metadata()}


def test_get_encoder_reports_the_limits(channel: grpc.Channel) -> None:
    limits = encoder_pb2_grpc.EncoderServiceStub(channel).GetEncoder(encoder_pb2.GetEncoderRequest()).limits
    assert (limits.max_image_bytes, limits.max_image_pixels) == (LIMITS.max_image_bytes, LIMITS.max_image_pixels)
    assert (limits.max_concurrent_call_count, limits.max_concurrent_stream_count) == (2, 1)
    assert limits.max_stream_item_count == LIMITS.max_stream_item_count


def test_calls_over_the_limit_are_rejected_at_once_with_a_time_to_retry(
    channel: grpc.Channel, server: Server, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    hold(monkeypatch, "search_batch", free)
    busy = [threading.Thread(target=search, args=(channel, queries[0])) for _ in range(2)]
    for thread in busy:
        thread.start()
    deadline = time.monotonic() + 10
    while (call := search(channel, queries[0], timeout=1)).code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert time.monotonic() < deadline
    assert "has 2 calls in flight" in call.details()
    assert trailing(call)["retry-after"] == "1"
    with Client(server.address) as client:
        client.check_health()
    free.set()
    for thread in busy:
        thread.join()
    # a call is counted until shortly after its answer
    eventually(lambda: search(channel, queries[0]).code() is grpc.StatusCode.OK)


def test_an_overloaded_service_admits_fewer_calls_until_the_overload_ends(
    channel: grpc.Channel, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    begun = hold(monkeypatch, "search_batch", free)
    stub = search_pb2_grpc.SearchServiceStub(channel)
    request = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=png(queries[0])))

    def admitted(count: int) -> int:
        """Make concurrent calls, and return the number that were admitted."""
        free.clear()
        calls = []
        for _ in range(count):
            call = stub.Search.future(request, timeout=30)
            calls.append(call)
            while not (begun.acquire(timeout=0.05) or call.done()):
                pass
        free.set()
        return [call.code() for call in calls].count(grpc.StatusCode.OK)

    assert admitted(2) == 2
    assert admitted(3) == 2
    assert admitted(3) == 1
    ends = time.monotonic() + 20
    while admitted(2) < 2:  # a steady two callers, more than overload admits, do not prolong it
        assert time.monotonic() < ends


def test_a_stream_over_the_limit_is_rejected_and_the_first_continues(
    channel: grpc.Channel, queries: list[Image.Image]
) -> None:
    ended = threading.Event()

    def images() -> Iterator[encoder_pb2.EncodeStreamRequest]:
        yield encoder_pb2.EncodeStreamRequest(image=encoder_pb2.Image(encoded=png(queries[0])))
        ended.wait(20)

    encode = encoder_pb2_grpc.EncoderServiceStub(channel).EncodeStream
    first = encode(images())
    assert next(first).WhichOneof("result") == "code"
    with pytest.raises(grpc.RpcError) as refused:
        next(encode(images()))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1 streams" in str(refused.value.details())
    ended.set()
    assert list(first) == []


def test_a_stream_is_read_ahead_only_as_far_as_its_limits_allow(
    channel: grpc.Channel, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    hold(monkeypatch, "upsert", free)
    sent = []

    def images() -> Iterator[gallery_pb2.AddImagesRequest]:
        padded = Image.new("L", (600, 600))
        for index in range(2000):
            sent.append(index)
            picture = encoder_pb2.Image(raw=encoder_pb2.RawImage(width=600, height=600, pixels=padded.tobytes()))
            yield gallery_pb2.AddImagesRequest(gallery="digits", key=str(index), image=picture)

    answers = gallery_pb2_grpc.GalleryServiceStub(channel).AddImages(images())
    count = -1
    while len(sent) > count:  # until no more are sent
        count = len(sent)
        time.sleep(1)
    assert count < 1000
    free.set()
    assert next(answers).WhichOneof("result") == "added"
    answers.cancel()


@pytest.mark.parametrize("given", ["abc-123", ""])
def test_a_call_returns_its_request_id(channel: grpc.Channel, queries: list[Image.Image], given: str) -> None:
    request_id = trailing(search(channel, queries[0], metadata=(("x-request-id", given),)))["x-request-id"]
    assert request_id == given if given else len(request_id) == 32
    bad = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=b"rubbish"))
    with pytest.raises(grpc.RpcError) as refused:
        search_pb2_grpc.SearchServiceStub(channel).Search(bad, metadata=(("x-request-id", "xyz"),))
    assert trailing(refused.value)["x-request-id"] == "xyz"


@pytest.mark.parametrize("method", ["SearchService/Search", "EncoderService/EncodeStream", "GalleryService/AddImages"])
def test_bytes_that_are_not_a_message_are_an_invalid_argument(channel: grpc.Channel, method: str) -> None:
    kind: Any = channel.unary_unary if method.endswith("Search") else channel.stream_stream
    send = kind(f"/encoder_service.v1.{method}")
    with pytest.raises(grpc.RpcError) as refused:
        list(send(b"\xff\xff") if method.endswith("Search") else send(iter([b"\xff\xff"])))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected a protobuf message" in str(refused.value.details())


def test_failed_streams_do_not_count_against_their_connection(channel: grpc.Channel) -> None:
    send: Any = channel.stream_stream("/encoder_service.v1.GalleryService/AddImages")
    gc.disable()  # whatever only a collection would free stays alive
    try:
        for _ in range(3 * MAX_CALLS_PER_CONNECTION):
            with pytest.raises(grpc.RpcError) as refused:
                list(send(iter([b"\xff\xff"])))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    finally:
        gc.enable()


def test_a_call_whose_deadline_has_passed_is_not_executed(channel: grpc.Channel, queries: list[Image.Image]) -> None:
    assert search(channel, queries[0], timeout=0).code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("field", ["gallery", "key"])
def test_a_name_too_long_for_an_error_message_is_an_invalid_argument(channel: grpc.Channel, field: str) -> None:
    request = search_pb2.SearchRequest(gallery="digits", key="k")
    setattr(request, field, "x" * 20_000)
    with pytest.raises(grpc.RpcError) as refused:
        search_pb2_grpc.SearchServiceStub(channel).Search(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_health_checks_that_send_nothing_do_not_delay_others(channel: grpc.Channel, server: Server) -> None:
    """Twelve health checks are opened on one connection, and none of them sends its request."""
    ended = threading.Event()

    def never() -> Iterator[bytes]:
        ended.wait(20)
        yield b""

    silent: list[Any] = []
    for name in ("/grpc.health.v1.Health/Check",) * 12:
        send: Any = channel.stream_unary(name)
        silent.append(send.future(never(), timeout=30))
    time.sleep(0.5)
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as other:
        health: Any = health_pb2_grpc.HealthStub(other)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
    ended.set()
    for call in silent:
        call.cancel()


def error_classes(base: type[LookalikeError] = LookalikeError) -> Iterator[type[LookalikeError]]:
    """Yield the error classes of the service and the packages below it."""
    if base.__module__.startswith(("gallery.", "encoder_service.")):
        yield base
    for error in base.__subclasses__():
        yield from error_classes(error)


def test_clients_receive_the_summary_or_message_of_every_error_and_never_its_place(
    channel: grpc.Channel,
    queries: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for error in set(error_classes()):

        def fail(self: EdgeGallery, queries: object, error: type[LookalikeError] = error) -> None:
            raise error("the message", place="/secret/store")

        monkeypatch.setattr(EdgeGallery, "search_batch", fail)
        caplog.clear()
        call = search(channel, queries[0])
        assert call.code() is status_for(error), error
        request_id = trailing(call)["x-request-id"]
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        if error.summary:
            assert call.details() == f"{error.summary} The service's log has more under {request_id}."
            assert warnings == ["/encoder_service.v1.SearchService/Search: /secret/store: the message"], error
        else:
            assert call.details() == "the message"
            assert warnings == [], error
        pushback = trailing(call).get("grpc-retry-pushback-ms")
        assert pushback == ("-1" if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else None), error


def test_messages_for_clients_need_no_docstrings() -> None:
    script = """
from encoder_service.rpc.calls import message_for_client
from gallery.errors import InvalidQueryError, StoreDamagedError, StoreUnusableError
for error in (InvalidQueryError, StoreDamagedError, StoreUnusableError):
    print(error.__doc__, message_for_client(error("the message", place="/secret"), "abc"))
"""
    done = subprocess.run([sys.executable, "-OO", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "None the message",
        "None Files of the store are missing or altered. The service's log has more under abc.",
        "None The store can't be used. The service's log has more under abc.",
    ]


def test_an_unexpected_error_reveals_only_its_request_id(
    channel: grpc.Channel, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EdgeGallery, "search_batch", lambda self, queries: Path("/secret").read_text())
    call = search(channel, queries[0])
    assert call.code() is grpc.StatusCode.INTERNAL
    assert call.details() == f"Unexpected error. The service's log has more under {trailing(call)['x-request-id']}."


def test_an_unknown_gallery_is_named_in_the_error(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        search_pb2_grpc.SearchServiceStub(channel).Search(search_pb2.SearchRequest(gallery="other", key="k"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert "no gallery 'other'" in str(refused.value.details())


def test_prometheus_reads_metrics_of_calls_stages_and_galleries(
    server: Server, channel: grpc.Channel, encoder: Encoder, queries: list[Image.Image]
) -> None:
    search(channel, queries[0])
    encode = encoder_pb2_grpc.EncoderServiceStub(channel).EncodeStream
    list(
        encode(
            encoder_pb2.EncodeStreamRequest(image=encoder_pb2.Image(encoded=data)) for data in (b"", png(queries[0]))
        )
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    dashboard = (Path(__file__).parents[2] / "docs" / "grafana.json").read_text()
    assert set(re.findall(r"lookalike_\w+", dashboard)) <= set(re.findall(r"lookalike_\w+", text))
    lines = text.splitlines()
    for line in (
        'lookalike_calls_total{method="Search",status="OK"} 1.0',
        'lookalike_items_total{method="EncodeStream",outcome="ok"} 1.0',
        'lookalike_items_total{method="EncodeStream",outcome="rejected"} 1.0',
        'lookalike_stage_seconds_count{stage="search"} 1.0',
        'lookalike_gallery_images{gallery="digits"} 400.0',
        'lookalike_gallery_version{gallery="digits"} 1.0',
        f'lookalike_encoder_info{{fingerprint="{encoder.spec.fingerprint}"}} 1.0',
    ):
        assert line in lines


def test_the_log_can_be_json(capfd: pytest.CaptureFixture[str]) -> None:
    begin_logging(LogFormat.JSON, LogLevel.INFO)
    logging.getLogger("x").warning("hello", extra={"request_id": "abc"})
    line = json.loads(capfd.readouterr().err)
    assert (line["level"], line["message"], line["request_id"]) == ("WARNING", "hello", "abc")
    logging.basicConfig(handlers=[], force=True)
