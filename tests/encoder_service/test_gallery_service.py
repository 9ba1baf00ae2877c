"""Galleries that change while they are searched, over a real socket."""

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.errors import KeyTakenError
from encoder_service.rpc.server import Server
from encoder_service.writer import GalleryWriter, NewImage
from gallery import GallerySpec, SearchOptions, Store, open_store
from gallery.errors import InvalidInputError, LookalikeError, NotFoundError
from gallery.exact import ExactGallery
from tests.commands import BIN, Command
from tests.digits import build, png


@pytest.fixture
def own(server: Server) -> Iterator[Client]:
    """A client of a service whose gallery the test may change."""
    with Client(server.address) as client:
        yield client


def new(queries: list[Image.Image], count: int) -> list[NewImage]:
    return [NewImage(f"new/{index}", png(image), "new") for index, image in enumerate(queries[:count])]


def test_galleries_are_listed_and_described(store: Store, own: Client) -> None:
    (listed,) = own.galleries()
    assert listed == store.spec("digits")
    assert (listed.name, listed.version, listed.count, listed.encoder) == ("digits", 1, 400, "seed")
    assert listed.calibration
    assert own.gallery("digits") == own.gallery() == listed
    with pytest.raises(NotFoundError, match="no gallery 'other'"):
        own.gallery("other")


def test_added_images_are_found_at_once_and_removed_images_no_longer(own: Client, queries: list[Image.Image]) -> None:
    assert list(own.add(new(queries, 5), "digits")) == [False] * 5
    assert own.gallery().count == own.galleries()[0].count == 405
    hit = own.search(png(queries[3]), options=SearchOptions(with_thumbnails=True)).hits[0]
    assert (hit.key, hit.label) == ("new/3", "new")
    assert hit.distance == pytest.approx(0, abs=1e-3)
    assert hit.thumbnail_png
    assert own.delete(["new/3", "new/4", "no such key"]) == 2
    assert own.gallery().count == 403
    assert own.search(png(queries[3])).hits[0].key != "new/3"


def test_an_unchanged_image_is_reported_and_a_changed_one_is_replaced(own: Client, queries: list[Image.Image]) -> None:
    images = new(queries, 2)
    assert list(own.add(images, "digits")) == [False, False]
    assert list(own.add(images, "digits")) == [True, True]
    assert list(own.add([NewImage("new/0", images[1].picture, "other")], "digits")) == [False]
    assert own.gallery().count == 402
    labels = {hit.key: hit.label for hit in own.search(png(queries[1])).hits[:2]}
    assert labels == {"new/0": "other", "new/1": "new"}


def test_another_image_under_the_same_key_is_kept_if_the_caller_says_so(
    own: Client, queries: list[Image.Image]
) -> None:
    list(own.add(new(queries, 1), "digits"))
    relabelled = NewImage("new/0", png(queries[0]), "other", keep_stored=True)
    changed = NewImage("new/0", png(queries[1]), "new", keep_stored=True)
    same, other = own.add([relabelled, changed], "digits")
    assert same is False
    assert isinstance(other, KeyTakenError)
    (hit,) = own.search(png(queries[0]), options=SearchOptions(limit=1)).hits
    assert (hit.key, hit.label) == ("new/0", "other")


def test_of_two_calls_at_once_only_one_stores_its_image_if_both_keep_what_is_stored(
    encoder: Encoder, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = ExactGallery(GallerySpec("g", "seed", encoder.spec.fingerprint, 128))
    writer = GalleryWriter(encoder, gallery)
    together = threading.Barrier(2, timeout=10)
    normalise = encoder.normalise

    def wait_and_normalise(images: Sequence[Image.Image]) -> np.ndarray:
        together.wait()  # both calls have found the key free
        return normalise(images)

    monkeypatch.setattr(encoder, "normalise", wait_and_normalise)
    images = [NewImage("k", png(query), keep_stored=True) for query in queries[:2]]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda image: writer.add([image])[0], images))
    assert sorted(isinstance(result, KeyTakenError) for result in results) == [False, True]
    (entry,) = gallery.get(["k"])
    assert entry and entry.sha256 == images[results.index(False)].sha256


def test_an_image_without_a_label_keeps_the_stored_label_and_an_empty_label_removes_it(
    own: Client, queries: list[Image.Image]
) -> None:
    def label(picture: bytes) -> str:
        (hit,) = own.search(picture, options=SearchOptions(limit=1)).hits
        assert hit.key == "new/0"
        return hit.label

    first, second = png(queries[0]), png(queries[1])
    list(own.add([NewImage("new/0", first, "nine")], "digits"))
    assert list(own.add([NewImage("new/0", first)], "digits")) == [True]
    assert label(first) == "nine"
    assert list(own.add([NewImage("new/0", second)], "digits")) == [False]
    assert label(second) == "nine"
    assert list(own.add([NewImage("new/0", second, "")], "digits")) == [False]
    assert label(second) == ""


def test_of_two_images_with_the_same_key_the_later_is_stored(own: Client, queries: list[Image.Image]) -> None:
    first, second = png(queries[0]), png(queries[1])
    assert len(list(own.add([NewImage("twice", first), NewImage("twice", second)], "digits"))) == 2
    assert own.gallery().count == 401
    assert own.search(second).hits[0].key == "twice"


def test_a_bad_image_is_an_item_error_and_the_stream_continues(own: Client, queries: list[Image.Image]) -> None:
    images = [
        NewImage("ok", png(queries[0])),
        NewImage("truncated", png(queries[1])[:50]),
        NewImage("", png(queries[2])),
        NewImage("k" * 1025, png(queries[2])),
        NewImage("label", png(queries[2]), "l" * 1025),
        NewImage("pixels", queries[3]),
    ]
    answers = list(own.add(images, "digits"))
    assert [answer for answer in answers if not isinstance(answer, LookalikeError)] == [False, False]
    messages = [str(answer) for answer in answers if isinstance(answer, InvalidInputError)]
    for message, expected in zip(
        messages,
        ["whole image file", "key: expected 1 to 1,024", "key: expected 1 to 1,024", "label: expected at most 1,024"],
        strict=True,
    ):
        assert expected in message
    assert own.gallery().count == 402


def test_a_stream_without_a_gallery_or_for_an_unknown_one_is_rejected(own: Client, queries: list[Image.Image]) -> None:
    with pytest.raises(InvalidInputError, match="expected a name in the first message"):
        list(own.add(new(queries, 1), ""))
    with pytest.raises(NotFoundError, match="no gallery 'other'"):
        list(own.add(new(queries, 1), "other"))
    with pytest.raises(InvalidInputError, match=r"keys: expected at most 1,000, got 1,001"):
        own.delete(["k"] * 1001)


def test_searches_succeed_while_images_are_added(own: Client, queries: list[Image.Image]) -> None:
    is_added = threading.Event()
    hit_counts: list[int] = []

    def search() -> None:
        while not is_added.is_set():
            hit_counts.append(len(own.search(png(queries[0])).hits))

    searching = threading.Thread(target=search)
    searching.start()
    images = [NewImage(f"{turn}/{i}", image) for turn in range(5) for i, image in enumerate(queries)]
    assert list(own.add(images, "digits")) == [False] * 500
    is_added.set()
    searching.join()
    assert set(hit_counts) == {5}


def test_a_gallery_with_added_images_is_complete_after_the_service_has_stopped(
    store: Store, server: Server, own: Client, queries: list[Image.Image]
) -> None:
    list(own.add(new(queries, 7), "digits"))
    server.stop()
    assert store.spec("digits").count == 407
    assert store.differences("digits") == []


def test_a_gallery_with_added_images_passes_the_check_and_can_be_backed_up(
    command: Command,
    store_url: str,
    store: Store,
    server: Server,
    own: Client,
    queries: list[Image.Image],
    tmp_path: Path,
) -> None:
    list(own.add(new(queries, 7), "digits"))
    server.stop()
    store.open("digits").close()  # as another service would
    checked = command("ingest", "check", "digits", "--sample", "0", "--store", store_url)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "a service or an interrupted load has added or deleted images" in checked.stderr
    backup = command("ingest", "backup", "digits", str(tmp_path / "digits.tar.gz"), "--store", store_url)
    assert backup.returncode == 0, backup.stderr
    assert "407 images" in backup.stdout


def test_acknowledged_images_survive_a_kill(store_url: str, store: Store, queries: list[Image.Image]) -> None:
    command = [str(BIN / "encoder-service"), "serve", "--port", "0", "--store", store_url, "--encoder", "seed"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    address = service.stdout.readline().split()[-1]
    acknowledged = 0
    with Client(address) as client, pytest.raises(LookalikeError):
        images = (NewImage(f"{turn}/{i}", image) for turn in range(1000) for i, image in enumerate(queries))
        for _ in client.add(images, "digits"):
            acknowledged += 1
            if acknowledged == 300:
                service.send_signal(signal.SIGKILL)
    service.communicate()
    with closing(store.open("digits")) as gallery:
        keys = [f"{turn}/{i}" for turn in range(1000) for i in range(100)][:acknowledged]
        assert None not in gallery.get(keys)
        all_keys = [entry.key for batch in gallery.scroll() for entry in batch]
    assert len(all_keys) == len(set(all_keys))


def test_after_a_kill_and_a_clean_end_a_grown_gallery_passes_the_check_and_can_be_backed_up(
    command: Command, store_url: str, store: Store, encoder: Encoder, queries: list[Image.Image], tmp_path: Path
) -> None:
    serve = [str(BIN / "encoder-service"), "serve", "--port", "0", "--store", store_url, "--encoder", "seed"]
    service = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    with Client(service.stdout.readline().split()[-1]) as client:
        assert list(client.add(new(queries, 7), "digits")) == [False] * 7
        assert client.delete(["digits/train/0"], "digits") == 1
        service.kill()
    service.communicate()
    with Server(store, encoder) as server, Client(server.address) as client:
        assert client.search(png(queries[3])).hits[0].key == "new/3"
    checked = command("ingest", "check", "digits", "--sample", "0", "--store", store_url)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    file = tmp_path / "digits.tar.gz"
    backup = command("ingest", "backup", "digits", str(file), "--store", store_url)
    assert (backup.returncode, "406 images" in backup.stdout) == (0, True), backup.stderr
    other = open_store(f"edge:{tmp_path / 'other'}")
    other.restore(file)
    with closing(other.open("digits")) as gallery:
        assert None not in gallery.get([f"new/{index}" for index in range(7)])
        assert gallery.get(["digits/train/0"]) == [None]


def test_a_load_restores_removed_images_and_keeps_added_ones(
    store: Store, server: Server, own: Client, encoder: Encoder, queries: list[Image.Image]
) -> None:
    list(own.add(new(queries, 7), "digits"))
    own.delete(["digits/train/0", "digits/train/1"])
    server.stop()
    assert build(store, encoder).count == 407


def test_a_load_notices_changes_though_the_count_is_the_same(
    store: Store, server: Server, own: Client, encoder: Encoder, queries: list[Image.Image]
) -> None:
    own.delete(["digits/train/0"])
    list(own.add(new(queries, 1), "digits"))
    list(own.add([NewImage("digits/train/1", png(queries[1]))], "digits"))
    server.stop()
    build(store, encoder)
    with closing(store.open("digits")) as gallery:
        removed, replaced = gallery.get(["digits/train/0", "digits/train/1"])
        assert gallery.count() == 401
        assert removed
        assert replaced
        assert replaced.label != ""


def test_an_error_of_the_image_source_reaches_the_caller_unchanged(own: Client, queries: list[Image.Image]) -> None:
    def images() -> Iterator[NewImage]:
        yield from new(queries, 3)
        raise InvalidInputError("the source went away")

    added = []
    with pytest.raises(InvalidInputError, match="the source went away"):
        for answer in own.add(images(), "digits"):
            added.append(answer)
    assert added == [False] * 3


def test_a_folder_is_loaded_through_the_service(
    command: Command, server: Server, own: Client, queries: list[Image.Image], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(queries[:20]):
        image.save(folder / f"{index}.png")
    (folder / "truncated.png").write_bytes(png(queries[0])[:40])
    load = ("ingest", "load", str(folder), "--name", "digits", "--service", server.address)
    first = command(*load)
    assert first.returncode == 0, first.stderr
    assert "digits: 20 images added, 0 unchanged\n420 in all" in first.stdout
    assert "'photos/truncated.png': image: expected a whole image file" in first.stderr
    again = command(*load, "--strict")
    assert "0 images added, 20 unchanged\n420 in all" in again.stdout
    assert (again.returncode, "bad images, got 1 of 21" in again.stderr) == (3, True)
    assert command(*load, "--rebuild").returncode == 3
    assert own.search(png(queries[7])).hits[0].key == "photos/7.png"
