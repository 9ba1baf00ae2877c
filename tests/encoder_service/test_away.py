"""What a service says and does while its store does not answer, and when nobody waits for an answer."""

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from encoder_service import images
from encoder_service.client import Client
from encoder_service.rpc.server import SERVICES, Server
from encoder_service.v1 import encoder_pb2, search_pb2, search_pb2_grpc
from gallery import Store
from gallery.edge.shard import EdgeGallery
from gallery.errors import LookalikeError, StoreUnreachableError
from tests.commands import Command
from tests.digits import png

ENCODER, SEARCH, GALLERY = SERVICES


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_health_tells_that_the_store_is_away_and_calls_fail_at_once_until_it_is_back(
    server: Server, store: Store, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    with grpc.insecure_channel(server.address) as channel, Client(server.address) as client:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        def ready() -> dict[str, bool]:
            names = ("", ENCODER, SEARCH, GALLERY, "liveness")
            found = {name: stub.Check(health_pb2.HealthCheckRequest(service=name)).status for name in names}
            return {name: status == health_pb2.HealthCheckResponse.SERVING for name, status in found.items()}

        assert all(ready().values())

        def check(self: Store) -> None:
            raise StoreUnreachableError("no server there")

        monkeypatch.setattr(type(store), "check", check)
        eventually(lambda: not ready()[""])
        assert ready() == {"": False, ENCODER: True, SEARCH: False, GALLERY: False, "liveness": True}
        assert command("encoder-service", "health", "--address", server.address).returncode == 5
        assert command("encoder-service", "health", "--live", "--address", server.address).stdout == "alive\n"
        reached: list[object] = []
        monkeypatch.setattr(EdgeGallery, "search_batch", lambda self, asked: reached.append(asked))
        for call in (lambda: client.search(png(queries[0])), client.galleries, lambda: client.delete(["k"])):
            with pytest.raises(LookalikeError, match="UNAVAILABLE: No server answers where the store should be"):
                call()
        assert reached == []
        assert client.encode(png(queries[0])).shape == (128,)
        monkeypatch.undo()
        eventually(lambda: all(ready().values()))
        assert client.search(png(queries[0])).hits


@pytest.mark.parametrize("ends", ["cancelled", "timed out"])
def test_a_call_that_nobody_waits_for_is_not_worked_on_further(
    server: Server, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    begun, free, decoded, searched = threading.Event(), threading.Event(), [], []
    decode = images.decode

    def slow(data: bytes) -> Image.Image:
        decoded.append(data)
        begun.set()
        free.wait(20)
        return decode(data)

    monkeypatch.setattr(images, "decode", slow)
    monkeypatch.setattr(EdgeGallery, "search_batch", lambda self, asked: searched.append(asked))
    picture = search_pb2.SearchRequest(image=encoder_pb2.Image(encoded=png(queries[0])))
    with grpc.insecure_channel(server.address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        request = search_pb2.BatchSearchRequest(requests=[picture] * 9)
        call = stub.BatchSearch.future(request, timeout=0.5 if ends == "timed out" else 30)
        assert begun.wait(20)
        if ends == "cancelled":
            call.cancel()
        eventually(call.done)
        time.sleep(0.2)  # until the service has heard of it
        free.set()
    server.stop()
    assert len(decoded) == 1
    assert searched == []
