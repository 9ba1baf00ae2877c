"""`ingest compact` indexes a gallery anew. Checks and loads of the same source go on as before."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.encoder import Encoder
from gallery import open_store
from gallery.remote.connection import QdrantConnection
from gallery.remote.store import RemoteStore
from ingest.compact import compact
from ingest.progress import Stages
from tests.commands import Command
from tests.digits import build


@pytest.fixture
def photos(tmp_path: Path, queries: list[Image.Image]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(queries[:20]):
        image.save(folder / f"{index}.png")
    return folder


def test_after_a_compaction_checks_and_loads_of_the_same_source_go_on(
    command: Command, store_url: str, photos: Path
) -> None:
    load = ("ingest", "load", str(photos), "--encoder", "seed", "--store", store_url)
    assert command(*load).returncode == 0
    with closing(open_store(store_url).open("photos")) as gallery:  # as a service would
        (entry,) = [entry for entry in gallery.get(["photos/3.png"]) if entry]
        gallery.upsert([replace(entry, key=f"new/{index}") for index in range(10)])
        gallery.delete(["photos/3.png"])
    done = command("ingest", "compact", "photos", "--store", store_url)
    assert (done.returncode, done.stdout) == (0, "photos v2: 29 images indexed anew\n"), done.stderr
    checked = command("ingest", "check", "photos", "--store", store_url)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    again = command(*load)
    assert "1 image added, 19 unchanged\n30 in all" in again.stdout, again.stdout + again.stderr


def test_a_gallery_on_a_server_needs_no_compaction(
    command: Command, in_memory_qdrant: QdrantConnection, encoder: Encoder, tmp_path: Path
) -> None:
    server = RemoteStore(in_memory_qdrant, tmp_path)
    build(server, encoder, count=10)
    assert compact(server, "digits", Stages()) is None


def test_an_unknown_gallery_is_named(command: Command, store_url: str) -> None:
    missing = command("ingest", "compact", "photos", "--store", store_url)
    assert (missing.returncode, "no gallery 'photos'" in missing.stderr) == (4, True)
