"""What a client meets when a Qdrant server can't be reached, hangs, is overloaded, or is no Qdrant at all."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from qdrant_client import grpc as qdrant

from gallery import Entry, GallerySpec, Query
from gallery.deadline import deadline
from gallery.errors import (
    GalleryNotFoundError,
    LookalikeError,
    StoreBusyError,
    StoreError,
    StoreRefusedError,
    StoreSlowError,
    StoreUnreachableError,
    TooLateError,
)
from gallery.remote.collection import RemoteGallery
from gallery.remote.connection import QdrantConnection

SPEC = GallerySpec("g", "seed", "f" * 64, 8, version=1)
QUERY = Query(np.zeros(8, np.float32))

Fault = Callable[[grpc.ServicerContext], bytes]


class Faulty(grpc.GenericRpcHandler):
    """Says that it is Qdrant, and answers each further call with the next fault; after the last, as Qdrant would."""

    version = "1.20.1"
    port = 0
    tls_port = 0
    authority = trustme.CA()
    server: grpc.Server
    refuses = False
    applied = qdrant.UpdateStatus.Completed
    times_left: tuple[float, ...] = ()
    faults: Sequence[Fault] = ()
    keys: tuple[str, ...] = ()

    def service(self, call: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        self.keys += tuple(str(value) for name, value in call.invocation_metadata if name == "api-key")

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if call.method.endswith("HealthCheck"):
                return qdrant.HealthCheckReply(title="qdrant", version=self.version).SerializeToString()
            if call.method.endswith("ListAliases"):
                if self.refuses:
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong key")
                return qdrant.ListAliasesResponse(time=0.1).SerializeToString()
            if call.method.endswith("Upsert"):
                self.times_left += (context.time_remaining(),)
                result = qdrant.UpdateResult(operation_id=1, status=self.applied)
                return qdrant.PointsOperationResponse(result=result, time=0.1).SerializeToString()
            if not self.faults:
                return qdrant.QueryResponse(time=0.1).SerializeToString()
            fault, *rest = self.faults
            self.faults = tuple(rest)
            return fault(context)

        return grpc.unary_unary_rpc_method_handler(answer)


def status(code: grpc.StatusCode, *metadata: tuple[str, str], says: str = "as the test wants it") -> Fault:
    def fail(context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata(metadata)
        context.abort(code, says)
        raise AssertionError

    return fail


def hang(context: grpc.ServicerContext) -> bytes:
    time.sleep(3)
    return b""


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    server = grpc.server(ThreadPoolExecutor(4))
    handler = Faulty()
    handler.server = server
    server.add_generic_rpc_handlers((handler,))
    handler.port = server.add_insecure_port("127.0.0.1:0")
    made = handler.authority.issue_cert("localhost")
    keys = (made.private_key_pem.bytes(), made.cert_chain_pems[0].bytes())
    handler.tls_port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([keys]))
    server.start()
    yield handler
    server.stop(0).wait()


@pytest.fixture
def url(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(faulty.port))
    return "http://127.0.0.1:6333"


@pytest.fixture
def gallery(url: str) -> RemoteGallery:
    return RemoteGallery(QdrantConnection.connect(url), "g@v1", SPEC)


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (status(grpc.StatusCode.UNAVAILABLE), StoreUnreachableError, "can't be reached .*: start it"),
        (status(grpc.StatusCode.RESOURCE_EXHAUSTED), StoreBusyError, "is overloaded"),
        (status(grpc.StatusCode.DEADLINE_EXCEEDED), StoreSlowError, "did not answer in time"),
        (status(grpc.StatusCode.UNAUTHENTICATED), StoreRefusedError, "refuses this client .*: set QDRANT_API_KEY"),
        (status(grpc.StatusCode.PERMISSION_DENIED), StoreRefusedError, "refuses this client"),
        (status(grpc.StatusCode.NOT_FOUND), GalleryNotFoundError, "as the test wants it"),
        (status(grpc.StatusCode.INTERNAL), StoreError, "INTERNAL: as the test wants it"),
        (lambda context: b"\xff\xff garbage", StoreError, "did not answer as Qdrant does"),
    ],
)
def test_each_failure_of_a_server_is_an_error_of_its_own(
    faulty: Faulty, gallery: RemoteGallery, fault: Fault, error: type[LookalikeError], says: str
) -> None:
    faulty.faults = (fault,) * 9
    with pytest.raises(error, match=says) as raised:
        gallery.search(QUERY)
    assert "\n" not in str(raised.value)


def test_a_server_that_is_away_for_a_moment_is_asked_again(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (status(grpc.StatusCode.UNAVAILABLE),) * 2
    assert gallery.search(QUERY) == []


def test_a_cluster_that_has_lost_a_node_and_asks_to_try_again_is_asked_again(
    faulty: Faulty, gallery: RemoteGallery
) -> None:
    lost = status(grpc.StatusCode.INTERNAL, says="Failed to apply operation to at least one replica. Please retry")
    faulty.faults = (lost, lost)
    assert gallery.search(QUERY) == []


def test_tries_are_bounded(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (status(grpc.StatusCode.UNAVAILABLE),) * 9
    with pytest.raises(StoreUnreachableError):
        gallery.search(QUERY)
    assert len(faulty.faults) == 9 - 4


def test_an_error_that_will_not_pass_is_not_tried_again(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (status(grpc.StatusCode.UNAUTHENTICATED), hang)
    with pytest.raises(StoreRefusedError):
        gallery.search(QUERY)
    assert list(faulty.faults) == [hang]


def test_a_server_is_given_the_time_that_it_asks_for(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (status(grpc.StatusCode.RESOURCE_EXHAUSTED, ("retry-after", "1")),)
    begun = time.monotonic()
    assert gallery.search(QUERY) == []
    assert time.monotonic() - begun >= 1


def test_no_wait_is_longer_than_the_caller_has(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (status(grpc.StatusCode.RESOURCE_EXHAUSTED, ("retry-after", "60")), hang)
    with deadline(1), pytest.raises(StoreBusyError, match=r"asks to wait 60\.0 s, longer than the caller can"):
        gallery.search(QUERY)
    assert list(faulty.faults) == [hang]


def test_a_server_that_hangs_is_left_when_the_caller_has_no_more_time(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (hang,)
    with deadline(0.5), pytest.raises(StoreSlowError, match="did not answer in time"):
        gallery.search(QUERY)


def test_nothing_is_asked_once_the_caller_s_time_is_over(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (hang,)
    with deadline(0), pytest.raises(TooLateError, match="the caller's time was over"):
        gallery.search(QUERY)
    assert list(faulty.faults) == [hang]


def test_a_key_that_is_wrong_is_found_before_anything_is_asked(faulty: Faulty, url: str) -> None:
    faulty.refuses = True
    with pytest.raises(StoreRefusedError, match=r"refuses this client \(wrong key\): set QDRANT_API_KEY"):
        QdrantConnection.connect(url)


def test_a_write_has_minutes_unless_its_caller_has_less(faulty: Faulty, gallery: RemoteGallery) -> None:
    entry = Entry("k", np.zeros(8, np.float32))
    gallery.upsert([entry])
    with deadline(5):
        gallery.upsert([entry])
    patient, hurried = faulty.times_left
    assert patient > 60
    assert hurried < 20


def test_a_write_that_was_taken_and_not_applied_is_no_success(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.applied = qdrant.UpdateStatus.Acknowledged
    with pytest.raises(StoreSlowError, match="took a write and did not apply it in time"):
        gallery.upsert([Entry("k", np.zeros(8, np.float32))])


def test_a_server_that_is_too_old_is_refused(faulty: Faulty, url: str) -> None:
    faulty.version = "1.7.4"
    with pytest.raises(StoreRefusedError, match=r"is Qdrant 1\.7\.4, too old: expected 1\.\d+ or newer: upgrade it"):
        QdrantConnection.connect(url)


def test_nobody_listening_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(port))
    with pytest.raises(StoreUnreachableError, match="start it, or name another with --store"):
        QdrantConnection.connect("http://127.0.0.1:6333")


def test_a_server_that_comes_back_is_found_again_soon(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.server.stop(0).wait()
    with deadline(5), pytest.raises(StoreUnreachableError):
        gallery.search(QUERY)
    time.sleep(3)  # tries to connect fail meanwhile, and gRPC would wait longer and longer between them
    again = grpc.server(ThreadPoolExecutor(4))
    again.add_generic_rpc_handlers((faulty,))
    again.add_insecure_port(f"127.0.0.1:{faulty.port}")
    again.start()
    found = None
    ends = time.monotonic() + 4
    while found is None and time.monotonic() < ends:
        try:
            found = gallery.search(QUERY)
        except StoreUnreachableError:
            time.sleep(0.1)
    again.stop(0).wait()
    assert found == []


def test_a_connection_that_breaks_off_in_the_middle_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def break_off() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"[:5])  # a part of HTTP/2's first frame
                connection.close()

        threading.Thread(target=break_off, daemon=True).start()
        monkeypatch.setenv("QDRANT_GRPC_PORT", str(listening.getsockname()[1]))
        with pytest.raises(StoreUnreachableError):
            QdrantConnection.connect("http://127.0.0.1:6333")
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("by_file", [True, False])
def test_the_key_comes_from_the_environment_or_a_file(
    faulty: Faulty, url: str, by_file: bool, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("secrets") / "key"
    file.write_text("open sesame\n")
    if by_file:
        monkeypatch.setenv("QDRANT_API_KEY_FILE", str(file))
    else:
        monkeypatch.setenv("QDRANT_API_KEY", "open sesame")
    QdrantConnection.connect(url)
    assert set(faulty.keys) == {"open sesame"}


def test_a_key_file_that_is_not_there_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY_FILE", "/no/such/key")
    with pytest.raises(LookalikeError, match="/no/such/key can't be read"):
        QdrantConnection.connect(url)


def test_a_private_authority_is_trusted_when_its_file_is_named(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(faulty.tls_port))
    with pytest.raises(StoreUnreachableError, match=r"(?i)certificate|handshake|ssl"):
        QdrantConnection.connect("https://localhost:6333")
    faulty.authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("QDRANT_CA_FILE", str(tmp_path / "ca.pem"))
    assert RemoteGallery(QdrantConnection.connect("https://localhost:6333"), "g@v1", SPEC).search(QUERY) == []
