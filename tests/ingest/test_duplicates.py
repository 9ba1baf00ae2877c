"""The relation of hits to the query, and `ingest duplicates`: the same picture, or another one."""

import io
import json
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.rpc.server import Server
from encoder_service.searcher import Searcher, SearchRequest
from gallery import Entry, Gallery, GallerySpec, Relation, open_store
from gallery.exact import ExactGallery
from gallery.remote.connection import QdrantConnection
from gallery.remote.store import RemoteStore
from ingest.duplicates import find_duplicates
from ingest.progress import Stages
from tests import digits
from tests.commands import Command

STORED = [Image.fromarray(pixels) for pixels in digits.read("train")[0]]


def as_jpeg(image: Image.Image, quality: int = 50) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def groups_of(gallery: Gallery, within: float) -> list[set[str]]:
    return [{image.key for image in group} for group in find_duplicates(gallery, within, Stages())]


def test_a_jpeg_of_a_stored_digit_is_the_same_picture_and_other_digits_are_not(
    client: Client, queries: list[Image.Image]
) -> None:
    copies = [client.search(as_jpeg(image)).hits[0] for image in STORED[::20]]
    assert [hit.key for hit in copies] == [f"digits/train/{index}" for index in range(0, 400, 20)]
    assert sum(hit.relation is Relation.SAME for hit in copies) >= 18
    others = [client.search(image).hits[0].relation for image in queries]
    assert others.count(Relation.SAME) <= 5
    assert others.count(Relation.SIMILAR) >= 85


def test_a_stored_image_is_the_same_and_noise_is_unrelated_to_all(client: Client) -> None:
    relations = [hit.relation for hit in client.search(STORED[7]).hits]
    assert relations[0] is Relation.SAME
    assert Relation.SAME not in relations[1:]
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (28, 28), np.uint8))
    assert {hit.relation for hit in client.search(noise).hits} == {Relation.UNRELATED}


def test_without_a_measured_distance_there_is_no_relation(encoder: Encoder) -> None:
    spec = GallerySpec("old", encoder.spec.name, encoder.spec.fingerprint, 128)
    gallery = ExactGallery(spec)
    gallery.upsert([Entry("k", encoder.encode_images(STORED[:1])[0])])
    hit = Searcher(encoder, gallery).search(SearchRequest(STORED[0])).hits[0]
    assert hit.relation is None


def test_search_prints_the_relation(command: Command, address: str, tmp_path: Path) -> None:
    file = tmp_path / "digit.jpg"
    file.write_bytes(as_jpeg(STORED[3]))
    arguments = ("encoder-service", "search", str(file), "--address", address)
    assert "same" in command(*arguments).stdout
    assert json.loads(command(*arguments, "--json").stdout)["hits"][0]["relation"] == "same"


def test_a_gallery_says_how_far_the_same_picture_is(store_url: str, encoder: Encoder) -> None:
    store = open_store(store_url)
    spec = digits.build(store, encoder, count=100)
    with Server(store, encoder) as server, Client(server.address) as client:
        assert spec.calibration
        assert client.gallery("digits").calibration == spec.calibration


def test_copies_among_the_images_do_not_hide_that_they_are_copies(tmp_path: Path, command: Command) -> None:
    """Half of the images are copies, so half of the nearest neighbours are the same picture."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, image in enumerate(STORED[:60]):
        image.save(folder / f"{index}.png")
    for index, image in enumerate(STORED[:30]):
        (folder / f"{index}-copy.jpg").write_bytes(as_jpeg(image))
        image.save(folder / f"{index}-again.png")
    store = ("--store", f"edge:{tmp_path / 'store'}")
    assert command("ingest", "load", str(folder), "--encoder", "mnist", *store).returncode == 0
    page = tmp_path / "page.html"
    done = command("ingest", "duplicates", "folder", "--json", "--out", str(page), *store)
    found = json.loads(done.stdout)
    keys = [{Path(image["key"]).stem for image in group} for group in found["groups"]]
    together = [any({f"{index}", f"{index}-copy", f"{index}-again"} <= group for group in keys) for index in range(30)]
    assert sum(together) >= 28
    assert page.read_text().count("<img") == found["image_count"]
    table = command("ingest", "duplicates", "folder", "--limit", "2", *store)
    assert f"2 of {found['group_count']} groups shown" in table.stdout
    assert command("ingest", "duplicates", "folder", "--within", "0", *store).returncode == 0


def test_a_gallery_of_an_earlier_release_needs_a_distance(store_url: str, encoder: Encoder, command: Command) -> None:
    store = open_store(store_url)
    codes = encoder.encode_images([*STORED[:5], STORED[0]])
    with closing(store.build(GallerySpec("old", encoder.spec.name, encoder.spec.fingerprint, 128))) as build:
        build.gallery.upsert(digits.entries(codes))
        build.index()
        build.publish()
    failed = command("ingest", "duplicates", "old", "--store", store_url)
    assert (failed.returncode, "--within" in failed.stderr) == (3, True)
    done = command("ingest", "duplicates", "old", "--within", "0.001", "--json", "--store", store_url)
    assert [[image["key"] for image in group] for group in json.loads(done.stdout)["groups"]] == [["k0", "k5"]]


def on_a_line(positions: list[float]) -> ExactGallery:
    gallery = ExactGallery(GallerySpec("line", "seed", "0" * 64, 2))
    gallery.upsert(digits.entries(np.array([[position, 0] for position in positions], np.float32)))
    return gallery


def test_a_chain_of_pairs_does_not_join_images_that_differ() -> None:
    groups = groups_of(on_a_line([0, 1, 2, 3, 4, 5, 20, 20.5]), within=1)
    assert {"k6", "k7"} in groups
    assert max(map(len, groups)) == 3
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_many_copies_of_one_picture_are_one_group() -> None:
    assert groups_of(on_a_line([0.0] * 130 + [9.0]), within=0.5) == [{f"k{index}" for index in range(130)}]


def test_duplicates_on_a_server(in_memory_qdrant: QdrantConnection, encoder: Encoder, tmp_path: Path) -> None:
    store = RemoteStore(in_memory_qdrant, tmp_path)
    codes = encoder.encode_images([*STORED[:20], STORED[4]])
    with closing(store.build(GallerySpec("g", encoder.spec.name, encoder.spec.fingerprint, 128))) as build:
        build.gallery.upsert(digits.entries(codes))
        build.publish()
    with closing(store.open("g")) as gallery:
        assert groups_of(gallery, within=1e-3) == [{"k4", "k20"}]
