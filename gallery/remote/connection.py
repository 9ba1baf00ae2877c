"""A connection to a Qdrant server or cluster: its collections, their metadata, and aliases.

Every call has a timeout, and a write returns only when the server has applied it. A call with a transient failure is
retried a few times, but not beyond the caller's deadline. Between attempts it pauses for as long as the server asks, or
else for a random time that grows. With `patience_s`, a connection retries for longer, so that a load survives a restart
of its server.
"""

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import tenacity
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from gallery.deadline import check_wanted, may_wait, seconds_left
from gallery.errors import InvalidQueryError, LookalikeError, StoreBusyError, StoreRefusedError
from gallery.remote.failures import is_transient, pause_s, translated

T = TypeVar("T")

_log = logging.getLogger(__name__)

CALL_S = 10
"""Timeout of a call in seconds, unless the call or the caller's deadline sets another."""
SLOW_CALL_S = 300
"""Timeout in seconds of a call that moves many points or waits for the server's disk."""

_EXPECTED_URL = "expected edge:DIR, http://HOST:6333 or https://HOST:6333"
_ATTEMPTS = 4
# Seconds between two checks of `may_wait` during a pause.
_TICK_S = 0.1
# Longest pause between attempts to reconnect to a lost server, in ms. gRPC's default is two minutes.
_RECONNECT_MS = 1000


class QdrantConnection:
    """A connection to one Qdrant server. Safe to use from several threads.

    Every method that calls the server may raise UnavailableError.
    """

    def __init__(
        self, client: QdrantClient, url: str, slow_client: QdrantClient | None = None, patience_s: float = 0
    ) -> None:
        """Use the clients that `connect` makes.

        Args:
            client: A client whose own timeout is `CALL_S`.
            url: The server's URL.
            slow_client: A client for slow calls, whose own timeout is `SLOW_CALL_S`; `client` if None. It is needed
                because over gRPC some methods ignore the timeout that they are given, and use the client's own.
            patience_s: Seconds for which a call retries while the server can't be reached or is overloaded.
        """
        self.url = url
        self.patience_s = patience_s
        self._place = f"store {url}"
        self._client = client
        self._slow_client = slow_client or client

    @classmethod
    def connect(cls, url: str, patience_s: float = 0) -> "QdrantConnection":
        """Connect over gRPC, on the URL's port plus 1, and check that the server can be used.

        The check ignores `patience_s`, because at startup an unreachable server is usually a configuration mistake.

        Args:
            url: The server's URL.
            patience_s: Seconds for which a later call retries while the server can't be reached or is overloaded.

        Environment:
            QDRANT_API_KEY: The API key.
            QDRANT_API_KEY_FILE: File that holds the API key, instead of QDRANT_API_KEY.
            QDRANT_CA_FILE: PEM file of a private certificate authority, for https.
            QDRANT_GRPC_PORT: The port of gRPC, if it is not the URL's port plus 1.

        Raises:
            InvalidQueryError: The URL or a setting is invalid.
            UnavailableError: The server can't be used.
        """
        place = f"store {url!r}"
        try:
            parts = urlsplit(url)
            port = parts.port or 6333
            grpc_port = int(os.environ.get("QDRANT_GRPC_PORT") or port + 1)
        except ValueError as error:
            raise InvalidQueryError(f"{_EXPECTED_URL}, got {error}", place=place) from None
        if not parts.hostname or parts.path.strip("/"):
            raise InvalidQueryError(_EXPECTED_URL, place=place)
        certificates = _read_setting("QDRANT_CA_FILE")
        options: dict[str, Any] = {"root_certificates": certificates} if certificates else {}
        with warnings.catch_warnings():
            # Silence the client's "API key without TLS" warning: the operator decides that.
            warnings.simplefilter("ignore", UserWarning)
            client, slow_client = (
                QdrantClient(
                    url=url.rstrip("/"),
                    port=port,
                    grpc_port=grpc_port,
                    prefer_grpc=True,
                    api_key=_api_key(),
                    timeout=timeout_s,
                    grpc_options={**options, "grpc.max_reconnect_backoff_ms": _RECONNECT_MS},
                    check_compatibility=False,
                )
                for timeout_s in (CALL_S, SLOW_CALL_S)
            )
        connection = cls(client, url, slow_client)
        connection.check()
        connection.patience_s = patience_s
        return connection

    def call(self, method: Callable[[QdrantClient, int], T], within_s: int = CALL_S) -> T:
        """Call the client, retry transient failures, and translate the client's errors into errors of this project.

        Args:
            method: Makes the call. It gets the client to use and the timeout in seconds, and must be safe to repeat.
            within_s: Timeout of each attempt in seconds, unless the caller's deadline is nearer.

        Raises:
            UnavailableError: The server can't be used.
            GalleryNotFoundError: The server has no collection of this name.
        """
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            stop=self._is_hopeless,
            wait=pause_s,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            result: T = attempts(self._attempt, method, within_s)
            return result
        except LookalikeError:
            raise
        except Exception as error:
            raise translated(error, self._place) from error

    def _attempt(self, method: Callable[[QdrantClient, int], T], within_s: int) -> T:
        check_wanted()
        left_s = seconds_left()
        if left_s is None:
            return method(self._slow_client if within_s > CALL_S else self._client, within_s)
        return method(self._client, min(within_s, math.ceil(left_s)))

    def _is_hopeless(self, state: tenacity.RetryCallState) -> bool:
        """Return whether to give up on a call that has just failed. Log the beginning of a long wait."""
        error = state.outcome.exception() if state.outcome else None
        left_s = seconds_left()
        if left_s is not None and left_s <= state.upcoming_sleep and not isinstance(error, ResourceExhaustedResponse):
            return True
        if state.attempt_number < _ATTEMPTS:
            return False
        if state.idle_for >= self.patience_s or not may_wait():
            return True
        if state.attempt_number == _ATTEMPTS and isinstance(error, Exception):
            _log.warning("%s; waiting up to %g s for it", translated(error, self._place), self.patience_s)
        return False

    def _sleep(self, seconds: float) -> None:
        left_s = seconds_left()
        if left_s is not None and left_s <= seconds:
            raise StoreBusyError(
                f"asks for a pause of {seconds:.1f} s, longer than the caller's deadline", place=self._place
            )
        ends = time.monotonic() + seconds
        while (pause_s := ends - time.monotonic()) > 0 and may_wait():
            time.sleep(min(pause_s, _TICK_S))

    def check(self) -> None:
        """Check that the server answers, accepts the configured API key and is recent enough.

        Raises:
            StoreRefusedError: The API key is wrong, or the server is older than the client supports.
        """
        self.aliases()  # fails if the API key is wrong; `info` below does not
        client_major, client_minor = _major_minor(version("qdrant-client"))
        server_version = self.call(lambda client, _: client.info()).version
        if _major_minor(server_version) < (client_major, client_minor - 1):
            raise StoreRefusedError(
                f"expected Qdrant {client_major}.{client_minor - 1} or newer, got {server_version}: upgrade the server",
                place=self._place,
            )

    def aliases(self) -> dict[str, str]:
        """Return the collection behind each alias."""
        response = self.call(lambda client, _: client.get_aliases())
        return {alias.alias_name: alias.collection_name for alias in response.aliases}

    def swap(self, alias: str, collection: str) -> None:
        """Point an alias at a collection in one atomic step, whether or not the alias exists."""
        created = models.CreateAlias(collection_name=collection, alias_name=alias)
        action = models.CreateAliasOperation(create_alias=created)
        self.call(lambda client, timeout_s: client.update_collection_aliases([action], timeout=timeout_s))

    def remove_alias(self, alias: str) -> None:
        """Remove an alias. Its collection stays."""
        action = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        self.call(lambda client, timeout_s: client.update_collection_aliases([action], timeout=timeout_s))

    def collections(self) -> list[str]:
        """Return the names of all collections."""
        response = self.call(lambda client, _: client.get_collections())
        return [collection.name for collection in response.collections]

    def remove_collection(self, collection: str) -> None:
        """Remove a collection."""
        self.call(lambda client, timeout_s: client.delete_collection(collection, timeout=timeout_s), SLOW_CALL_S)

    def metadata(self, collection: str) -> dict[str, Any]:
        """Return the metadata of a collection.

        Raises:
            GalleryNotFoundError: The server has no collection of this name.
        """
        response = self.call(lambda client, _: client.get_collection(collection))
        return dict(response.config.metadata or {})

    def update_metadata(self, collection: str, changes: Mapping[str, Any]) -> None:
        """Set some keys of a collection's metadata. The other keys stay."""
        self.call(
            lambda client, timeout_s: client.update_collection(collection, metadata=dict(changes), timeout=timeout_s),
            SLOW_CALL_S,
        )


def _major_minor(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _api_key() -> str | None:
    key = _read_setting("QDRANT_API_KEY_FILE")
    return key.decode().strip() if key is not None else os.environ.get("QDRANT_API_KEY") or None


def _read_setting(variable: str) -> bytes | None:
    """Return the content of the file that an environment variable names; None if the variable is not set."""
    file = os.environ.get(variable)
    if not file:
        return None
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise InvalidQueryError(f"{variable} can't be read: {error.strerror}", place=file) from error
