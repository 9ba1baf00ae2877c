import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.rpc.server import Server
from gallery import open_store
from tests import digits
from tests.commands import BIN, Command

# Processes inherit an ignored SIGINT, as under `nohup … &`, and would not hear the Ctrl-C that tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs a command of this project as a user would."""

    def run(name: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        done = subprocess.run([BIN / name, *arguments], input=stdin, capture_output=True, timeout=120, check=False)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    os.environ.pop("LOOKALIKE_STORE", None)
    return run
