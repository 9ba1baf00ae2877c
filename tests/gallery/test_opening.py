"""Opening a gallery: searches need not wait until its files have been read."""

import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gallery import GallerySpec, Query
from gallery.edge import page_cache
from gallery.edge.shard import EdgeGallery
from gallery.profiles import find_profile
from tests.digits import entries

SPEC = GallerySpec("g", "seed", "f" * 64, 128)
CODES = np.random.default_rng(5).normal(size=(50, 128)).astype(np.float32)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no page cache to read into")


def reading() -> bool:
    return any(thread.name == "read-ahead" for thread in threading.enumerate())


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A shard with a file of codes that takes long to read: 1 TB without content."""
    with closing(EdgeGallery(tmp_path / "shard", SPEC)) as gallery:
        gallery.upsert(entries(CODES))
    segment = next((tmp_path / "shard").glob("segments/*"))
    with (segment / "vector_storage" / "matrix.dat").open("wb") as file:
        file.truncate(10**12)
    return tmp_path / "shard"


def test_an_opened_gallery_answers_while_its_files_are_being_read_and_can_be_closed(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cache, "available_memory", lambda: None)
    gallery = EdgeGallery(large, SPEC)
    assert [gallery.search(Query(code))[0].key for code in CODES[:3]] == ["k0", "k1", "k2"]
    assert reading()
    gallery.close()
    assert not reading()
    with closing(EdgeGallery(large, SPEC)) as again:
        assert again.count() == len(CODES)


def test_no_more_is_read_than_fits_in_memory(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "available_memory", lambda: 8 * 1024 * 1024)
    with closing(EdgeGallery(large, SPEC)):
        for thread in threading.enumerate():
            if thread.name == "read-ahead":
                thread.join(10)
        assert not reading()


@pytest.mark.parametrize(("profile", "reads_codes"), [("balanced", True), ("disk", False), ("inline", False)])
def test_opening_reads_ahead_only_what_the_profile_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, reads_codes: bool
) -> None:
    codes = tmp_path / "segments" / "1" / "vector_storage" / "matrix.dat"
    codes.parent.mkdir(parents=True)
    codes.write_bytes(bytes(1000))
    read: list[str] = []
    monkeypatch.setattr("os.posix_fadvise", lambda file, *_: read.append(Path(f"/proc/self/fd/{file}").readlink().name))
    page_cache.prefetch(tmp_path, find_profile(profile))
    assert ("matrix.dat" in read) == reads_codes


@pytest.mark.parametrize(
    ("profile", "available", "expected"),
    [
        ("balanced", 10**9, ["matrix.dat", "page_0.dat"]),
        ("balanced", 4000, ["matrix.dat"]),
        ("disk", 10**9, []),
    ],
)
def test_thumbnails_are_read_ahead_after_the_codes_if_all_of_them_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, available: int, expected: list[str]
) -> None:
    for name in ("vector_storage/matrix.dat", "payload_storage/page_0.dat"):
        path = tmp_path / "segments" / "1" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(2000))
    read: list[str] = []
    monkeypatch.setattr("os.posix_fadvise", lambda file, *_: read.append(Path(f"/proc/self/fd/{file}").readlink().name))
    monkeypatch.setattr(page_cache, "available_memory", lambda: available)
    read_ahead = page_cache.ReadAhead(tmp_path, find_profile(profile))
    for thread in threading.enumerate():
        if thread.name == "read-ahead":
            thread.join(10)
    read_ahead.close()
    assert read == expected
