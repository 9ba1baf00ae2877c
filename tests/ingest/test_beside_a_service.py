"""Loads beside a running service, and through it."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.client import Client
from encoder_service.searcher import Key
from encoder_service.writer import NewImage
from gallery.errors import NotFoundError
from tests import digits
from tests.commands import BIN, Command


def fill(folder: Path, first: int, count: int) -> Path:
    """Write digits, beginning with the given one, into a folder."""
    folder.mkdir(parents=True)
    for index, pixels in enumerate(digits.read("train")[0][first : first + count]):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def photos(command: Command, store_url: str, tmp_path: Path) -> Path:
    """A folder that is loaded into a gallery of its name."""
    folder = fill(tmp_path / "ada" / "photos", 0, 4)
    loaded = command("ingest", "load", str(folder), "--store", store_url)
    assert loaded.returncode == 0, loaded.stderr
    return folder


@pytest.fixture
def service(photos: Path, store_url: str) -> Iterator[str]:
    """The address of a service on the store."""
    process = subprocess.Popen(
        [BIN / "encoder-service", "serve", "--port", "0", "--store", store_url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix("serving on ").strip()
    finally:
        process.terminate()
        process.communicate(timeout=30)


def has(client: Client, key: str) -> bool:
    try:
        client.search(Key(key), "photos")
    except NotFoundError:
        return False
    return True


def test_a_rebuild_names_how_many_images_it_leaves_out_that_were_added_meanwhile(
    command: Command, store_url: str, photos: Path, service: str
) -> None:
    images = iter(enumerate(digits.read("t10k")[0]))
    added: list[str] = []
    stop = threading.Event()
    with Client(service) as client:

        def new_images() -> Iterator[NewImage]:
            for index, pixels in images:
                yield NewImage(f"new/{index}", Image.fromarray(pixels))
                if index >= 3 and stop.wait(0.05):
                    return

        def add() -> None:
            for index, _ in enumerate(client.add(new_images(), "photos")):
                added.append(f"new/{index}")

        adding = threading.Thread(target=add)
        adding.start()
        refused = command("ingest", "load", str(photos), "--rebuild", "--keep-added", "--store", store_url)
        assert (refused.returncode, "is in use by process" in refused.stderr) == (5, True)
        stop.set()
        adding.join()
        client.delete(["new/0"], "photos")
        done = command("ingest", "load", str(photos), "--rebuild", "--store", store_url)
        assert done.returncode == 0, done.stderr
        assert f"left out {len(added) - 1:,} images that were added through a service" in done.stderr
        assert "(first: 'new/1')" in done.stderr


def test_two_folders_of_one_name_through_a_service(command: Command, photos: Path, service: str) -> None:
    other = fill(photos.parent.parent / "bob" / "photos", 10, 3)
    load = ("ingest", "load", "--service", service, "--gallery", "photos")
    for _ in range(2):
        assert "0 images added, 4 unchanged" in command(*load, str(photos)).stdout
    added = command(*load, str(other))
    assert "3 images added, 0 unchanged" in added.stdout
    note = f"note: another source has keys like photos/0.png, so the keys of {other} begin with bob/photos/"
    assert note in added.stderr
    assert "7 in all" in command(*load, str(photos)).stdout
    assert "0 images added, 3 unchanged" in command(*load, str(other)).stdout
    with Client(service) as client:
        assert all(has(client, key) for key in ("photos/0.png", "bob/photos/2.png"))
