"""Loads in several processes."""

import pickle
from collections.abc import Callable, Iterator, Sequence
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
from ingest.loading.build import LoadOptions, load_and_publish
from ingest.progress import Stages
from ingest.sources import open_source
from tests import digits

SPEC = GallerySpec("digits", "seed", "f" * 64, 128, sources=("photos",))


class FolderGallery:
    """Entries as files in a folder, which any number of processes may write to."""

    spec = SPEC

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def upsert(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if "fails" in entry.key:
                raise StoreError("no room for it")
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


def test_workers_share_the_keys_and_the_next_load_finds_all_done(
    building: FolderBuild, photos: Path, encoder: Encoder
) -> None:
    terms = LoadOptions(workers=2, prune=True)
    done = load_and_publish(building, open_source(str(photos)), str(photos), encoder, Stages(), terms)[1]
    assert (done.added, done.rejected, building.gallery.count()) == (40, 1, 40)
    expected = encoder.encode_images([Image.open(photos / f"{index:02}.png") for index in range(40)])
    found = building.gallery.get([f"photos/{index:02}.png" for index in range(40)])
    for code, entry in zip(expected, found, strict=True):
        assert entry is not None
        np.testing.assert_allclose(entry.code, code, atol=1e-4)
    (photos / "00.png").unlink()
    (photos / "01.png").write_bytes((photos / "02.png").read_bytes())
    again = load_and_publish(building, open_source(str(photos)), str(photos), encoder, Stages(), terms)[1]
    assert (again.added, again.unchanged, again.pruned, building.gallery.count()) == (1, 38, 1, 39)


def test_what_fails_in_a_worker_is_said(building: FolderBuild, photos: Path, encoder: Encoder) -> None:
    (photos / "fails.png").write_bytes((photos / "02.png").read_bytes())
    with pytest.raises(StoreError, match="no room for it"):
        load_and_publish(building, open_source(str(photos)), str(photos), encoder, Stages(), LoadOptions(workers=2))


def test_where_one_process_may_write_workers_are_refused(store_url: str, photos: Path, encoder: Encoder) -> None:
    spec = GallerySpec("digits", encoder.spec.name, encoder.spec.fingerprint, 128, sources=("photos",))
    with (
        closing(open_store(store_url).build(spec)) as build,
        pytest.raises(InvalidInputError, match="--workers: expected a server"),
    ):
        load_and_publish(build, open_source(str(photos)), str(photos), encoder, Stages(), LoadOptions(workers=2))
