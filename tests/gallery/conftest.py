"""Every kind of store, for tests of behaviour that all of them share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gallery import Store, open_store
from gallery.remote.connection import QdrantConnection
from gallery.remote.store import RemoteStore

# Set QDRANT_URL=http://HOST:6333 to include a real server. It must be meant for tests.
SERVER = os.environ.get("QDRANT_URL")


@pytest.fixture(params=["exact", "edge", "remote", *(["server"] if SERVER else [])])
def store(request: pytest.FixtureRequest, store_url: str, tmp_path: Path) -> Iterator[Store]:
    if request.param == "server":
        assert SERVER
        clear(QdrantConnection.connect(SERVER))
        yield RemoteStore(QdrantConnection.connect(SERVER), tmp_path)
        clear(QdrantConnection.connect(SERVER))
    elif request.param == "remote":
        yield RemoteStore(request.getfixturevalue("in_memory_qdrant"), tmp_path)
    else:
        yield open_store("exact:" if request.param == "exact" else store_url)


def clear(connection: QdrantConnection) -> None:
    """Remove from a server what tests have left there."""
    if "g" in connection.aliases():
        connection.remove_alias("g")
    for collection in connection.collections():
        if collection.startswith("g@v"):
            connection.remove_collection(collection)


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Lets a test go on as another user than root, who may read and write anything."""
    user = os.geteuid()

    def begin() -> None:
        if not user:
            for folder in (tmp_path, *tmp_path.parents[:3]):
                folder.chmod(0o755)
            os.seteuid(65534)

    yield begin
    os.seteuid(user)
