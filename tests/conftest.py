import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.rpc.server import Server
from gallery import open_store
from gallery.remote.connection import QdrantConnection
from tests import digits
from tests.commands import Command, run_here, run_process

# Processes inherit ignored signals. Under `nohup … &` these are SIGINT and SIGHUP, which tests send to processes.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Linux's file system in memory. In a container it often has 64 MB.
MEMORY = Path("/dev/shm")
# Bytes that must be free there. A test takes up to 0.3 GB, which it gives back when it has passed.
MEMORY_BYTES = 4_000_000_000


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests' files in memory where there is room: building a gallery syncs a hundred times to disk."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that no worker of pytest-xdist still runs them when the others have ended."""
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder("seed")


@pytest.fixture(scope="session")
def queries() -> list[Image.Image]:
    """100 digits that no gallery holds."""
    return [Image.fromarray(pixels) for pixels in digits.read("t10k")[0]]


@pytest.fixture(scope="session")
def address(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running service over one gallery of 400 digits in Qdrant Edge."""
    store = open_store(f"edge:{tmp_path_factory.mktemp('store')}")
    digits.build(store, encoder)
    server = Server(store, encoder)
    server.start()
    yield server.address
    server.stop()


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"edge:{tmp_path / 'store'}"


@pytest.fixture
def in_memory_qdrant(monkeypatch: pytest.MonkeyPatch) -> QdrantConnection:
    """A connection to a Qdrant in this process, which builds no index that one would have to wait for."""
    from qdrant_client import QdrantClient

    monkeypatch.setattr("gallery.remote.collection._STATUS_EVERY_S", 0.0)
    return QdrantConnection(QdrantClient(":memory:"), "http://memory:6333")


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs a command of this project in this process."""
    os.environ.pop("LOOKALIKE_STORE", None)
    return run_here


@pytest.fixture(scope="session")
def command_process() -> Command:
    """Runs a command of this project in a process of its own, as a user would."""
    os.environ.pop("LOOKALIKE_STORE", None)
    return run_process
