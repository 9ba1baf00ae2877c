"""Errors on their way from the service to its clients, over a real socket."""

from collections.abc import Iterator

import grpc
import pytest

import encoder_service.errors
import gallery.errors
from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.errors import ServiceError
from encoder_service.galleries import Galleries
from encoder_service.rpc import wire
from encoder_service.rpc.server import Server
from encoder_service.v1 import encoder_pb2
from gallery import open_store
from gallery.errors import EncoderMismatchError, LookalikeError, StoreRefusedError, UnavailableError

ERRORS = [
    error
    for module in (gallery.errors, encoder_service.errors)
    for error in vars(module).values()
    if isinstance(error, type) and issubclass(error, LookalikeError) and error.__module__ == module.__name__
    if error is not LookalikeError  # nothing raises it
]


@pytest.fixture(scope="module")
def failing_client(encoder: Encoder) -> Iterator[Client]:
    with Server(open_store("exact:"), encoder) as server, Client(server.address) as client:
        yield client


def make_galleries_fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(self: Galleries) -> None:
        raise error

    monkeypatch.setattr(Galleries, "list", fail)


def test_the_list_of_errors_is_complete() -> None:
    assert {EncoderMismatchError, StoreRefusedError, ServiceError} < set(ERRORS)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_reaches_the_client_as_itself_or_a_base_with_the_same_exit_code(
    failing_client: Client, monkeypatch: pytest.MonkeyPatch, error: type[LookalikeError]
) -> None:
    make_galleries_fail(monkeypatch, error("expected a cat, got a dog"))
    with pytest.raises(LookalikeError) as raised:
        failing_client.galleries()
    assert issubclass(error, type(raised.value))
    assert type(raised.value) is not LookalikeError
    assert raised.value.exit_code == error.exit_code


@pytest.mark.parametrize("error", ERRORS)
def test_an_item_error_reaches_the_client_as_itself_or_a_base_with_the_same_exit_code(
    error: type[LookalikeError],
) -> None:
    received = wire.item_error_from_proto(wire.item_error_to_proto(error("expected a cat, got a dog", place="/secret")))
    assert issubclass(error, type(received))
    assert received.exit_code == error.exit_code
    assert received.message == (error.summary or "expected a cat, got a dog")
    assert "/secret" not in str(received)


def test_a_store_that_refuses_the_service_is_not_reported_as_another_encoder(
    failing_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_galleries_fail(monkeypatch, StoreRefusedError("the key is wrong"))
    with pytest.raises(UnavailableError, match=r"^service at 127\.0\.0\.1:\d+: ") as raised:
        failing_client.galleries()
    assert not isinstance(raised.value, EncoderMismatchError | ServiceError)
    assert raised.value.exit_code == 5


def test_a_status_without_an_error_of_its_own_is_a_service_error(
    failing_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_galleries_fail(monkeypatch, RuntimeError("a bug"))
    with pytest.raises(ServiceError, match=r"^service at 127\.0\.0\.1:\d+: INTERNAL: Unexpected error") as raised:
        failing_client.galleries()
    assert "is it running" not in str(raised.value)


@pytest.mark.parametrize("status", [grpc.StatusCode.DATA_LOSS.name, "NO_STATUS_OF_GRPC"])
def test_an_item_error_of_an_unknown_status_is_a_service_error(status: str) -> None:
    received = wire.item_error_from_proto(encoder_pb2.ItemError(status=status, message="lost"))
    assert type(received) is ServiceError
