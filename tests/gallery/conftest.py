"""Every kind of store, for the tests that hold for all of them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from gallery import Store, open_store
from gallery.remote.server import QdrantConnection
from gallery.remote.store import RemoteStore

# A real server, empty and meant for tests, joins in with QDRANT_URL=http://HOST:6333.
SERVER = os.environ.get("QDRANT_URL")


@pytest.fixture(params=["exact", "edge", "remote", *(["server"] if SERVER else [])])
def store(request: pytest.FixtureRequest, store_url: str, tmp_path: Path) -> Iterator[Store]:
    if request.param == "server":
        assert SERVER
        clear(QdrantConnection.connect(SERVER))
        yield RemoteStore(QdrantConnection.connect(SERVER), tmp_path)
        clear(QdrantConnection.connect(SERVER))
    elif request.param == "remote":
        yield RemoteStore(QdrantConnection(QdrantClient(":memory:"), "http://memory:6333"), tmp_path)
    else:
        yield open_store("exact:" if request.param == "exact" else store_url)


def clear(server: QdrantConnection) -> None:
    """Remove what tests have left on a server."""
    if "g" in server.aliases():
        server.remove_alias("g")
    for collection in server.collections():
        if collection.startswith("g@v"):
            server.remove(collection)
