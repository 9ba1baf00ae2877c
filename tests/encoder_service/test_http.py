"""The RPCs over HTTP, from a real socket: JSON, protobuf, errors, limits, tokens, TLS, and the end of the service."""

import base64
import gzip
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.http import connections
from encoder_service.http.app import PAGE
from encoder_service.rpc import pools
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.searcher import Key
from encoder_service.v1 import gallery_pb2, search_pb2
from gallery import Store, open_store
from gallery.edge.shard import EdgeGallery
from gallery.errors import InvalidInputError, LookalikeError
from tests.commands import BIN
from tests.digits import png
from tests.waiting import eventually

SEARCH = "/encoder_service.v1.SearchService/Search"
DELETE = "/encoder_service.v1.GalleryService/DeleteImages"
ENCODE = "/encoder_service.v1.EncoderService/Encode"
GET_IMAGES = "/encoder_service.v1.GalleryService/GetImages"
LIST = "/encoder_service.v1.GalleryService/ListGalleries"


def serve(store: Store, encoder: Encoder, **settings: Any) -> Server:
    return Server(store, encoder, Config(port=0, http_port=0, **settings))


@pytest.fixture(scope="module")
def server(built: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service whose gallery tests only read."""
    folder = tmp_path_factory.mktemp("http") / "store"
    shutil.copytree(built, folder)
    with serve(open_store(f"edge:{folder}"), encoder, metrics_port=0) as server:
        yield server


def connect(server: Server, **settings: Any) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{server.http_port}", timeout=60, **settings)


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with connect(server) as http:
        yield http


def encoded(image: Image.Image) -> dict[str, Any]:
    return {"image": {"encoded": base64.b64encode(png(image)).decode()}}


def error(response: httpx.Response) -> tuple[int, str, str]:
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert set(content) == {"code", "message"}
    return response.status_code, content["code"], content["message"]


def test_json_and_protobuf_find_the_same_hits_as_grpc(
    server: Server, http: httpx.Client, queries: list[Image.Image]
) -> None:
    with Client(server.address) as client:
        expected: Any = [(hit.key, pytest.approx(hit.distance)) for hit in client.search(png(queries[0])).hits]
    by_json = http.post(SEARCH, json=encoded(queries[0])).json()
    assert [(hit["key"], hit["distance"]) for hit in by_json["hits"]] == expected
    message = search_pb2.SearchRequest()
    message.image.encoded = png(queries[0])
    for content, headers in (
        (message.SerializeToString(), {}),
        (gzip.compress(message.SerializeToString()), {"content-encoding": "gzip"}),
    ):
        response = http.post(SEARCH, content=content, headers={"content-type": "application/proto", **headers})
        by_proto = search_pb2.SearchResponse.FromString(response.content)
        assert [(hit.key, hit.distance) for hit in by_proto.hits] == expected


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_lines_of_the_documentation_work(server: Server) -> None:
    text = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    script = "".join(part.split("```")[0] for part in text.split("```sh\n")[1:3])
    script = script.replace("127.0.0.1:8080", f"127.0.0.1:{server.http_port}")
    script = script.replace("mnist/train/", "digits/train/").replace('"mnist"', '"digits"')
    script = script.replace("%22mnist%22", "%22digits%22")
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == script.count("curl")
    assert not any("code" in answer and "message" in answer for answer in answers)


@pytest.mark.parametrize(
    ("path", "request_", "expected"),
    [
        (SEARCH, {"json": {"key": "missing"}}, (404, "not_found", "no image 'missing' in gallery 'digits'")),
        (SEARCH, {"json": {}}, (400, "invalid_argument", "query: expected `image`, `code` or `key`, got none")),
        (SEARCH, {"json": {"galery": "x"}}, (400, "invalid_argument", 'has no field named "galery"')),
        (SEARCH, {"json": ["x"]}, (400, "invalid_argument", "request: expected JSON of a SearchRequest")),
        (SEARCH, {"content": b"\xff"}, (400, "invalid_argument", "request: expected JSON of a SearchRequest")),
        (SEARCH, {"content": b"[" * 50_000}, (400, "invalid_argument", "request: expected JSON of a SearchRequest")),
        (SEARCH, {"content": b"\x1f\x8bx"}, (400, "invalid_argument", "request: expected a whole compressed")),
        (LIST, {"content": b" " * 100_000}, (400, "invalid_argument", "request: expected at most 65,536 bytes")),
        ("/a.B/C", {"json": {}}, (404, "unimplemented", "expected the path of an RPC")),
        (LIST.replace("List", "Add"), {"json": {}}, (404, "unimplemented", "expected the path of an RPC")),
        ("/encoder_service.v1.GalleryService/AddImages", {"json": {}}, (501, "unimplemented", "call it over gRPC")),
    ],
)
def test_errors_have_the_codes_and_words_of_grpc(
    http: httpx.Client, path: str, request_: dict[str, Any], expected: tuple[int, str, str]
) -> None:
    status, code, message = error(http.post(path, headers={"content-type": "application/json"}, **request_))
    assert (status, code) == expected[:2]
    assert expected[2] in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("method", "headers", "status", "header"),
    [
        ("PUT", {}, 405, "allow"),
        ("GET", {}, 415, "accept-post"),
        ("POST", {"content-type": "text/plain"}, 415, "accept-post"),
        ("POST", {"content-type": "application/json", "content-encoding": "br"}, 501, "accept-encoding"),
        ("POST", {"content-type": "application/json", "connect-timeout-ms": "soon"}, 400, "content-type"),
    ],
)
def test_requests_that_are_not_of_the_protocol_are_rejected(
    http: httpx.Client, method: str, headers: dict[str, str], status: int, header: str
) -> None:
    response = http.request(method, SEARCH, headers=headers)
    assert error(response)[0] == status
    assert header in response.headers


def test_a_call_that_only_reads_can_be_a_get(http: httpx.Client, queries: list[Image.Image]) -> None:
    request = search_pb2.SearchRequest(limit=3, include_code=True)
    request.image.encoded = png(queries[0])
    by_post = http.post(SEARCH, json={**encoded(queries[0]), "limit": 3, "includeCode": True}).json()
    content = request.SerializeToString()
    for message, more in (
        (content, {}),
        (base64.urlsafe_b64encode(content), {"base64": "1"}),
        (base64.urlsafe_b64encode(content).rstrip(b"="), {"base64": "1"}),
        (base64.urlsafe_b64encode(gzip.compress(content)), {"base64": "1", "compression": "gzip"}),
    ):
        query = urllib.parse.urlencode({"connect": "v1", "encoding": "proto", "message": message, **more})
        response = http.get(f"{SEARCH}?{query}")
        assert response.headers["content-type"] == "application/proto"
        hits = search_pb2.SearchResponse.FromString(response.content).hits
        assert [hit.key for hit in hits] == [hit["key"] for hit in by_post["hits"]]
    parameters = {"encoding": "json", "message": json.dumps({"key": "digits/train/0", "limit": 3})}
    assert len(http.get(SEARCH, params=parameters).json()["hits"]) == 3
    expected = (404, "not_found", "no image 'hübsch' in gallery 'digits'")
    assert error(http.get(SEARCH, params={**parameters, "message": '{"key": "hübsch"}'})) == expected
    assert error(http.get(SEARCH, params=parameters, headers={"connect-timeout-ms": "0"}))[0] == 504


@pytest.mark.parametrize(
    ("path", "parameters", "expected"),
    [
        (DELETE, {}, (405, "unimplemented", "expected POST, got GET")),
        (SEARCH, {"encoding": "xml"}, (415, "unimplemented", "expected encoding=json or encoding=proto")),
        (SEARCH, {"connect": "v2"}, (400, "invalid_argument", "expected connect=v1")),
        (SEARCH, {"base64": "yes"}, (400, "invalid_argument", "expected base64=1")),
        (SEARCH, {"base64": "1"}, (400, "invalid_argument", "message: expected URL-safe base64, as base64=1 says")),
        (SEARCH, {"compression": "br"}, (501, "unimplemented", "expected the compression identity or gzip")),
    ],
)
def test_a_get_that_is_not_of_the_protocol_is_rejected(
    http: httpx.Client, path: str, parameters: dict[str, str], expected: tuple[int, str, str]
) -> None:
    assert error(http.get(path, params={"encoding": "json", "message": "{}", **parameters})) == expected


def test_a_get_without_a_message_or_by_another_page_is_rejected(http: httpx.Client) -> None:
    assert error(http.get(LIST, params={"encoding": "json"}))[:2] == (400, "invalid_argument")
    parameters = {"encoding": "json", "message": "{}"}
    for site, status in (("none", 200), ("same-origin", 200), ("same-site", 403), ("cross-site", 403)):
        assert http.get(LIST, params=parameters, headers={"sec-fetch-site": site}).status_code == status


def test_a_search_returns_the_query_as_the_encoder_saw_it(server: Server, http: httpx.Client) -> None:
    large = Image.new("L", (200, 100), 255)
    large.paste(0, (140, 20, 150, 80))  # a one, dark on light
    answer = http.post(SEARCH, json={**encoded(large), "includeReconstruction": True}).json()
    assert answer["prepared"]
    for field in ("inputPng", "reconstructionPng"):
        content = base64.b64decode(answer[field])
        assert content[:4] == b"\x89PNG"
    by_key = http.post(SEARCH, json={"key": "digits/train/0", "includeReconstruction": True}).json()
    assert "reconstructionPng" in by_key
    assert "inputPng" not in by_key
    assert not {"inputPng", "reconstructionPng"} & set(http.post(SEARCH, json=encoded(large)).json())
    with Client(server.address) as client:
        assert client.search(large, with_reconstruction=True).input_png == base64.b64decode(answer["inputPng"])


def test_stored_images_are_returned_by_key(http: httpx.Client) -> None:
    keys = ["digits/train/1", "nothing", "digits/train/0"]
    images = http.post(GET_IMAGES, json={"keys": keys}).json()["images"]
    assert [image["key"] for image in images] == ["digits/train/1", "digits/train/0"]
    assert all(image["label"] and image["thumbnailPng"] for image in images)
    assert http.post(GET_IMAGES, json={}).json() == {}
    status, code, message = error(http.post(GET_IMAGES, json={"keys": ["k"] * 1001}))
    assert (status, code, message) == (400, "invalid_argument", "keys: expected at most 1,000, got 1,001")


def test_a_search_returns_the_query_s_code_if_it_is_asked_to(http: httpx.Client, queries: list[Image.Image]) -> None:
    code = http.post(SEARCH, json={**encoded(queries[0]), "asIs": True, "includeCode": True}).json()["code"]
    assert code == http.post(ENCODE, json=encoded(queries[0])).json()["code"]
    assert "code" not in http.post(SEARCH, json=encoded(queries[0])).json()


def test_a_gallery_says_when_it_was_published(http: httpx.Client) -> None:
    gallery = http.post(LIST, json={}).json()["galleries"][0]
    assert (gallery["name"], gallery["imageCount"]) == ("digits", "400")
    assert time.strptime(gallery["publishedAt"], "%Y-%m-%dT%H:%M:%SZ")


def test_a_call_has_a_request_id_and_is_counted(server: Server, http: httpx.Client) -> None:
    assert http.post(LIST, json={}, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    metrics = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics").text
    assert 'lookalike_calls_total{method="ListGalleries",status="OK"}' in metrics


def test_tokens_and_their_roles_hold_for_http(store: Store, encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("read sesame\nwrite open-wide\n")
    with serve(store, encoder, tokens_file=tmp_path / "tokens") as server, connect(server) as http:
        assert error(http.post(LIST, json={}))[:2] == (401, "unauthenticated")
        reader, writer = ({"authorization": f"Bearer {token}"} for token in ("sesame", "open-wide"))
        assert http.post(LIST, json={}, headers=reader).status_code == 200
        assert error(http.post(DELETE, json={"keys": ["x"]}, headers=reader))[:2] == (403, "permission_denied")
        assert http.post(DELETE, json={"keys": ["digits/train/0"]}, headers=writer).json() == {"deletedCount": 1}
        assert http.get("/").status_code == 200  # the page itself asks for the token


def test_https_serves_with_the_same_certificate_and_follows_its_change(
    store: Store, encoder: Encoder, tmp_path: Path
) -> None:
    first, second = trustme.CA(), trustme.CA()

    def issue(authority: trustme.CA) -> dict[str, Any]:
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
        return {"tls_cert_file": tmp_path / "cert.pem", "tls_key_file": tmp_path / "key.pem"}

    def trusting(authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    with serve(store, encoder, host="localhost", **issue(first)) as server:
        url = f"https://localhost:{server.http_port}{LIST}"
        assert httpx.post(url, json={}, verify=trusting(first)).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.post(url, json={}, verify=trusting(second))
        issue(second)
        assert httpx.post(url, json={}, verify=trusting(second)).status_code == 200


def test_a_client_without_a_certificate_is_rejected_under_mutual_tls(
    store: Store, encoder: Encoder, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = {"tls_cert_file": tmp_path / "both.pem", "tls_key_file": tmp_path / "both.pem"}
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serve(store, encoder, host="localhost", tls_client_ca_file=tmp_path / "ca.pem", **tls) as server:
        url = f"https://localhost:{server.http_port}{LIST}"
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError)):
            httpx.post(url, json={}, verify=context)
        certificate.configure_cert(context)
        assert httpx.post(url, json={}, verify=context).status_code == 200


def test_a_web_page_of_another_origin_or_name_is_kept_out(store: Store, encoder: Encoder) -> None:
    preflight = {"origin": "https://example.org", "access-control-request-method": "POST"}
    with serve(store, encoder) as server, connect(server) as http:
        assert "access-control-allow-origin" not in http.options(SEARCH, headers=preflight).headers
        for host in ("example.org", "[", "localhost:x", ""):
            assert http.post(LIST, json={}, headers={"host": host}).status_code == 400
        assert http.post(LIST, json={}, headers={"host": f"localhost:{server.http_port}"}).status_code == 200
    with serve(store, encoder, http_origin="https://example.org") as server, connect(server) as http:
        headers = http.options(SEARCH, headers=preflight).headers
        assert headers["access-control-allow-origin"] == "https://example.org"
        other = http.options(SEARCH, headers={**preflight, "origin": "https://example.com"}).headers
        assert "access-control-allow-origin" not in other


def test_the_page_may_load_from_its_own_service_only(http: httpx.Client) -> None:
    response = http.get("/")
    assert "<title>Lookalike</title>" in response.text
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert http.get("/page.js").status_code == http.get("/page.css").status_code == 200
    assert http.get("/../server.py").status_code == http.get("/%2e%2e/server.py").status_code == 404


def test_the_page_is_small() -> None:
    built = [file.read_bytes() for file in PAGE.iterdir()]
    assert sum(len(gzip.compress(content)) for content in built) < 150_000


def hold_searches(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Semaphore]:
    """Keep searches waiting until the event is set. Return it with a semaphore that counts those begun."""
    free, begun = threading.Event(), threading.Semaphore(0)
    original = EdgeGallery.search_batch

    def wait(self: EdgeGallery, queries: Any) -> Any:
        begun.release()
        return free.wait(60) and original(self, queries)

    monkeypatch.setattr(EdgeGallery, "search_batch", wait)
    return free, begun


def test_grpc_and_http_share_one_limit_of_calls(
    store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, begun = hold_searches(monkeypatch)
    key = {"key": "digits/train/0"}
    statuses = []

    def by_http(server: Server) -> None:
        with connect(server) as http:
            statuses.append(http.post(SEARCH, json=key).status_code)

    def by_grpc(server: Server) -> None:
        with Client(server.address) as client:
            client.search(Key("digits/train/0"))

    with serve(store, encoder, max_concurrent_calls=2, metrics_port=0) as server, connect(server) as http:
        busy = [threading.Thread(target=target, args=(server,)) for target in (by_http, by_grpc)]
        for thread in busy:
            thread.start()
        assert begun.acquire(timeout=20)
        metrics = f"http://127.0.0.1:{server.metrics_port}/metrics"
        while 'lookalike_calls_under_way{kind="call"} 2.0' not in httpx.get(metrics).text:
            time.sleep(0.02)
        response = http.post(SEARCH, json=key)
        assert error(response)[:2] == (429, "resource_exhausted")
        assert response.headers["retry-after"] == "1"
        free.set()
        for thread in busy:
            thread.join()
        assert statuses == [200]
        # a call is counted until shortly after its answer
        eventually(lambda: http.post(SEARCH, json=key).status_code == 200)


def test_a_call_ends_at_its_deadline(server: Server, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    free, _ = hold_searches(monkeypatch)
    begun = time.monotonic()
    response = http.post(SEARCH, json={"key": "digits/train/0"}, headers={"connect-timeout-ms": "100"})
    assert error(response)[:2] == (504, "deadline_exceeded")
    assert time.monotonic() - begun < 5
    free.set()
    assert error(http.post(LIST, json={}, headers={"connect-timeout-ms": "0"}))[:2] == (504, "deadline_exceeded")


def opened(server: Server, headers: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.http_port), timeout=10)
    connection.sendall(headers.encode())
    return connection


def received(connection: socket.socket) -> bytes:
    """Return an answer of JSON."""
    content = b""
    while not content.endswith(b"}"):
        part = connection.recv(1000)
        assert part
        content += part
    return content


def test_clients_that_are_slow_or_idle_are_ended(
    store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_MAX_TRANSFER_S", 0.3)
    monkeypatch.setattr(connections, "_MAX_IDLE_S", 0.3)
    monkeypatch.setattr(connections, "_CHECK_S", 0.1)
    begin = f"POST {SEARCH} HTTP/1.1\r\nhost: localhost\r\n"
    with serve(store, encoder) as server:
        with opened(server, f"{begin}content-type: application/json\r\ncontent-length: 50\r\n\r\n") as slow:
            answer = received(slow)
            assert b"499" in answer.splitlines()[0]
            assert b'"canceled"' in answer
        with opened(server, begin) as slow:
            assert slow.recv(1000) == b""
        with opened(server, "") as idle:
            assert idle.recv(1000) == b""
        assert not any(pool.in_flight for pool in server._pools)


def test_a_new_connection_ends_the_one_idle_longest(
    store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_MAX_CONNECTIONS", 2)
    with serve(store, encoder) as server:
        first, second = opened(server, ""), opened(server, "")
        with connect(server) as http:
            assert http.post(LIST, json={}).status_code == 200
        assert first.recv(1000) == b""
        first.close()
        second.close()


def test_a_client_that_leaves_frees_its_place(store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    free, begun = hold_searches(monkeypatch)
    body = json.dumps({"key": "digits/train/0"})
    headers = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with serve(store, encoder, max_concurrent_calls=1) as server, connect(server) as http:
        with opened(server, f"POST {SEARCH} HTTP/1.1\r\n{headers}{body}"):
            assert begun.acquire(timeout=20)
        free.set()
        ends = time.monotonic() + 20
        while (status := http.post(LIST, json={}).status_code) != 200 and time.monotonic() < ends:
            time.sleep(0.02)
        assert status == 200


def test_a_stopping_server_lets_calls_finish_and_accepts_no_more(
    store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, begun = hold_searches(monkeypatch)
    answers = []

    def search(server: Server) -> None:
        with connect(server) as http:
            answers.append(http.post(SEARCH, json={"key": "digits/train/0"}))

    with serve(store, encoder) as server:
        caller = threading.Thread(target=search, args=(server,))
        caller.start()
        assert begun.acquire(timeout=20)
        threading.Timer(0.3, free.set).start()
    caller.join()
    assert answers[0].status_code == 200
    with connect(server) as http, pytest.raises(httpx.ConnectError):
        http.post(LIST, json={})
    serve(store, encoder).stop()


def test_a_call_is_cancelled_if_the_server_can_not_wait(
    store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(store, encoder) as server:
        headers = "host: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n"
        with opened(server, f"POST {SEARCH} HTTP/1.1\r\n{headers}") as slow:
            eventually(lambda: any(pool.in_flight for pool in server._pools))
            begun = time.monotonic()
            server.stop(grace_s=0.1)
            assert time.monotonic() - begun < 5
            assert b'"unavailable"' in received(slow)


def test_the_command_prints_the_address_of_the_page_and_ends_with_a_signal(store: Store) -> None:
    command: list[str | Path] = [
        BIN / "encoder-service",
        "serve",
        "--port",
        "0",
        "--http-port",
        "0",
        "--store",
        store.url,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stderr is not None
        try:
            assert service.stdout.readline().startswith("serving on 127.0.0.1:")
            line = service.stdout.readline()
            assert line.startswith("page on http://127.0.0.1:")
            with httpx.Client(base_url=line.split()[-1], timeout=60) as http:
                assert "Lookalike" in http.get("/").text
                assert http.post(SEARCH, json={"key": "digits/train/0"}).status_code == 200
                service.send_signal(signal.SIGTERM)  # while the connection is open
                assert service.wait(60) == 0
            assert service.stderr.read() == ""
        finally:
            service.kill()


def test_a_port_in_use_is_one_clear_error(store: Store, encoder: Encoder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LookalikeError, match=f"can't listen on 127.0.0.1, port {port}, for HTTP: .*--http-port"):
            Server(store, encoder, Config(port=0, http_port=port))
    with pytest.raises(InvalidInputError, match="--http-port: expected --host to be a name or an address"):
        Config(host="unix:/tmp/socket", http_port=0)


def test_large_answers_arrive_whole(http: httpx.Client) -> None:
    message = search_pb2.SearchRequest(key="digits/train/0", limit=1000, include_thumbnails=True)
    response = http.post(SEARCH, content=message.SerializeToString(), headers={"content-type": "application/proto"})
    assert len(search_pb2.SearchResponse.FromString(response.content).hits) == 399
    assert gallery_pb2.ListGalleriesResponse.FromString(
        http.post(LIST, content=b"", headers={"content-type": "application/proto"}).content
    ).galleries
