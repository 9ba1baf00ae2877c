"""gRPC-Web over a real socket. The tests frame the messages themselves."""

import base64
import gzip
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from google.protobuf.message import Message
from PIL import Image

from encoder_service.encoder import Encoder
from encoder_service.limits import LIMITS
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.v1 import gallery_pb2, search_pb2
from gallery import Store, open_store
from tests.digits import png

SEARCH = "/encoder_service.v1.SearchService/Search"
LIST = "/encoder_service.v1.GalleryService/ListGalleries"
DELETE = "/encoder_service.v1.GalleryService/DeleteImages"
BINARY, TEXT = "application/grpc-web+proto", "application/grpc-web-text"
BY_KEY = search_pb2.SearchRequest(key="digits/train/0")
# gRPC statuses
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, PERMISSION_DENIED = 0, 3, 4, 5, 7
RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAUTHENTICATED = 8, 12, 16


@pytest.fixture(scope="module")
def http(built: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("grpc-web") / "store"
    shutil.copytree(built, folder)
    with Server(open_store(f"edge:{folder}"), encoder, Config(port=0, http_port=0)) as server, connect(server) as http:
        yield http


def connect(server: Server) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{server.http_port}", timeout=60)


class Reply(NamedTuple):
    status: int
    message: str
    content: bytes | None
    trailers: dict[str, str]


def frame(content: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(content).to_bytes(4, "big") + content


def post(http: httpx.Client, path: str, content: bytes, kind: str = BINARY, **headers: str) -> Reply:
    """Send the content as it is, and take the frames of the answer apart."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = http.post(path, content=content, headers={"content-type": kind, "x-grpc-web": "1", **named})
    assert response.status_code == 200
    assert response.headers["content-type"] == kind
    rest = base64.b64decode(response.content, validate=True) if "text" in kind else response.content
    frames = []
    while rest:
        size = int.from_bytes(rest[1:5], "big")
        frames.append((rest[0], rest[5 : 5 + size]))
        assert len(frames[-1][1]) == size
        rest = rest[5 + size :]
    *messages, (flags, last) = frames
    assert flags == 0x80
    assert [kind for kind, _ in messages] in ([], [0])
    trailers = dict(line.split(": ", 1) for line in last.decode("ascii").split("\r\n")[:-1])
    return Reply(
        int(trailers["grpc-status"]),
        urllib.parse.unquote(trailers["grpc-message"]),
        messages[0][1] if messages else None,
        trailers,
    )


def call(http: httpx.Client, path: str, request: Message, **headers: str) -> Reply:
    return post(http, path, frame(request.SerializeToString()), **headers)


def test_a_search_finds_the_same_hits_in_every_form(http: httpx.Client, queries: list[Image.Image]) -> None:
    request = search_pb2.SearchRequest()
    request.image.encoded = png(queries[0])
    content = request.SerializeToString()
    by_connect = http.post(SEARCH, content=content, headers={"content-type": "application/proto"}).content
    keys = [hit.key for hit in search_pb2.SearchResponse.FromString(by_connect).hits]
    assert keys
    for reply in (
        post(http, SEARCH, frame(content)),
        post(http, SEARCH, frame(content), "application/grpc-web"),
        post(http, SEARCH, base64.b64encode(frame(content)), TEXT),
        post(http, SEARCH, base64.b64encode(frame(content)), "application/grpc-web-text+proto"),
        post(http, SEARCH, frame(gzip.compress(content), 1), grpc_encoding="gzip", x_request_id="mine"),
    ):
        assert (reply.status, reply.message) == (OK, "")
        assert reply.content is not None
        assert [hit.key for hit in search_pb2.SearchResponse.FromString(reply.content).hits] == keys
    assert reply.trailers["x-request-id"] == "mine"


def test_an_empty_request_is_a_frame_without_a_message(http: httpx.Client) -> None:
    reply = post(http, LIST, b"\0\0\0\0\0")
    assert reply.content is not None
    assert [gallery.name for gallery in gallery_pb2.ListGalleriesResponse.FromString(reply.content).galleries] == [
        "digits"
    ]


def test_errors_are_those_of_grpc(http: httpx.Client) -> None:
    reply = call(http, SEARCH, search_pb2.SearchRequest(key="hübsch\n100 %"))
    assert (reply.status, reply.message) == (NOT_FOUND, "no image 'hübsch\n100 %' in gallery 'digits'")
    assert reply.content is None
    assert reply.trailers["x-request-id"]
    reply = post(http, SEARCH, frame(b"\xff"))
    assert (reply.status, reply.message[:37]) == (INVALID_ARGUMENT, "request: expected a protobuf message ")
    assert call(http, LIST.replace("List", "Add"), BY_KEY).status == UNIMPLEMENTED
    reply = call(http, "/encoder_service.v1.GalleryService/AddImages", BY_KEY)
    assert (reply.status, reply.message[-12:]) == (UNIMPLEMENTED, "it over gRPC")
    assert call(http, SEARCH, BY_KEY, grpc_encoding="br").status == UNIMPLEMENTED
    assert call(http, SEARCH, BY_KEY, grpc_timeout="soon").status == INVALID_ARGUMENT
    assert call(http, SEARCH, BY_KEY, grpc_timeout="1n").status == DEADLINE_EXCEEDED
    assert call(http, SEARCH, BY_KEY, grpc_timeout="1M").status == OK


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", BINARY),
        (b"\0\0\0", BINARY),
        (frame(b"", 0x80), BINARY),
        (frame(b"ab")[:-1], BINARY),
        (frame(b"") + frame(b""), BINARY),
        (frame(b""), TEXT),
        (b"AAAAA", TEXT),
    ],
    ids=["nothing", "no length", "trailers", "cut off", "two frames", "no base64", "base64 cut off"],
)
def test_a_request_that_is_not_one_frame_is_rejected(http: httpx.Client, content: bytes, kind: str) -> None:
    reply = post(http, LIST, content, kind)
    assert reply.status == INVALID_ARGUMENT
    assert reply.message.startswith("request: expected ")


@pytest.mark.parametrize("kind", [BINARY, TEXT])
def test_the_limits_of_sizes_are_those_of_the_rpcs(http: httpx.Client, kind: str) -> None:
    encode = base64.b64encode if kind == TEXT else bytes
    for size, path, limit in (
        (100_000, LIST, 65_536),
        (LIMITS.max_message_bytes + 100, SEARCH, LIMITS.max_message_bytes),
    ):
        reply = post(http, path, encode(frame(bytes(size))), kind)
        assert reply.status == INVALID_ARGUMENT
        assert reply.message.startswith(f"request: expected at most {limit:,} bytes for ")


def test_tokens_and_admission_are_those_of_the_service(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("read sesame\n")
    config = Config(port=0, http_port=0, tokens_file=tmp_path / "tokens")
    with Server(store, encoder, config) as server, connect(server) as http:
        assert call(http, SEARCH, BY_KEY).status == UNAUTHENTICATED
        assert call(http, SEARCH, BY_KEY, authorization="Bearer sesame").status == OK
        delete = gallery_pb2.DeleteImagesRequest(keys=["digits/train/0"])
        assert call(http, DELETE, delete, authorization="Bearer sesame").status == PERMISSION_DENIED
        for pool in server._pools:
            pool.admits = lambda method: False  # type: ignore[method-assign]
        reply = call(http, SEARCH, BY_KEY, authorization="Bearer sesame")
        assert (reply.status, reply.trailers["retry-after"]) == (RESOURCE_EXHAUSTED, "1")
