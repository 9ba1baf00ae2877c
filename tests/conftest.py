import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.server import Server
from gallery import GallerySpec, Store, open_store
from ingest.build import fill
from ingest.progress import Stages
from tests import digits

BIN = Path(sys.executable).parent

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder("seed")


@pytest.fixture(scope="session")
def queries() -> list[Image.Image]:
    """100 digits that no gallery holds."""
    return [Image.fromarray(pixels) for pixels in digits.read("t10k")[0]]


def build(store: Store, encoder: Encoder, name: str = "digits", count: int = 400, rebuild: bool = False) -> GallerySpec:
    """Load the first digits into a gallery of the store."""
    spec = GallerySpec(
        name, encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size, sources=("digits/train",)
    )
    with closing(store.build(spec, rebuild=rebuild)) as building:
        return fill(building, digits.Digits(count), "digits", encoder, Stages())[0]


@pytest.fixture(scope="session")
def address(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running service over one gallery of 400 digits in Qdrant Edge."""
    store = open_store(f"edge:{tmp_path_factory.mktemp('store')}")
    build(store, encoder)
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
