"""Checks of galleries that a service has modified."""

from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.encoder import Encoder
from encoder_service.writer import GalleryWriter, NewImage
from gallery import Store, open_store
from gallery.remote.store import RemoteStore
from ingest.loading.verify import check
from ingest.progress import Stages
from tests import digits


@pytest.fixture(params=["edge", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "edge":
        return open_store(f"edge:{tmp_path / 'edge'}")
    return RemoteStore(request.getfixturevalue("in_memory_qdrant"), tmp_path / "local")


def test_a_gallery_that_a_service_has_modified_is_sound(store: Store, encoder: Encoder) -> None:
    digits.build(store, encoder, count=50)
    assert check(store, "digits", 0, Stages()) == ([], 0)
    pictures = [Image.fromarray(pixels) for pixels in digits.read("t10k")[0][:7]]
    with closing(store.open("digits")) as gallery:
        writer = GalleryWriter(encoder, gallery)
        added = writer.add([NewImage(f"new/{index}", picture) for index, picture in enumerate(pictures)])
        deleted = writer.delete(["digits/train/0", "digits/train/1"])
    assert (added, deleted) == ([False] * 7, 2)
    assert check(store, "digits", 0, Stages()) == ([], 0)
