"""The RPCs that HTTP offers: gRPC's own handlers and interceptors, with JSON beside protobuf."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from encoder_service.errors import RequestError

JSON = "application/json"
PROTO = "application/proto"


class Metadatum(NamedTuple):
    """One name of a call's metadata, in lower case, with its value."""

    key: str
    value: str


class CallDetails(NamedTuple):
    """The headers of a call, as gRPC's interceptors see them.

    Attributes:
        method: Full name of the RPC, "/package.Service/Method".
        invocation_metadata: The HTTP headers.
    """

    method: str
    invocation_metadata: tuple[Metadatum, ...]


class Handlers:
    """The handlers of all RPCs with one request and one response. Takes the place of a `grpc.Server` in `add_…`."""

    def __init__(self, interceptors: Iterable[grpc.ServerInterceptor], reading: Collection[str]) -> None:
        """Begin without handlers.

        Args:
            interceptors: Applied to every call, the first one outermost, as in `grpc.server`.
            reading: Full names of the RPCs that have no side effects.
        """
        self._interceptors = tuple(interceptors)
        self._reading = reading
        self._handlers: dict[str, dict[str, Any]] = {JSON: {}, PROTO: {}}
        self._streams: set[str] = set()

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Ignore the handlers, which `add_registered_method_handlers` receives with their names."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the handlers of one service, by the names of its RPCs."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            if handler.unary_unary is None:
                self._streams.add(method)
            else:
                self._handlers[PROTO][method] = handler
                self._handlers[JSON][method] = _with_json(handler)

    def is_stream(self, method: str) -> bool:
        """Return whether an RPC is a stream, which HTTP does not offer."""
        return method in self._streams

    def knows(self, method: str) -> bool:
        """Return whether HTTP offers an RPC."""
        return method in self._handlers[PROTO]

    def only_reads(self, method: str) -> bool:
        """Return whether an RPC has no side effects, so that it can be called by GET."""
        return method in self._reading

    def find(self, details: CallDetails, content_type: str) -> Any:
        """Return the handler for one call, after the interceptors have admitted or rejected the call.

        Args:
            details: The call. `knows` must be true of its RPC.
            content_type: `JSON` or `PROTO`.
        """
        find: Callable[[CallDetails], Any] = partial(_lookup, self._handlers[content_type])
        for interceptor in reversed(self._interceptors):
            find = partial(interceptor.intercept_service, find)  # type: ignore[arg-type] # gRPC's own type is a class
        return find(details)


def _lookup(handlers: Mapping[str, Any], details: CallDetails) -> Any:
    return handlers[details.method]


def _with_json(handler: Any) -> Any:
    """Return a handler that reads and writes JSON instead of protobuf."""
    message: type[Message] = handler.request_deserializer.__self__

    def parse(content: bytes) -> Message:
        try:
            return json_format.Parse(content, message())
        except (json_format.Error, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise RequestError(f"request: expected JSON of a {message.__name__}: {reason}") from None

    def serialize(response: Message) -> bytes:
        return json_format.MessageToJson(response, indent=None, ensure_ascii=False).encode()

    return handler._replace(request_deserializer=parse, response_serializer=serialize)
