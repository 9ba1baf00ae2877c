"""`ingest map`, and the map as services return it."""

import gzip
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from encoder_service.writer import NewImage
from gallery import Entry, GallerySpec, open_store
from gallery.errors import InvalidInputError, NotFoundError, StoreDamagedError
from gallery.exact import ExactGallery
from gallery.findings import FINDINGS, Findings, read_findings
from gallery.map import MAP, MAX_PLACE, GalleryMap
from ingest.map import lay_out
from ingest.progress import Stages
from tests import digits
from tests.commands import Command


def blobs(count: int) -> ExactGallery:
    """A gallery of four groups of codes that are far apart. The label names the group."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, 16)) * 8
    gallery = ExactGallery(GallerySpec("blobs", "e", "0" * 64, 16))
    gallery.upsert(
        [
            Entry(f"k{i:04}", (centres[i % 4] + random.normal(size=16)).astype(np.float32), "abcd"[i % 4])
            for i in range(count)
        ]
    )
    return gallery


def share_beside_its_own(found: GalleryMap) -> float:
    """Return the share of images whose nearest image on the map has the same label."""
    places = found.places.astype(float)
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    labels = np.array(found.labels)
    return float(np.mean(labels[distances.argmin(axis=1)] == labels))


def test_similar_images_are_close_together_and_a_map_is_always_the_same() -> None:
    gallery = blobs(200)
    found = lay_out(gallery, Stages())
    assert list(found.keys) == [f"k{i:04}" for i in range(200)]
    assert share_beside_its_own(found) > 0.95
    assert found.places.min() == 0
    assert found.places.max() == MAX_PLACE
    again = lay_out(gallery, Stages())
    assert again.to_bytes() == found.to_bytes()


def test_images_outside_of_the_sample_are_placed_by_their_neighbours() -> None:
    found = lay_out(blobs(400), Stages(), sample_count=150)
    assert list(found.keys) == [f"k{i:04}" for i in range(400)]
    assert share_beside_its_own(found) > 0.95


@pytest.mark.parametrize("count", [2, 3, 12])
def test_a_small_gallery_has_a_map(count: int) -> None:
    assert lay_out(blobs(count), Stages()).places.shape == (count, 2)


def test_a_map_of_one_image_is_one_clear_error() -> None:
    with pytest.raises(InvalidInputError, match="gallery 'blobs': expected at least 2 images for a map, got 1"):
        lay_out(blobs(1), Stages())


def test_a_map_is_made_beside_a_service_which_returns_it(store_url: str, encoder: Encoder, command: Command) -> None:
    store = open_store(store_url)
    digits.build(store, encoder, count=60)
    with Server(store, encoder) as server, Client(server.address) as client:
        with pytest.raises(NotFoundError, match="no map of gallery 'digits': make one with `ingest map digits`"):
            client.map()
        done = command("ingest", "map", "digits", "--store", store_url)
        assert done.stdout == "digits v1: a map of 60 images: the search page shows it\n"
        assert "laying out: 750 steps in " in done.stderr
        found = client.map("digits")
        assert sorted(found.keys) == sorted(f"digits/train/{index}" for index in range(60))
        labels = dict(zip(found.keys, found.labels, strict=True))
        assert labels["digits/train/0"] == str(digits.read("train")[1][0])
        client.delete(["digits/train/0"])
        refused = command("ingest", "map", "digits", "--store", store_url)
        assert refused.returncode == 5
        assert "is in use by" in refused.stderr


def test_a_map_survives_checks_backups_copies_and_compactions_and_a_rebuild_drops_it(
    store_url: str, encoder: Encoder, command: Command, tmp_path: Path
) -> None:
    store = open_store(store_url)
    digits.build(store, encoder, count=40)
    command("ingest", "map", "digits", "--store", store_url)
    content = (store.local_folder("digits") / MAP).read_bytes()
    assert command("ingest", "check", "digits", "--store", store_url).returncode == 0
    store.backup("digits", tmp_path / "backup")
    other = open_store(f"edge:{tmp_path / 'other'}")
    other.restore(tmp_path / "backup")
    assert (other.local_folder("digits") / MAP).read_bytes() == content
    assert not other.differences("digits")
    copied = command("ingest", "copy", "digits", "--from", store_url, "--to", f"edge:{tmp_path / 'copy'}")
    assert copied.returncode == 0
    assert (open_store(f"edge:{tmp_path / 'copy'}").local_folder("digits") / MAP).read_bytes() == content
    assert command("ingest", "compact", "digits", "--store", store_url).returncode == 0
    assert store.live_version("digits") == 2
    assert (store.local_folder("digits") / MAP).read_bytes() == content
    digits.build(store, encoder, count=40, rebuild=True)
    assert not (store.local_folder("digits") / MAP).exists()


def test_opening_for_reading_leaves_the_service_s_gallery_alone(store_url: str, encoder: Encoder) -> None:
    store = open_store(store_url)
    digits.build(store, encoder, count=20)
    with closing(store.open("digits")) as served:
        with closing(store.open_for_reading("digits")) as opened:
            assert sorted(entry.key for batch in opened.scroll() for entry in batch) == sorted(
                f"digits/train/{index}" for index in range(20)
            )
        assert served.count() == 20


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", gzip.compress(b"{}"), gzip.compress(b'{"labels":[],"keys":["a"],"label_indexes":[0]}')],
    ids=["empty", "not compressed", "without its fields", "without places"],
)
def test_a_damaged_map_is_one_clear_error(content: bytes) -> None:
    with pytest.raises(StoreDamagedError, match="run `ingest map` again"):
        GalleryMap.from_bytes(content, "here")


def test_a_map_without_opentsne_says_what_to_install(
    command: Command, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openTSNE", None)
    done = command("ingest", "map", "digits", "--store", store_url)
    assert done.returncode == 3
    assert "a map needs openTSNE, which is not installed: pip install '.[train]'" in done.stderr


def test_a_gallery_says_how_precise_it_is_and_how_many_duplicates_it_has(
    store_url: str, encoder: Encoder, command: Command, tmp_path: Path
) -> None:
    store = open_store(store_url)
    digits.build(store, encoder, count=60)
    with Server(store, encoder, Config(port=0, http_port=0)) as server:

        def described() -> dict[str, object]:
            address = f"http://127.0.0.1:{server.http_port}/encoder_service.v1.GalleryService/ListGalleries"
            gallery: dict[str, object] = httpx.post(address, json={}).json()["galleries"][0]
            return gallery

        assert "precisionAt5" not in described()
        evaluated = command("ingest", "evaluate", "digits", "--sample", "20", "--json", "--store", store_url)
        command("ingest", "duplicates", "digits", "--store", store_url)
        command("ingest", "duplicates", "digits", "--within", "1000", "--store", store_url)
        gallery = described()
        assert gallery["precisionAt5"] == json.loads(evaluated.stdout)["precision_at_5"]
        assert gallery["queryCount"] == "20"
        assert int(str(gallery.get("duplicateCount"))) < 10
    store.backup("digits", tmp_path / "backup")
    store.restore(tmp_path / "backup", "copy")
    assert read_findings(store.local_folder("copy")) == read_findings(store.local_folder("digits"))
    (store.local_folder("digits") / FINDINGS).write_bytes(b"[]")
    assert read_findings(store.local_folder("digits")) == Findings()


def test_what_commands_found_is_discarded_when_the_images_change(
    store_url: str, encoder: Encoder, command: Command, tmp_path: Path
) -> None:
    pictures = [Image.fromarray(pixels) for pixels in digits.read("train")[0][:40]]
    images = tmp_path / "images"
    images.mkdir()
    for index in range(30):
        pictures[index].save(images / f"{index}.png")

    def load(*options: str) -> None:
        done = command(
            "ingest", "load", str(images), "--gallery", "g", "--encoder", "seed", *options, "--store", store_url
        )
        assert done.returncode == 0, done.stderr

    def duplicates() -> int | None:
        """Return the number that is kept with the live version."""
        return read_findings(open_store(store_url).local_folder("g")).duplicate_count

    def find() -> None:
        assert command("ingest", "duplicates", "g", "--store", store_url).returncode == 0
        assert duplicates() is not None

    load()
    find()
    load()  # nothing has changed
    command("ingest", "compact", "g", "--store", store_url)
    assert duplicates() is not None
    pictures[30].save(images / "30.png")
    load()
    assert duplicates() is None
    find()
    (images / "30.png").unlink()
    load("--prune")
    assert duplicates() is None
    find()
    load("--rebuild")
    assert duplicates() is None
    changes: list[Callable[[Client], object]] = [
        lambda client: client.delete(["images/0.png"], "g"),
        lambda client: list(client.add([NewImage("new", digits.png(pictures[31]))], "g")),
    ]
    for change in changes:
        with Server(open_store(store_url), encoder, Config(port=0)) as server, Client(server.address) as client:
            find()
            change(client)
            assert duplicates() is None
