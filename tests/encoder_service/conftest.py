"""A gallery of 400 digits that a test may change, and a server over it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from encoder_service.encoder import Encoder
from encoder_service.rpc.server import Server
from gallery import Store, open_store
from gallery.files import copy_sparse
from tests.digits import build


@pytest.fixture(scope="session")
def built(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(open_store(f"edge:{folder}"), encoder)
    return folder


@pytest.fixture
def store(built: Path, store_url: str) -> Store:
    shutil.copytree(built, store_url.removeprefix("edge:"), copy_function=copy_sparse)
    return open_store(store_url)


@pytest.fixture
def server(store: Store, encoder: Encoder) -> Iterator[Server]:
    with Server(store, encoder) as server:
        yield server
