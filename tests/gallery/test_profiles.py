"""Storage profiles on real shards, and the search parameters that follow from them."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient
from qdrant_client.conversions.conversion import RestToGrpc

from gallery import GallerySpec, Query, SearchOptions, open_store
from gallery.errors import InvalidQueryError
from gallery.profiles import PROFILES, find_profile, search_plan
from gallery.remote.connection import QdrantConnection
from gallery.remote.store import RemoteStore
from tests.digits import entries

SPEC = GallerySpec("g", "seed", "f" * 64, 128)
RNG = np.random.default_rng(3)
# Like codes of real images, these vary in few directions.
CODES = (RNG.normal(size=(3000, 12)) @ RNG.normal(size=(12, 128))).astype(np.float32)
EXACT = SearchOptions(exact=True)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_a_recall_of_99_percent_and_exact_distances(name: str, store_url: str) -> None:
    with closing(open_store(store_url).build(replace(SPEC, profile=name))) as build:
        build.gallery.upsert(entries(CODES))
        build.index()
        queries = CODES[::30] + RNG.normal(0, 0.1, (100, 128)).astype(np.float32)
        results = build.gallery.search_batch([Query(code) for code in queries])
        expected = build.gallery.search_batch([Query(code, EXACT) for code in queries])
    shared = 0
    for hits, nearest in zip(results, expected, strict=True):
        distances = {hit.key: hit.distance for hit in nearest}
        for hit in hits:
            shared += hit.key in distances
            assert hit.distance == pytest.approx(distances.get(hit.key, hit.distance), rel=1e-5)
    assert shared >= 0.99 * 5 * len(queries)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_a_gallery_with_a_graph_finds_and_keeps_its_codes(name: str, store_url: str) -> None:
    codes = (RNG.normal(size=(25_000, 12)) @ RNG.normal(size=(12, 128))).astype(np.float32)
    added = codes[:100] + np.float32(0.01)
    store = open_store(store_url)
    with closing(store.build(replace(SPEC, profile=name))) as build:
        build.gallery.upsert(entries(codes))
        build.index()
        build.publish()
    with closing(store.open("g")) as gallery:
        gallery.upsert([replace(entry, key=f"added{i}") for i, entry in enumerate(entries(added))])
        gallery.delete(["k0", "k1"])
        queries = [*codes[:200], *added]
        found = gallery.search_batch([Query(code) for code in queries])
        nearest = gallery.search_batch([Query(code, EXACT) for code in queries])
    shared = [
        {hit.key for hit in hits} & {hit.key for hit in exact} for hits, exact in zip(found, nearest, strict=True)
    ]
    assert sum(map(len, shared)) >= 0.99 * 5 * len(queries)
    with closing(store.build(replace(SPEC, profile=name))) as build:
        build.index()
        kept = {entry.key: entry.code for batch in build.gallery.scroll() for entry in batch}
        build.publish()
    assert len(kept) == len(codes) + len(added) - 2
    np.testing.assert_array_equal(np.stack([kept[f"k{i}"] for i in range(2, 25_000)]), codes[2:])


def test_a_gallery_remembers_its_profile(store_url: str) -> None:
    with closing(open_store(store_url).build(replace(SPEC, profile="disk"))) as build:
        build.gallery.upsert(entries(CODES[:10]))
        build.publish()
    assert open_store(store_url).spec("g").profile == "disk"


def test_an_unknown_profile_is_rejected() -> None:
    with pytest.raises(InvalidQueryError, match="profile: expected one of memory, balanced, disk, inline, got 'fast'"):
        replace(SPEC, profile="fast")


def test_a_search_keeps_at_least_as_many_candidates_as_it_returns() -> None:
    profile = find_profile("balanced")
    few, many = (search_plan(profile, SearchOptions(limit=limit)) for limit in (5, 1000))
    assert few and (few.ef, few.oversampling, few.acorn_selectivity) == (profile.ef, profile.oversampling, None)
    assert many and many.ef == 1000


def test_a_search_by_label_uses_acorn_and_twice_the_candidates() -> None:
    profile = find_profile("balanced")
    plan = search_plan(profile, SearchOptions(labels=("a",)))
    assert plan and plan.ef == 2 * profile.ef
    assert plan.acorn_selectivity == 0.5


def test_each_of_many_segments_keeps_and_compares_fewer_candidates() -> None:
    plans = [search_plan(find_profile("disk"), SearchOptions(), share) for share in (1.0, 0.5, 0.2)]
    assert [plan and plan.oversampling for plan in plans] == [3.0, pytest.approx(1.85, abs=0.01), 1.0]
    assert [plan and plan.ef for plan in plans] == [128, 91, 57]
    many = search_plan(find_profile("disk"), SearchOptions(limit=1000), 0.2)
    assert many and many.ef == 1000


def test_an_exact_search_has_no_plan() -> None:
    assert search_plan(find_profile("disk"), SearchOptions(labels=("a",), exact=True)) is None


def test_a_server_stores_the_codes_in_the_graph_with_inline_only(
    in_memory_qdrant: QdrantConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = []
    create = QdrantClient.create_collection

    def record(client: QdrantClient, *arguments: Any, **settings: Any) -> bool:
        configured.append(RestToGrpc.convert_hnsw_config_diff(settings["hnsw_config"]))
        return create(client, *arguments, **settings)

    monkeypatch.setattr(QdrantClient, "create_collection", record)
    store = RemoteStore(in_memory_qdrant, tmp_path)
    for name in PROFILES:
        store.build(replace(SPEC, name=name, profile=name)).close()
    assert [config.inline_storage for config in configured] == [name == "inline" for name in PROFILES]
