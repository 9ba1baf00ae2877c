"""Copies of galleries from one store to another."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from encoder_service.encoder import Encoder
from gallery import Entry, GallerySpec, Query, Store, open_store
from gallery.errors import GalleryNotFoundError, StoreDamagedError, StoreError
from gallery.remote.collection import RemoteGallery
from gallery.remote.connection import QdrantConnection
from gallery.remote.store import RemoteStore
from ingest.copy import copy
from ingest.loading.build import load_and_publish
from ingest.loading.verify import check
from ingest.progress import Stages
from tests import digits
from tests.digits import build


@pytest.fixture
def edge(tmp_path: Path, encoder: Encoder) -> Store:
    store = open_store(f"edge:{tmp_path / 'edge'}")
    build(store, encoder)
    return store


@pytest.fixture
def server(in_memory_qdrant: QdrantConnection, tmp_path: Path) -> Store:
    return RemoteStore(in_memory_qdrant, tmp_path / "here")


def entries(store: Store) -> dict[str, Entry]:
    with closing(store.open("digits")) as gallery:
        return {entry.key: entry for batch in gallery.scroll() for entry in batch}


def assert_same(store: Store, other: Store) -> None:
    left, right = entries(store), entries(other)
    assert left.keys() == right.keys()
    for key, entry in left.items():
        np.testing.assert_array_equal(entry.code, right[key].code)
        assert (entry.label, entry.sha256, entry.thumbnail_png) == (
            right[key].label,
            right[key].sha256,
            right[key].thumbnail_png,
        )


def test_a_copy_of_a_copy_equals_the_original(edge: Store, server: Store, tmp_path: Path) -> None:
    spec, written = copy(edge, server, "digits", Stages())
    assert (spec.count, spec.version, written) == (400, 1, 400)
    assert_same(edge, server)
    assert spec.calibration == edge.spec("digits").calibration is not None
    back = open_store(f"edge:{tmp_path / 'back'}")
    assert copy(server, back, "digits", Stages())[1] == 400
    assert_same(edge, back)
    assert check(back, "digits", 0, Stages()) == ([], 0)


def test_a_copy_has_the_ledger_so_that_loading_adds_nothing(edge: Store, server: Store, encoder: Encoder) -> None:
    spec, _ = copy(edge, server, "digits", Stages())
    with closing(server.build(spec)) as building:
        summary = load_and_publish(building, digits.Digits(), encoder, Stages())[1]
    assert (summary.added, summary.unchanged) == (0, 400)


def test_a_gallery_loaded_by_another_machine_is_not_loaded_again(
    edge: Store, server: Store, encoder: Encoder, tmp_path: Path
) -> None:
    spec, _ = copy(edge, server, "digits", Stages())
    assert isinstance(server, RemoteStore)
    elsewhere = RemoteStore(server._connection, tmp_path / "another machine")
    with closing(elsewhere.build(spec)) as building:
        summary = load_and_publish(building, digits.Digits(), encoder, Stages())[1]
    assert (summary.added, summary.unchanged) == (0, 400)


def test_an_interrupted_copy_is_resumed(edge: Store, server: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    upsert = RemoteGallery.upsert
    monkeypatch.setattr("ingest.copy._BATCH", 100)

    def break_off(self: RemoteGallery, new: Sequence[Entry]) -> None:
        if self.count() == 200:
            raise StoreError("the server is down")
        upsert(self, new)

    with monkeypatch.context() as broken, pytest.raises(StoreError):
        broken.setattr(RemoteGallery, "upsert", break_off)
        copy(edge, server, "digits", Stages())
    with pytest.raises(GalleryNotFoundError):
        server.open("digits")
    assert copy(edge, server, "digits", Stages())[1] == 200
    assert_same(edge, server)


def test_a_resumed_copy_drops_what_the_original_has_lost_since(edge: Store, server: Store) -> None:
    spec = edge.spec("digits")
    begun = GallerySpec(spec.name, spec.encoder, spec.fingerprint, spec.code_size, sources=spec.sources)
    with closing(server.build(begun)) as building:
        building.gallery.upsert([Entry("gone", np.zeros(spec.code_size, np.float32))])
    copy(edge, server, "digits", Stages())
    assert_same(edge, server)


def test_a_copy_replaces_the_gallery_of_its_name(edge: Store, server: Store) -> None:
    copy(edge, server, "digits", Stages())
    assert copy(edge, server, "digits", Stages())[0].version == 2
    assert server.clean("digits") == [1]
    assert_same(edge, server)


def test_a_copy_that_differs_from_the_original_does_not_go_live(
    edge: Store, server: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    upsert = RemoteGallery.upsert

    def spoil(self: RemoteGallery, new: Sequence[Entry]) -> None:
        upsert(self, [Entry(entry.key, entry.code + 1, entry.label, entry.sha256) for entry in new])

    monkeypatch.setattr(RemoteGallery, "upsert", spoil)
    with pytest.raises(StoreDamagedError, match=r"differs from the original in digits/train/.*: copy it again"):
        copy(edge, server, "digits", Stages())
    assert server.list() == []


def test_a_copy_may_have_another_profile(edge: Store, server: Store) -> None:
    assert copy(edge, server, "digits", Stages(), "disk")[0].profile == "disk"
    code = entries(edge)["digits/train/7"].code
    with closing(server.open("digits")) as gallery:
        assert gallery.search(Query(code))[0].key == "digits/train/7"
