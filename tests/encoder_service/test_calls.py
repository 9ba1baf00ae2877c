"""What every call goes through: limits, request ids, metrics, and what strangers are told of errors."""

import gc
import json
import re
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
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.v1 import encoder_pb2, encoder_pb2_grpc, search_pb2, search_pb2_grpc
from gallery import Store
from gallery.edge.shard import EdgeGallery
from gallery.errors import StoreUnreachableError
from tests.digits import png

CONFIG = Config(port=0, max_concurrent_calls=2, max_streams=1, metrics_port=0)


@pytest.fixture
def server(store: Store, encoder: Encoder) -> Iterator[Server]:
    server = Server(store, encoder, CONFIG)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def searched(channel: grpc.Channel, picture: Image.Image, **more: Any) -> Any:
    """Search, and return the call, ended well or not."""
    request = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=png(picture)))
    try:
        return search_pb2_grpc.SearchServiceStub(channel).Search.with_call(request, **more)[1]
    except grpc.RpcError as error:
        return error


def trailing(call: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in call.trailing_metadata()}


def test_the_limits_are_told(server: Server) -> None:
    with Client(server.address) as client:
        limits = client.encoder().limits
    assert (limits.max_image_bytes, limits.max_image_pixels) == (LIMITS.max_image_bytes, LIMITS.max_image_pixels)
    assert (limits.max_concurrent_call_count, limits.max_concurrent_stream_count) == (2, 1)
    assert limits.max_stream_item_count == 64


def test_calls_over_capacity_are_turned_away_at_once_and_told_when_to_come_back(
    channel: grpc.Channel, server: Server, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    search = EdgeGallery.search_batch
    monkeypatch.setattr(EdgeGallery, "search_batch", lambda self, asked: free.wait(20) and search(self, asked))
    busy = [threading.Thread(target=searched, args=(channel, queries[0])) for _ in range(2)]
    for thread in busy:
        thread.start()
    deadline = time.monotonic() + 10
    while (call := searched(channel, queries[0], timeout=1)).code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert time.monotonic() < deadline
    assert "has 2 calls under way" in call.details()
    assert trailing(call)["retry-after"] == "1"
    with Client(server.address) as client:
        client.check_health()
    free.set()
    for thread in busy:
        thread.join()
    assert searched(channel, queries[0]).code() is grpc.StatusCode.OK


def test_in_a_rush_fewer_are_let_in_until_it_is_over(
    channel: grpc.Channel, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, free = threading.Semaphore(0), threading.Event()
    search = EdgeGallery.search_batch

    def held(self: EdgeGallery, asked: Any) -> Any:
        entered.release()
        return free.wait(20) and search(self, asked)

    monkeypatch.setattr(EdgeGallery, "search_batch", held)
    stub = search_pb2_grpc.SearchServiceStub(channel)
    request = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=png(queries[0])))

    def let_in(count: int) -> int:
        """Call so many times at once, and return how many were let in."""
        free.clear()
        calls = []
        for _ in range(count):
            call = stub.Search.future(request, timeout=30)
            calls.append(call)
            while not (entered.acquire(timeout=0.05) or call.done()):
                pass
        free.set()
        return [call.code() for call in calls].count(grpc.StatusCode.OK)

    assert let_in(2) == 2
    assert let_in(3) == 2
    assert let_in(3) == 1
    ends = time.monotonic() + 20
    while let_in(2) < 2:  # steady callers, too many for a rush, do not keep it up
        assert time.monotonic() < ends


def test_a_second_stream_is_turned_away_and_the_first_goes_on(
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


def test_a_stream_is_read_no_farther_ahead_than_its_answers_allow(
    channel: grpc.Channel, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    from encoder_service.v1 import gallery_pb2, gallery_pb2_grpc

    free = threading.Event()
    upsert = EdgeGallery.upsert
    monkeypatch.setattr(EdgeGallery, "upsert", lambda self, new: free.wait(20) and upsert(self, new))
    sent = []

    def images() -> Iterator[gallery_pb2.AddImagesRequest]:
        padded = Image.new("L", (600, 600))
        for index in range(2000):
            sent.append(index)
            picture = encoder_pb2.Image(raw=encoder_pb2.RawImage(width=600, height=600, pixels=padded.tobytes()))
            yield gallery_pb2.AddImagesRequest(gallery="digits", key=str(index), image=picture)

    answers = gallery_pb2_grpc.GalleryServiceStub(channel).AddImages(images())
    count = -1
    while len(sent) > count:  # until it stands still
        count = len(sent)
        time.sleep(1)
    assert count < 1000
    free.set()
    assert next(answers).WhichOneof("result") == "added"
    answers.cancel()


@pytest.mark.parametrize("given", ["abc-123", ""])
def test_a_call_has_an_id_that_its_caller_learns(channel: grpc.Channel, queries: list[Image.Image], given: str) -> None:
    found = trailing(searched(channel, queries[0], metadata=(("x-request-id", given),)))["x-request-id"]
    assert found == given if given else len(found) == 32
    bad = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=b"rubbish"))
    with pytest.raises(grpc.RpcError) as refused:
        search_pb2_grpc.SearchServiceStub(channel).Search(bad, metadata=(("x-request-id", "xyz"),))
    assert trailing(refused.value)["x-request-id"] == "xyz"


@pytest.mark.parametrize("method", ["SearchService/Search", "EncoderService/EncodeStream", "GalleryService/AddImages"])
def test_bytes_that_are_no_message_are_the_caller_s_mistake(channel: grpc.Channel, method: str) -> None:
    kind: Any = channel.unary_unary if method.endswith("Search") else channel.stream_stream
    send = kind(f"/encoder_service.v1.{method}")
    with pytest.raises(grpc.RpcError) as refused:
        list(send(b"\xff\xff") if method.endswith("Search") else send(iter([b"\xff\xff"])))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected a protobuf message" in str(refused.value.details())


def test_streams_that_failed_take_no_room_on_their_connection(channel: grpc.Channel) -> None:
    send: Any = channel.stream_stream("/encoder_service.v1.GalleryService/AddImages")
    gc.disable()  # what only a collection would clear away stays
    try:
        for _ in range(3 * MAX_CALLS_PER_CONNECTION):
            with pytest.raises(grpc.RpcError) as refused:
                list(send(iter([b"\xff\xff"])))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    finally:
        gc.enable()


def test_a_call_whose_time_is_over_is_not_worked_on(channel: grpc.Channel, queries: list[Image.Image]) -> None:
    assert searched(channel, queries[0], timeout=0).code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("field", ["gallery", "key"])
def test_a_name_too_long_for_an_answer_is_the_caller_s_mistake(channel: grpc.Channel, field: str) -> None:
    request = search_pb2.SearchRequest(gallery="digits", key="k")
    setattr(request, field, "x" * 20_000)
    with pytest.raises(grpc.RpcError) as refused:
        search_pb2_grpc.SearchServiceStub(channel).Search(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_callers_that_send_nothing_keep_nobody_else_waiting(channel: grpc.Channel, server: Server) -> None:
    """Twelve ask for health on one connection, and none of them sends its message."""
    ended = threading.Event()

    def never() -> Iterator[bytes]:
        ended.wait(20)
        yield b""

    held: list[Any] = []
    for name in ("/grpc.health.v1.Health/Check",) * 12:
        send: Any = channel.stream_unary(name)
        held.append(send.future(never(), timeout=30))
    time.sleep(0.5)
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as other:
        health: Any = health_pb2_grpc.HealthStub(other)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
    ended.set()
    for call in held:
        call.cancel()


def test_strangers_learn_no_places(
    channel: grpc.Channel, store_url: str, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        search_pb2_grpc.SearchServiceStub(channel).Search(search_pb2.SearchRequest(gallery="other", key="k"))
    assert "no gallery 'other'" in str(refused.value.details())

    def fail(self: EdgeGallery, asked: object) -> None:
        raise StoreUnreachableError(f"store {store_url} can't be reached")

    monkeypatch.setattr(EdgeGallery, "search_batch", fail)
    call = searched(channel, queries[0])
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert call.details().startswith("No server answers where the store should be. The service's log has more under ")
    monkeypatch.setattr(EdgeGallery, "search_batch", lambda self, asked: Path("/secret").read_text())
    call = searched(channel, queries[0])
    assert call.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in call.details()
    assert trailing(call)["x-request-id"] in call.details()


def test_prometheus_reads_calls_stages_and_galleries(
    server: Server, channel: grpc.Channel, encoder: Encoder, queries: list[Image.Image]
) -> None:
    searched(channel, queries[0])
    encode = encoder_pb2_grpc.EncoderServiceStub(channel).EncodeStream
    list(
        encode(
            encoder_pb2.EncodeStreamRequest(image=encoder_pb2.Image(encoded=data)) for data in (b"", png(queries[0]))
        )
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    drawn = set(re.findall(r"lookalike_\w+", (Path(__file__).parents[2] / "docs" / "grafana.json").read_text()))
    assert drawn <= set(re.findall(r"lookalike_\w+", text))
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


def test_the_log_is_json_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    from encoder_service.rpc.logs import begin_logging

    begin_logging("json", "info")
    logging.getLogger("x").warning("hello", extra={"request_id": "abc"})
    line = json.loads(capfd.readouterr().err)
    assert (line["level"], line["message"], line["request_id"]) == ("WARNING", "hello", "abc")
    logging.basicConfig(handlers=[], force=True)
