"""A Qdrant server that can't be reached, hangs, is overloaded, or is not Qdrant at all."""

import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from qdrant_client import grpc as qdrant

from gallery import Entry, GallerySpec, Query, open_store
from gallery.deadline import deadline, waits_end_with
from gallery.errors import (
    GalleryNotFoundError,
    LookalikeError,
    StoreBusyError,
    StoreError,
    StoreRefusedError,
    StoreSlowError,
    StoreUnreachableError,
    TooLateError,
    UnavailableError,
)
from gallery.files import Lock
from gallery.remote.collection import RemoteGallery
from gallery.remote.connection import QdrantConnection
from gallery.remote.store import RemoteBuild

SPEC = GallerySpec("g", "seed", "f" * 64, 8, version=1)
QUERY = Query(np.zeros(8, np.float32))

Fault = Callable[[grpc.ServicerContext], bytes]


class Faulty(grpc.GenericRpcHandler):
    """Claims to be Qdrant and answers each further call with the next fault, and after the last one as Qdrant would."""

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


def status(code: grpc.StatusCode, *metadata: tuple[str, str], message: str = "injected") -> Fault:
    def fail(context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata(metadata)
        context.abort(code, message)
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
    certificate = handler.authority.issue_cert("localhost")
    keys = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
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
    ("fault", "error", "message"),
    [
        (status(grpc.StatusCode.UNAVAILABLE), StoreUnreachableError, "can't be reached .*: start it"),
        (status(grpc.StatusCode.RESOURCE_EXHAUSTED), StoreBusyError, "is overloaded"),
        (status(grpc.StatusCode.DEADLINE_EXCEEDED), StoreSlowError, "did not answer in time"),
        (status(grpc.StatusCode.UNAUTHENTICATED), StoreRefusedError, "refuses this client .*: set QDRANT_API_KEY"),
        (status(grpc.StatusCode.PERMISSION_DENIED), StoreRefusedError, "refuses this client"),
        (status(grpc.StatusCode.NOT_FOUND), GalleryNotFoundError, "injected"),
        (status(grpc.StatusCode.INTERNAL), StoreError, "INTERNAL: injected"),
        (lambda context: b"\xff\xff garbage", StoreError, "did not answer as Qdrant does"),
    ],
)
def test_each_failure_of_a_server_has_its_own_error(
    faulty: Faulty, gallery: RemoteGallery, fault: Fault, error: type[LookalikeError], message: str
) -> None:
    faulty.faults = (fault,) * 9
    with pytest.raises(error, match=message) as raised:
        gallery.search(QUERY)
    assert "\n" not in str(raised.value)


def test_a_call_to_a_server_that_is_briefly_unreachable_is_retried(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (status(grpc.StatusCode.UNAVAILABLE),) * 2
    assert gallery.search(QUERY) == []


def test_a_call_is_retried_when_a_cluster_has_lost_a_node_and_asks_for_a_retry(
    faulty: Faulty, gallery: RemoteGallery
) -> None:
    lost_node = status(
        grpc.StatusCode.INTERNAL, message="Failed to apply operation to at least one replica. Please retry"
    )
    faulty.faults = (lost_node, lost_node)
    assert gallery.search(QUERY) == []


def test_retries_are_bounded(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (status(grpc.StatusCode.UNAVAILABLE),) * 9
    with pytest.raises(StoreUnreachableError):
        gallery.search(QUERY)
    assert len(faulty.faults) == 9 - 4


def test_a_lasting_error_is_not_retried(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (status(grpc.StatusCode.UNAUTHENTICATED), hang)
    with pytest.raises(StoreRefusedError):
        gallery.search(QUERY)
    assert list(faulty.faults) == [hang]


def test_a_retry_waits_for_as_long_as_the_server_asks(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (status(grpc.StatusCode.RESOURCE_EXHAUSTED, ("retry-after", "1")),)
    begun = time.monotonic()
    assert gallery.search(QUERY) == []
    assert time.monotonic() - begun >= 1


def test_no_pause_exceeds_the_deadline(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (status(grpc.StatusCode.RESOURCE_EXHAUSTED, ("retry-after", "60")), hang)
    with (
        deadline(1),
        pytest.raises(StoreBusyError, match=r"asks for a pause of 60\.0 s, longer than the caller's deadline"),
    ):
        gallery.search(QUERY)
    assert list(faulty.faults) == [hang]


def test_an_unreachable_server_is_not_called_busy_when_time_is_short(
    faulty: Faulty, gallery: RemoteGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gallery.remote.failures._PAUSE", lambda state: 5.0)
    faulty.faults = (status(grpc.StatusCode.UNAVAILABLE), hang)
    with deadline(1), pytest.raises(StoreUnreachableError, match="can't be reached"):
        gallery.search(QUERY)
    assert list(faulty.faults) == [hang]


def test_a_call_to_a_server_that_hangs_ends_with_the_deadline(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (hang,)
    with deadline(0.5), pytest.raises(StoreSlowError, match="did not answer in time"):
        gallery.search(QUERY)


def test_no_call_is_made_after_the_deadline(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.faults = (hang,)
    with deadline(0), pytest.raises(TooLateError, match="the caller's deadline passed"):
        gallery.search(QUERY)
    assert list(faulty.faults) == [hang]


def test_a_wrong_key_is_reported_by_connect(faulty: Faulty, url: str) -> None:
    faulty.refuses = True
    with pytest.raises(StoreRefusedError, match=r"refuses this client \(wrong key\): set QDRANT_API_KEY"):
        QdrantConnection.connect(url)


def test_a_write_has_minutes_unless_the_deadline_is_nearer(faulty: Faulty, gallery: RemoteGallery) -> None:
    entry = Entry("k", np.zeros(8, np.float32))
    gallery.upsert([entry])
    with deadline(5):
        gallery.upsert([entry])
    patient, hurried = faulty.times_left
    assert patient > 60
    assert hurried < 20


def test_a_write_that_was_accepted_and_not_applied_fails(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.applied = qdrant.UpdateStatus.Acknowledged
    with pytest.raises(StoreSlowError, match="accepted a write and did not apply it in time"):
        gallery.upsert([Entry("k", np.zeros(8, np.float32))])


def test_a_server_that_is_too_old_is_rejected(faulty: Faulty, url: str) -> None:
    faulty.version = "1.7.4"
    with pytest.raises(StoreRefusedError, match=r"expected Qdrant 1\.\d+ or newer, got 1\.7\.4: upgrade the server"):
        QdrantConnection.connect(url)


def test_a_port_that_nothing_listens_on_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(port))
    with pytest.raises(StoreUnreachableError, match="start it, or name another with --store"):
        QdrantConnection.connect("http://127.0.0.1:6333")


def test_a_restarted_server_is_reached_within_seconds(faulty: Faulty, gallery: RemoteGallery) -> None:
    faulty.server.stop(0).wait()
    with deadline(5), pytest.raises(StoreUnreachableError):
        gallery.search(QUERY)
    time.sleep(3)  # attempts to connect fail meanwhile, and gRPC by itself would pause longer after each
    restarted = grpc.server(ThreadPoolExecutor(4))
    restarted.add_generic_rpc_handlers((faulty,))
    restarted.add_insecure_port(f"127.0.0.1:{faulty.port}")
    restarted.start()
    hits = None
    ends = time.monotonic() + 4
    while hits is None and time.monotonic() < ends:
        try:
            hits = gallery.search(QUERY)
        except StoreUnreachableError:
            time.sleep(0.1)
    restarted.stop(0).wait()
    assert hits == []


def restart(faulty: Faulty, after_s: float) -> grpc.Server:
    """Serve again on the same port after a pause, as a server does that is restarted."""
    time.sleep(after_s)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((faulty,))
    server.add_insecure_port(f"127.0.0.1:{faulty.port}")
    server.start()
    return server


def test_a_patient_connection_rides_through_a_restart_and_says_so(
    faulty: Faulty, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    gallery = RemoteGallery(QdrantConnection.connect(url, patience_s=20), "g@v1", SPEC)
    faulty.server.stop(0).wait()
    with ThreadPoolExecutor(1) as pool:
        restarted = pool.submit(restart, faulty, 2)
        gallery.upsert([Entry("k", np.zeros(8, np.float32))])
        assert gallery.search(QUERY) == []
        restarted.result().stop(0).wait()
    (line,) = caplog.messages
    assert "can't be reached" in line
    assert line.endswith("; waiting up to 20 s for it")


def test_patience_has_an_end(faulty: Faulty, url: str) -> None:
    gallery = RemoteGallery(QdrantConnection.connect(url, patience_s=1), "g@v1", SPEC)
    faulty.server.stop(0).wait()
    begun = time.monotonic()
    with pytest.raises(StoreUnreachableError, match="can't be reached"):
        gallery.search(QUERY)
    assert 1 <= time.monotonic() - begun < 10


def test_a_wish_to_stop_ends_the_wait(faulty: Faulty, url: str) -> None:
    gallery = RemoteGallery(QdrantConnection.connect(url, patience_s=60), "g@v1", SPEC)
    faulty.server.stop(0).wait()
    stop = threading.Event()
    threading.Timer(1, stop.set).start()
    begun = time.monotonic()
    with waits_end_with(stop), pytest.raises(StoreUnreachableError):
        gallery.search(QUERY)
    assert time.monotonic() - begun < 10


def test_patience_never_exceeds_the_deadline(faulty: Faulty, url: str) -> None:
    gallery = RemoteGallery(QdrantConnection.connect(url, patience_s=60), "g@v1", SPEC)
    faulty.server.stop(0).wait()
    begun = time.monotonic()
    with deadline(1), pytest.raises(UnavailableError):
        gallery.search(QUERY)
    assert time.monotonic() - begun < 10


def test_a_workers_connection_is_as_patient(faulty: Faulty, url: str, tmp_path: Path) -> None:
    connection = QdrantConnection.connect(url, patience_s=7)
    build = RemoteBuild(connection, RemoteGallery(connection, "g@v1", SPEC), tmp_path, Lock(tmp_path / "LOCK", "g"))
    with closing(build):
        gallery = pickle.loads(pickle.dumps(build.reopen))()
    assert gallery._connection.patience_s == 7


def test_a_server_that_was_never_reached_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_GRPC_PORT", "1")
    begun = time.monotonic()
    with pytest.raises(StoreUnreachableError):
        open_store("http://127.0.0.1:6333", patience_s=60)
    assert time.monotonic() - begun < 10


def test_a_connection_that_breaks_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def break_off() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"[:5])  # part of HTTP/2's first frame
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


def test_a_missing_key_file_is_reported(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_API_KEY_FILE", "/no/such/key")
    with pytest.raises(LookalikeError, match="/no/such/key: QDRANT_API_KEY_FILE can't be read"):
        QdrantConnection.connect(url)


def test_a_private_certificate_authority_is_trusted_if_its_file_is_named(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(faulty.tls_port))
    with pytest.raises(StoreUnreachableError, match=r"(?i)certificate|handshake|ssl"):
        QdrantConnection.connect("https://localhost:6333")
    faulty.authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("QDRANT_CA_FILE", str(tmp_path / "ca.pem"))
    assert RemoteGallery(QdrantConnection.connect("https://localhost:6333"), "g@v1", SPEC).search(QUERY) == []
