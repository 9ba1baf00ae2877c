"""The service while its store is unavailable, and calls whose caller has gone."""

import threading
import time
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from encoder_service import images
from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.rpc.server import SERVICES, Server
from encoder_service.v1 import encoder_pb2, search_pb2, search_pb2_grpc
from gallery import Store
from gallery.edge.shard import EdgeGallery
from gallery.errors import StoreUnreachableError, UnavailableError
from tests.commands import Command
from tests.digits import png
from tests.waiting import eventually

ENCODER, SEARCH, GALLERY = SERVICES


def test_health_reports_that_the_store_is_unavailable_and_calls_fail_at_once_until_it_is_back(
    server: Server, store: Store, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    with grpc.insecure_channel(server.address) as channel, Client(server.address) as client:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        def ready() -> dict[str, bool]:
            names = ("", ENCODER, SEARCH, GALLERY, "liveness")
            statuses = {name: stub.Check(health_pb2.HealthCheckRequest(service=name)).status for name in names}
            return {name: status == health_pb2.HealthCheckResponse.SERVING for name, status in statuses.items()}

        assert all(ready().values())

        def check(self: Store) -> None:
            raise StoreUnreachableError("no answer", place="http://10.0.0.1:6333")

        monkeypatch.setattr(type(store), "check", check)
        eventually(lambda: not ready()[""])
        assert ready() == {"": False, ENCODER: True, SEARCH: False, GALLERY: False, "liveness": True}
        assert command("encoder-service", "health", "--address", server.address).returncode == 5
        assert command("encoder-service", "health", "--live", "--address", server.address).stdout == "alive\n"
        searches: list[object] = []
        monkeypatch.setattr(EdgeGallery, "search_batch", lambda self, queries: searches.append(queries))
        for call in (lambda: client.search(png(queries[0])), client.galleries, lambda: client.delete(["k"])):
            with pytest.raises(UnavailableError, match=StoreUnreachableError.summary) as raised:
                call()
            assert "10.0.0.1" not in str(raised.value)
        assert searches == []
        assert client.encode(png(queries[0])).shape == (128,)
        monkeypatch.undo()
        eventually(lambda: all(ready().values()))
        assert client.search(png(queries[0])).hits


@pytest.mark.parametrize("end", ["cancelled", "timed out"])
def test_a_call_whose_caller_has_gone_is_abandoned(
    store: Store, encoder: Encoder, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    begun, free, decoded, searches = threading.Event(), threading.Event(), [], []
    decode = images.decode

    def slow(data: bytes, header: Image.Image | None) -> Image.Image:
        decoded.append(data)
        begun.set()
        free.wait(20)
        return decode(data, header=header)

    monkeypatch.setattr(images, "decode", slow)
    monkeypatch.setattr(EdgeGallery, "search_batch", lambda self, queries: searches.append(queries))
    search = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=png(queries[0])))
    with Server(store, encoder) as server, grpc.insecure_channel(server.address) as channel:
        grpc.channel_ready_future(channel).result(20)
        stub = search_pb2_grpc.SearchServiceStub(channel)
        request = search_pb2.BatchSearchRequest(requests=[search] * 9)
        call = stub.BatchSearch.future(request, timeout=2 if end == "timed out" else 30)
        assert begun.wait(20)
        if end == "cancelled":
            call.cancel()
        eventually(call.done)
        time.sleep(1)  # until the service has noticed
        free.set()
    assert len(decoded) == 1
    assert searches == []
