"""Clients that are slow, silent, greedy or gone: what they may hold, and for how long."""

import gzip
import socket
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.errors import ServiceError
from encoder_service.rpc import overload, pools
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.v1 import encoder_pb2, search_pb2, search_pb2_grpc
from encoder_service.writer import NewImage
from gallery import Store
from tests.digits import png
from tests.encoder_service.raw import RawClient, framed, process, trailers
from tests.waiting import eventually

SEARCH = "/encoder_service.v1.SearchService/Search"
BATCH = "/encoder_service.v1.SearchService/BatchSearch"
ENCODE_STREAM = "/encoder_service.v1.EncoderService/EncodeStream"
ADD = "/encoder_service.v1.GalleryService/AddImages"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"


@contextmanager
def clients(address: str, count: int) -> Iterator[list[RawClient]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RawClient(address)) for _ in range(count)]


@pytest.mark.parametrize("sends", ["headers", "a few bytes", "a message bit by bit"])
def test_uploads_that_do_not_arrive_are_not_load(server: Server, queries: list[Image.Image], sends: str) -> None:
    stopped = threading.Event()
    with clients(server.address, 20) as slow, Client(server.address, timeout_s=5) as client:
        calls = [(connection, connection.begin(SEARCH)) for connection in slow for _ in range(2)]
        for connection, call in calls:
            if sends != "headers":
                connection.send(call, framed(b"\n", size=4_000_000))

        def trickle() -> None:
            while not stopped.wait(0.1):
                for connection, call in calls:
                    connection.send(call, b"x" * 1000)

        trickling = threading.Thread(target=trickle)
        if sends == "a message bit by bit":
            trickling.start()
        time.sleep(1)
        for query in queries[:20]:
            assert len(client.search(png(query)).hits) == 5
        stopped.set()
        if trickling.ident:
            trickling.join()


def test_a_slow_upload_is_answered_once_it_has_arrived(server: Server, queries: list[Image.Image]) -> None:
    request = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=png(queries[0]))).SerializeToString()
    content = framed(request)
    with RawClient(server.address) as client:
        call = client.begin(SEARCH)
        for position in range(len(content) - 3, len(content), 1):
            start = 0 if position == len(content) - 3 else position
            client.send(call, content[start : position + 1])
            time.sleep(0.1)
        client.send(call, b"", end=True)
        assert [answer[b"grpc-status"] for answer in client.answers(1)] == [b"0"]


def test_the_upload_that_has_waited_longest_makes_room(
    server: Server, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_MAX_SLOW", 3)
    with clients(server.address, 5) as slow:
        for connection in slow:
            connection.begin(SEARCH)
            time.sleep(0.15)
        for connection in slow[:2]:
            connection.answers(1)
        assert not any(trailers(connection.receive(0.1)) for connection in slow[2:])


def test_an_upload_has_a_limited_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_MAX_TRANSFER_S", 0.5)
    with RawClient(server.address) as client:
        client.begin(SEARCH)
        assert client.answers(1)[0][b"grpc-status"] == b"1"


@pytest.mark.parametrize("method", [CHECK, WATCH])
def test_health_is_answered_beside_health_checks_that_do_not_arrive(
    server: Server, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_MAX_HEALTH_TRANSFER_S", 60)  # longer than the client waits
    with clients(server.address, 5) as silent:
        for connection in silent:
            for _ in range(8):
                connection.begin(method)
        with Client(server.address, timeout_s=10) as client:
            for _ in range(5):
                client.check_health("liveness")
        time.sleep(1)
        with Client(server.address, timeout_s=10) as client:
            client.check_health("liveness")


def test_a_health_check_that_is_slow_to_arrive_is_answered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_MAX_HEALTH_TRANSFER_S", 20)
    with RawClient(server.address) as slow:
        call = slow.begin(CHECK)
        time.sleep(0.3)
        slow.send(call, framed(b""), end=True)
        assert slow.answers(1)[0][b"grpc-status"] == b"0"
        monkeypatch.setattr(pools, "_MAX_HEALTH_TRANSFER_S", 0.5)
        slow.begin(CHECK)
        assert slow.answers(1)[0][b"grpc-status"] == b"1"


def test_health_is_answered_beside_watchers_that_read_nothing(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(6):
            connection = stack.enter_context(RawClient(server.address, window=0))
            for _ in range(8):
                connection.call(WATCH, b"")
        time.sleep(0.3)
        with Client(server.address, timeout_s=10) as client:
            client.check_health("liveness")
            client.check_health()


def test_health_is_watched_until_the_end(store: Store, encoder: Encoder) -> None:
    with Server(store, encoder) as server:
        channel = grpc.insecure_channel(server.address)
        health: Any = health_pb2_grpc.HealthStub(channel)
        seen = iter(health.Watch(health_pb2.HealthCheckRequest(), timeout=20))
        assert next(seen).status == health_pb2.HealthCheckResponse.SERVING
        server._health.enter_shutdown()
        assert next(seen).status == health_pb2.HealthCheckResponse.NOT_SERVING
    channel.close()


def test_health_is_listed(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        statuses = stub.List(health_pb2.HealthListRequest()).statuses  # type: ignore[attr-defined]
    assert {"", "liveness", "encoder_service.v1.SearchService"} <= set(statuses)
    assert {status.status for status in statuses.values()} == {health_pb2.HealthCheckResponse.SERVING}


@pytest.fixture(scope="module")
def letters() -> bytes:
    """A health request of 60 MB."""
    return b"\x0a\x80\x8e\xce\x1c" + b"a" * 60_000_000


def test_large_health_requests_take_little_memory(store: Store, tmp_path: Path, letters: bytes) -> None:
    """Sixteen requests of 60 MB, without a token, plain and compressed. Two at a time may be in memory, each twice."""
    (tmp_path / "tokens").write_text("read sesame")
    compressed = gzip.compress(letters)
    with process(store, "--tokens-file", str(tmp_path / "tokens")) as (address, service), ExitStack() as stack:
        peak_mb = base_mb = _resident_mb(service.pid)
        channels = [grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(2)]
        for channel in channels:
            stack.enter_context(channel)
        methods: list[Any] = [channel.unary_unary(CHECK) for channel in channels]
        calls = [method.future(letters) for method in methods * 8]
        for name in (CHECK, WATCH, "/grpc.health.v1.Health/List"):
            with RawClient(address) as client:
                client.send(client.begin(name, (b"grpc-encoding", b"gzip")), b"\1" + framed(compressed)[1:], end=True)
                assert client.answers(1)[0][b"grpc-status"] in (b"3", b"1")
        while not all(call.done() for call in calls):
            peak_mb = max(peak_mb, _resident_mb(service.pid))
            time.sleep(0.002)
        assert {call.code() for call in calls} <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED}
        with Client(address, timeout_s=2) as client_:
            client_.check_health("liveness")
        assert _resident_mb(service.pid) < base_mb + 5 * 64
    assert peak_mb < base_mb + 5 * 64


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_requests_may_be_compressed(server: Server, queries: list[Image.Image], compress: Any) -> None:
    request = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=png(queries[0]))).SerializeToString()
    encoding = b"gzip" if compress is gzip.compress else b"deflate"
    with RawClient(server.address) as client:
        for content, status in ((compress(request), b"0"), (compress(request)[:-9], b"3")):
            call = client.begin(SEARCH, (b"grpc-encoding", encoding))
            client.send(call, b"\1" + framed(content)[1:], end=True)
            assert client.answers(1)[0][b"grpc-status"] == status


def test_a_compressed_request_may_not_exceed_the_limit_of_its_rpc(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        for method, size in (("GalleryService/GetGallery", 100_000), ("SearchService/Search", 80_000_000)):
            call: Any = channel.unary_unary(f"/encoder_service.v1.{method}")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"\x0a" + b"\xff" * 3 + b"\x7f" + b"a" * size, compression=grpc.Compression.Gzip)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "request: expected at most" in str(refused.value.details())


def test_an_answer_that_is_not_read_has_a_limited_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Any = server._pools[0]
    with RawClient(server.address, window=10) as client:
        client.call(SEARCH, search_pb2.SearchRequest(key="digits/train/0").SerializeToString())
        eventually(lambda: bool(calls._unread))
        monkeypatch.setattr(pools, "_MAX_TRANSFER_S", 0.5)
        eventually(lambda: not calls._unread)


def test_answers_that_are_not_read_are_bounded_in_all(
    server: Server, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_MAX_BYTES", 2_000_000)
    monkeypatch.setattr(pools, "_MIN_UNREAD_S", 0.3)
    one = search_pb2.SearchRequest(key="digits/train/0", limit=1000, include_thumbnails=True)
    batch = search_pb2.BatchSearchRequest(requests=[one] * 10).SerializeToString()
    calls: Any = server._pools[0]
    with RawClient(server.address, window=10) as client:
        for _ in range(6):
            client.call(BATCH, batch)
            client.receive(0.4)
        assert 0 < calls._unread_bytes < 4_000_000
        with Client(server.address) as other:
            assert other.search(png(queries[0])).hits
    eventually(lambda: not calls._unread_bytes)


@pytest.mark.parametrize("method", [ENCODE_STREAM, REFLECTION])
def test_idle_streams_that_read_leave_room_for_others(server: Server, queries: list[Image.Image], method: str) -> None:
    with clients(server.address, 4) as idle:
        for connection in idle:
            for _ in range(8):
                connection.begin(method)
        time.sleep(0.2)
        with Client(server.address, timeout_s=5) as client:
            assert list(client.add([NewImage("new", png(queries[0]))], "digits")) == [False]


def test_an_idle_stream_makes_room_for_another(
    server: Server, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_MAX_IDLE_WHEN_FULL_S", 0.2)
    with clients(server.address, 2) as idle:
        for connection in idle:
            for _ in range(8):
                connection.begin(ADD)
        time.sleep(0.5)
        with Client(server.address) as client:
            assert list(client.add([NewImage("new", png(queries[0]))], "digits")) == [False]
            assert len(list(client.encode_stream(queries[:3]))) == 3


def test_a_stream_that_works_is_not_idle(
    server: Server, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_MAX_IDLE_S", 1.5)

    def slow() -> Iterator[Image.Image]:
        for query in queries[:8]:
            time.sleep(0.25)
            yield query

    with Client(server.address) as client:
        assert len(list(client.encode_stream(slow()))) == 8
    with RawClient(server.address) as idle:
        idle.begin(ENCODE_STREAM)
        assert idle.answers(1)[0][b"grpc-status"] == b"1"


def test_a_burst_of_as_many_calls_as_are_allowed_is_answered(
    server: Server, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "_MAX_CROWDED_S", 20)  # a busy machine is not to be taken for an overloaded service
    request = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=png(queries[0])))
    for connections in (4, 8, 32):
        with ExitStack() as stack:
            channels = [
                stack.enter_context(grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]))
                for _ in range(connections)
            ]
            for channel in channels:
                grpc.channel_ready_future(channel).result(10)
            stubs = [search_pb2_grpc.SearchServiceStub(channel) for channel in channels]
            for _ in range(5):
                calls = [stubs[index % connections].Search.future(request) for index in range(32)]
                assert {call.code() for call in calls} == {grpc.StatusCode.OK}
                time.sleep(0.2)


def test_batches_of_large_images_let_others_search(server: Server, queries: list[Image.Image]) -> None:
    flat = png(Image.new("L", (1200, 1200)))
    batch = search_pb2.BatchSearchRequest(
        requests=[search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=flat))] * 32
    )
    with grpc.insecure_channel(server.address) as channel, Client(server.address) as client:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        begun = time.monotonic()
        batches = [stub.BatchSearch.future(batch) for _ in range(4)]
        time.sleep(0.2)
        took = []
        while not any(call.done() for call in batches):
            start = time.monotonic()
            assert client.search(png(queries[0])).hits
            took.append(time.monotonic() - start)
        for call in batches:
            assert len(call.result().responses) == 32
        assert len(took) > 3
        assert sorted(took)[len(took) // 2] < (time.monotonic() - begun) / 3


def test_a_key_that_is_long_in_utf8_is_not_found(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        for key in ("\U0001f600" * 1024, "é" * 1024, "%" * 1024, "a" * 1024):
            with pytest.raises(grpc.RpcError) as refused:
                search_pb2_grpc.SearchServiceStub(channel).Search(search_pb2.SearchRequest(key=key))
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            assert "no image '" in str(refused.value.details())


def test_the_service_is_reached_over_ipv6_and_unix_sockets(
    store: Store, encoder: Encoder, queries: list[Image.Image], tmp_path: Path
) -> None:
    for host in ("::1", "[::1]", "localhost", f"unix:{tmp_path}/socket"):
        with Server(store, encoder, Config(host=host, port=0, metrics_host="[::1]", metrics_port=0)) as server:
            with Client(server.address) as client:
                assert client.search(png(queries[0])).hits
            assert server.address == host if host.startswith("unix:") else server.address.count("[") <= 1


@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
def test_a_name_is_served_on_all_its_addresses_or_not_at_all(
    store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    def both(host: str, port: int, **named: Any) -> list[Any]:
        return [(family, 1, 6, "", (address, port)) for family, address in families.items()]

    families = {socket.AF_INET6: "::1", socket.AF_INET: "127.0.0.1"}
    monkeypatch.setattr("encoder_service.rpc.addresses.socket.getaddrinfo", both)
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.create_server((taken, 0), family=family) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServiceError, match=f"can't listen on .*:{port}: choose another --port"):
            Server(store, encoder, Config(host="localhost", port=port))
    with Server(store, encoder, Config(host="localhost", port=0)) as server:
        for address in (f"127.0.0.1:{server.port}", f"[::1]:{server.port}"):
            with Client(address) as client:
                client.check_health()


def test_the_metrics_are_read_beside_connections_that_send_nothing(store: Store, encoder: Encoder) -> None:
    with Server(store, encoder, Config(port=0, metrics_port=0)) as server, ExitStack() as stack:
        before = threading.active_count()
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", server.metrics_port))) for _ in range(40)]
        for connection in silent:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n")
        time.sleep(0.3)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=5) as answer:
            assert b"lookalike_encoder_info" in answer.read()
        assert threading.active_count() < before + 12


def test_a_collector_that_does_not_answer_does_not_delay_the_end(
    store: Store, encoder: Encoder, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with Server(store, encoder, Config(port=0, traces=True)) as server, Client(server.address) as client:
            client.search(png(queries[0]))
            begun = time.monotonic()
        assert time.monotonic() - begun < 4
