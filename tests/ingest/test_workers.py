"""Loads in several worker processes."""

import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder_service.encoder import Encoder
from gallery import Calibration, Entry, Gallery, GallerySpec, Hit, Query, open_store
from gallery.errors import InvalidInputError, StoreError
from gallery.exact import ExactGallery
from gallery.types import Changes
from ingest.loading.build import LoadOptions, load_and_publish
from ingest.loading.ledger import Ledger
from ingest.loading.pipeline import LoadPass
from ingest.loading.workers import load_in_parallel
from ingest.progress import Stages
from ingest.sources import open_source
from tests import digits

SPEC = GallerySpec("digits", "seed", "f" * 64, 128, sources=("photos",))


class FolderGallery:
    """A gallery of files in a folder, to which any number of processes may write."""

    spec = SPEC

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def upsert(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if "fails" in entry.key:
                raise StoreError("the disk is full")
            (self.folder / entry.key.replace("/", "_")).write_bytes(pickle.dumps(entry))

    def _all(self) -> list[Entry]:
        return [pickle.loads(path.read_bytes()) for path in sorted(self.folder.iterdir())]

    def _exact(self) -> ExactGallery:
        exact = ExactGallery(SPEC)
        exact.upsert(self._all())
        return exact

    def search(self, query: Query) -> list[Hit]:
        return self._exact().search(query)

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        return self._exact().search_batch(queries)

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        return self._exact().get(keys)

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        return self._exact().scroll(batch_count)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            (self.folder / key.replace("/", "_")).unlink(missing_ok=True)

    def count(self) -> int:
        return len(list(self.folder.iterdir()))

    def changes(self) -> Changes:
        return Changes()

    def close(self) -> None:
        pass


@dataclass
class FolderBuild:
    local_folder: Path

    @property
    def modified_by_service(self) -> bool:
        return False

    @property
    def gallery(self) -> Gallery:
        return FolderGallery(self.local_folder / "entries")

    @property
    def reopen(self) -> Callable[[], Gallery]:
        return partial(FolderGallery, self.local_folder / "entries")

    def check_space(self, new_count: int) -> None:
        pass

    def index(self) -> None:
        pass

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        return SPEC

    def close(self) -> None:
        pass


@pytest.fixture
def building(tmp_path: Path) -> FolderBuild:
    (tmp_path / "build" / "entries").mkdir(parents=True)
    return FolderBuild(tmp_path / "build")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, pixels in enumerate(digits.read("train")[0][:40]):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    (folder / "bad.png").write_text("no image")
    return folder


def test_workers_share_the_keys_and_the_next_load_finds_them(
    building: FolderBuild, photos: Path, encoder: Encoder
) -> None:
    options = LoadOptions(workers=2, prune=True)
    first = load_and_publish(building, open_source(str(photos)), encoder, Stages(), options)[1]
    assert (first.added, first.rejected, building.gallery.count()) == (40, 1, 40)
    expected = encoder.encode_images([Image.open(photos / f"{index:02}.png") for index in range(40)])
    entries = building.gallery.get([f"photos/{index:02}.png" for index in range(40)])
    for code, entry in zip(expected, entries, strict=True):
        assert entry is not None
        np.testing.assert_allclose(entry.code, code, atol=1e-4)
    (photos / "00.png").unlink()
    (photos / "01.png").write_bytes((photos / "02.png").read_bytes())
    again = load_and_publish(building, open_source(str(photos)), encoder, Stages(), options)[1]
    assert (again.added, again.unchanged, again.pruned, building.gallery.count()) == (1, 38, 1, 39)


def test_a_worker_s_error_is_raised(building: FolderBuild, photos: Path, encoder: Encoder) -> None:
    (photos / "fails.png").write_bytes((photos / "02.png").read_bytes())
    with pytest.raises(StoreError, match="the disk is full"):
        load_and_publish(building, open_source(str(photos)), encoder, Stages(), LoadOptions(workers=2))


def test_a_worker_without_a_share_of_a_tiny_source_ends_well(
    building: FolderBuild, photos: Path, encoder: Encoder
) -> None:
    summary = load_and_publish(building, open_source(str(photos), limit=1), encoder, Stages(), LoadOptions(workers=2))[
        1
    ]
    assert (summary.added, building.gallery.count()) == (1, 1)


def test_a_store_with_one_writer_refuses_workers(store_url: str, photos: Path, encoder: Encoder) -> None:
    spec = GallerySpec("digits", encoder.spec.name, encoder.spec.fingerprint, 128, sources=("photos",))
    with (
        closing(open_store(store_url).build(spec)) as build,
        pytest.raises(InvalidInputError, match="--workers: expected a server"),
    ):
        load_and_publish(build, open_source(str(photos)), encoder, Stages(), LoadOptions(workers=2))


def test_workers_stop_when_the_load_is_stopped(building: FolderBuild, photos: Path, encoder: Encoder) -> None:
    stop = threading.Event()
    stop.set()
    source = open_source(str(photos))
    with closing(Ledger(building.local_folder)) as ledger, ThreadPoolExecutor(1) as pool:
        load_pass = LoadPass(source, encoder, building.gallery, ledger, Stages(), pool, stop=stop)
        assert load_in_parallel(2, load_pass, building).stopped
    assert load_and_publish(building, source, encoder, Stages(), LoadOptions(workers=2))[1].seen == 41
    assert building.gallery.count() == 40
