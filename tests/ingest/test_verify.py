"""Checks of galleries that a service has modified."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder_service.encoder import Encoder
from encoder_service.writer import GalleryWriter, NewImage
from gallery import Entry, GallerySpec, Hit, Query, Store, open_store
from gallery.exact import ExactGallery
from gallery.remote.store import RemoteStore
from ingest.loading.ledger import Ledger
from ingest.loading.verify import check, code_problems
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


def test_a_gallery_whose_load_was_killed_before_it_wrote_the_ledger_is_sound(
    store: Store, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def die(ledger: Ledger, rows: object, source: object) -> None:
        raise RuntimeError("killed")

    digits.build(store, encoder, count=50)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(Ledger, "record", die)
        digits.build(store, encoder, count=60)
    assert check(store, "digits", 0, Stages()) == ([], 0)
    assert "a service or an interrupted load has added or deleted images" in capsys.readouterr().err
    digits.build(store, encoder, count=60)
    assert check(store, "digits", 0, Stages()) == ([], 0)
    assert "note" not in capsys.readouterr().err


def test_a_gallery_that_has_lost_images_is_not_sound(store: Store, encoder: Encoder) -> None:
    spec = digits.build(store, encoder, count=50)
    with closing(store.build(spec)) as build:
        build.gallery.delete(["digits/train/0"])
        build.publish()
    assert check(store, "digits", 0, Stages()) == (["expected 50 images, as in its ledger, got 49"], 0)


class Forgetful(ExactGallery):
    """A gallery whose index misses some of the stored codes. Exact searches find them."""

    def __init__(self, spec: GallerySpec, missed: int) -> None:
        super().__init__(spec)
        self.missed = missed

    def search(self, query: Query) -> list[Hit]:
        """Find nothing in the first approximate searches."""
        if not query.options.exact and self.missed:
            self.missed -= 1
            return []
        return super().search(query)


@pytest.mark.parametrize(
    ("missed", "problems"), [(1, []), (10, ["the index finds only 10 of 20 images by their own codes"])]
)
def test_an_index_may_miss_a_few_codes_but_not_many(
    encoder: Encoder, queries: list[Image.Image], missed: int, problems: list[str]
) -> None:
    inputs = dict(zip(map(str, range(20)), encoder.normalise(queries[:20]), strict=True))
    codes = encoder.encode(np.stack(list(inputs.values())))
    gallery = Forgetful(GallerySpec("digits", encoder.spec.name, encoder.spec.fingerprint, codes.shape[1]), missed)
    gallery.upsert([Entry(key, code) for key, code in zip(inputs, codes, strict=True)])
    assert code_problems(gallery, encoder, inputs) == problems
