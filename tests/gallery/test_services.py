"""Galleries that a service modifies between loads."""

from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from encoder_service.encoder import Encoder
from encoder_service.writer import GalleryWriter, NewImage
from gallery import Entry, Store
from ingest.loading.verify import check
from ingest.progress import Stages
from tests import digits

COUNT = 20


def add(store: Store, encoder: Encoder, key: str, picture: Image.Image) -> None:
    """Add an image through an open gallery, as a service does."""
    with closing(store.open("g")) as gallery:
        assert GalleryWriter(encoder, gallery).add([NewImage(key, picture)]) == [False]


def delete(store: Store, encoder: Encoder, key: str) -> None:
    with closing(store.open("g")) as gallery:
        assert GalleryWriter(encoder, gallery).delete([key]) == 1


def problems(store: Store) -> list[str]:
    return list(check(store, "g", 0, Stages())[0])


@pytest.fixture
def loaded(store: Store, encoder: Encoder) -> Store:
    digits.build(store, encoder, "g", COUNT)
    return store


def test_a_loaded_gallery_is_sound_and_no_service_has_modified_it(loaded: Store) -> None:
    assert not loaded.modified_by_service("g")
    assert problems(loaded) == []


def test_a_gallery_with_an_image_added_by_a_service_is_sound(
    loaded: Store, encoder: Encoder, queries: list[Image.Image]
) -> None:
    add(loaded, encoder, "added", queries[0])
    assert loaded.modified_by_service("g")
    assert problems(loaded) == []


def test_a_modification_that_keeps_the_count_is_known_too(
    loaded: Store, encoder: Encoder, queries: list[Image.Image]
) -> None:
    add(loaded, encoder, "added", queries[0])
    delete(loaded, encoder, "digits/train/3")
    assert loaded.modified_by_service("g")
    assert problems(loaded) == []
    with closing(loaded.open("g")) as gallery:
        assert gallery.count() == COUNT


@pytest.mark.parametrize("store", ["exact", "remote"], indirect=True)  # Edge can't load a gallery that is open
def test_a_modification_through_a_gallery_open_since_before_a_load_is_known(loaded: Store, encoder: Encoder) -> None:
    with closing(loaded.open("g")) as gallery:
        for index in range(2):
            gallery.upsert([Entry(f"added/{index}", np.zeros(128, np.float32), sha256=f"{index:064x}")])
            assert loaded.modified_by_service("g")
            digits.build(loaded, encoder, "g", COUNT)
        gallery.delete(["added/0"])
    assert loaded.modified_by_service("g")


def test_the_next_load_puts_everything_in_order(loaded: Store, encoder: Encoder, queries: list[Image.Image]) -> None:
    add(loaded, encoder, "added", queries[0])
    delete(loaded, encoder, "digits/train/3")
    with closing(loaded.build(loaded.spec("g"))) as build:
        assert build.modified_by_service
    assert digits.build(loaded, encoder, "g", COUNT).count == COUNT + 1
    assert problems(loaded) == []


def test_a_rebuild_begins_without_modifications(loaded: Store, encoder: Encoder, queries: list[Image.Image]) -> None:
    add(loaded, encoder, "added", queries[0])
    with closing(loaded.build(loaded.spec("g"), rebuild=True)) as build:
        assert not build.modified_by_service
        build.publish()
    assert not loaded.modified_by_service("g")
