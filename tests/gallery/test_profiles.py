"""Storage profiles on real shards, and the search parameters that follow from them."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from gallery import GallerySpec, Query, SearchOptions, open_store
from gallery.errors import InvalidQueryError
from gallery.profiles import PROFILES, find_profile, search_plan
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


def test_a_gallery_remembers_its_profile(store_url: str) -> None:
    with closing(open_store(store_url).build(replace(SPEC, profile="disk"))) as build:
        build.gallery.upsert(entries(CODES[:10]))
        build.publish()
    assert open_store(store_url).spec("g").profile == "disk"


def test_an_unknown_profile_is_rejected() -> None:
    with pytest.raises(InvalidQueryError, match="profile: expected one of memory, balanced, disk, got 'fast'"):
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


def test_each_of_many_segments_compares_fewer_candidates() -> None:
    plans = [search_plan(find_profile("disk"), SearchOptions(), share) for share in (1.0, 0.5, 0.2)]
    assert [plan and plan.oversampling for plan in plans] == [3.0, 1.5, 1.0]


def test_an_exact_search_has_no_plan() -> None:
    assert search_plan(find_profile("disk"), SearchOptions(labels=("a",), exact=True)) is None
