"""The registry of store kinds: `open_store` opens a store by its URL."""

from pathlib import Path

from gallery.base import Store
from gallery.errors import InvalidInputError, InvalidQueryError
from gallery.files import user_data_folder


def _default_store() -> str:
    try:
        return f"edge:{user_data_folder()}"
    except InvalidInputError:  # the user has no home folder; opening this store raises the error again
        return "edge:~/.local/share/lookalike"


DEFAULT_STORE = _default_store()
"""URL of the store that holds the user's galleries unless another one is named."""


def open_store(url: str, *, patience_s: float = 0) -> Store:
    """Open a store by its URL.

    Args:
        url: `edge:DIR` for Qdrant Edge in a folder, `http(s)://HOST:6333` for a Qdrant server or cluster, `exact:`
            for the memory of this process.
        patience_s: Seconds for which each call waits for a server that can't be reached. Use 0 for a service, which
            should fail fast, and more for a load, which should survive a restart of the server.

    Raises:
        InvalidQueryError: The URL has none of these forms.
        InvalidInputError: The URL begins with `~`, and the user has no home folder.
        StoreError: The store can't be used.
    """
    kind, _, location = url.partition(":")
    if kind not in _KINDS or (kind != "exact" and not location):
        raise InvalidQueryError("expected edge:DIR, http://HOST:6333 or https://HOST:6333", place=f"store {url!r}")
    return _KINDS[kind](url, patience_s)


def _edge(url: str, patience_s: float) -> Store:
    from gallery.edge.store import EdgeStore

    try:
        folder = Path(url.removeprefix("edge:")).expanduser()
    except RuntimeError as error:
        raise InvalidInputError(f"store {url}: expected a home folder, got none: set HOME, or name a folder") from error
    return EdgeStore(folder.absolute())


def _server(url: str, patience_s: float) -> Store:
    from gallery.remote.connection import QdrantConnection
    from gallery.remote.store import RemoteStore

    return RemoteStore(QdrantConnection.connect(url, patience_s))


def _exact(url: str, patience_s: float) -> Store:
    from gallery.exact import ExactStore

    return ExactStore()


_KINDS = {"edge": _edge, "http": _server, "https": _server, "exact": _exact}
