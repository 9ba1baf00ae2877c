"""Galleries that are built in parts, because the memory has no room for the whole."""

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gallery import Query, SearchOptions, open_store
from gallery.edge.segments import even_segment_mb
from gallery.errors import InvalidInputError, StoreFullError
from gallery.memory import available_memory, build_parts, node_segment_mb
from gallery.profiles import PROFILES, find_profile
from gallery.remote.connection import QdrantConnection
from gallery.remote.store import RemoteStore
from tests.digits import entries
from tests.small_parts import SMALL, SPEC, build, codes

COUNT = 6000
# Memory that makes eight parts of them, and three segments
MEMORY = 1_500_000
MB = 1_000_000


def segments(store: str) -> list[Path]:
    return list(Path(store.removeprefix("edge:")).glob("g/v1/shard/segments/*/segment.json"))


def test_a_gallery_built_in_parts_is_the_same_as_one_built_at_once(store_url: str, tmp_path: Path) -> None:
    build(store_url, COUNT, MEMORY)
    at_once = f"edge:{tmp_path / 'at once'}"
    build(at_once, COUNT, 10**12)
    assert len(segments(at_once)) <= 2 < len(segments(store_url)) <= 4
    with closing(open_store(store_url).open("g")) as gallery, closing(open_store(at_once).open("g")) as other:
        for batch in gallery.scroll():
            for entry, same in zip(batch, other.get([entry.key for entry in batch]), strict=True):
                assert same and (entry.label, entry.sha256) == (same.label, same.sha256)
                np.testing.assert_array_equal(entry.code, same.code)
        assert gallery.count() == other.count() == COUNT
        for code in codes(COUNT)[::600]:
            assert [hit.key for hit in gallery.search(Query(code))] == [hit.key for hit in other.search(Query(code))]


def test_parts_are_joined_into_indexed_segments(store_url: str) -> None:
    # more than 10 MB of codes, below which Edge builds no graph
    stored = entries(codes(36_000))
    said: list[str] = []
    with SMALL, closing(open_store(store_url).build(SPEC, memory_bytes=30 * MB, say=said.append)) as building:
        for start in range(0, len(stored), 2000):
            building.gallery.upsert(stored[start : start + 2000])
        assert len(segments(store_url)) == 3
        assert len(said) == 2
        assert all(line.startswith("sorting ") for line in said)
        building.index()
        building.publish()
    with closing(open_store(store_url).open("g")) as gallery:
        found = total = 0
        for code in codes(36_000)[::500] + np.float32(0.01):
            nearest = {hit.key for hit in gallery.search(Query(code, SearchOptions(exact=True)))}
            found += len(nearest & {hit.key for hit in gallery.search(Query(code))})
            total += len(nearest)
    assert found >= 0.99 * total
    described = [path.read_text() for path in segments(store_url)]
    assert sum('"type":"hnsw"' in text for text in described) == 1
    assert not any('"m":0' in text for text in described)
    assert all('"turbo":{"memory":"cached"' in text for text in described)


@pytest.mark.parametrize(
    ("sorted_counts", "count", "most_mb", "expected_mb"),
    [
        ([20_480] * 11, 235_280, 80, 61),  # seven and a half of them and four, joined as five and a half and six
        ([20_480] * 11, 225_280, 1000, 1000),  # one segment
        ([20_480] * 3, 61_440, 15, 1),  # none can be joined
        ([20_480, 20_480, 204_800], 245_760, 30, 21),  # the large one stays as it is
    ],
)
def test_segments_become_as_large_as_one_another(
    tmp_path: Path, sorted_counts: list[int], count: int, most_mb: int, expected_mb: int
) -> None:
    for index, sorted_count in enumerate(sorted_counts):
        segment = tmp_path / "segments" / str(index)
        segment.mkdir(parents=True)
        (segment / "id_tracker.versions").write_bytes(bytes(8 * sorted_count))
    assert even_segment_mb(tmp_path, most_mb, count, 128) == expected_mb


def test_a_live_gallery_is_extended_in_parts_and_keeps_its_graph(store_url: str) -> None:
    build(store_url, COUNT, 10**12)
    with SMALL, closing(open_store(store_url).build(SPEC, memory_bytes=MEMORY)) as building:
        building.gallery.upsert(entries(codes(2 * COUNT))[COUNT:])
        building.index()
        assert building.publish().count == 2 * COUNT
    assert not open_store(store_url).differences("g")


@pytest.mark.parametrize("appears", ["temp_segments/*", "segments/*/vector_index/hnsw_config.json", "../manifest.*"])
def test_a_killed_build_resumes_with_each_key_once(appears: str, store_url: str) -> None:
    shard = Path(store_url.removeprefix("edge:")) / "g" / "v1" / "shard"
    process = subprocess.Popen([sys.executable, "-m", "tests.small_parts", "codes", store_url, str(COUNT), str(MEMORY)])
    while process.poll() is None and not any(shard.glob(appears)):
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert build(store_url, COUNT, MEMORY).count == COUNT
    with closing(open_store(store_url).open("g")) as gallery:
        keys = [entry.key for batch in gallery.scroll() for entry in batch]
    assert sorted(keys) == sorted(f"k{index}" for index in range(COUNT))
    assert not open_store(store_url).differences("g")


def test_too_little_memory_is_rejected_before_anything_is_written(store_url: str) -> None:
    with pytest.raises(InvalidInputError, match="--memory: expected at least 256 MB to build a gallery in, got 200 MB"):
        open_store(store_url).build(SPEC, memory_bytes=200 * MB)
    assert not Path(store_url.removeprefix("edge:")).exists()


def test_a_disk_too_small_for_the_entries_is_rejected(store_url: str) -> None:
    with (
        closing(open_store(store_url).build(SPEC)) as building,
        pytest.raises(StoreFullError, match=r"expected [0-9,]+ MB free"),
    ):
        building.check_space(10**12)


@pytest.mark.parametrize("name", PROFILES)
def test_more_memory_makes_larger_parts_up_to_the_profile_s_segments(name: str) -> None:
    profile = find_profile(name)
    sizes = [build_parts(megabytes * MB, profile, 128) for megabytes in (300, 500, 1000, 2000, 1_000_000)]
    assert sizes == sorted(sizes, key=lambda size: (size.sorted_bytes, size.segment_mb))
    assert sizes[-1].segment_mb == profile.max_segment_mb
    assert build_parts(None, profile, 128).sorted_bytes > 0


def test_the_available_memory_is_known_here() -> None:
    memory = available_memory()
    assert memory is None or memory > 100 * MB


def test_a_server_gets_segments_that_its_memory_can_index(in_memory_qdrant: QdrantConnection, tmp_path: Path) -> None:
    profile = find_profile("disk")
    assert node_segment_mb(2**30, profile) == 256
    assert node_segment_mb(2**50, profile) == profile.max_segment_mb
    store = RemoteStore(in_memory_qdrant, tmp_path)
    with pytest.raises(InvalidInputError, match="--memory: expected at least 68 MB"):
        store.build(SPEC, memory_bytes=10 * MB)
    assert not in_memory_qdrant.collections()
    with closing(store.build(SPEC, memory_bytes=2**30)) as building:
        building.gallery.upsert(entries(codes(10)))
        building.index()
        assert building.publish().count == 10
