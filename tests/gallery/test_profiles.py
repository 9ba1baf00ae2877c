"""Storage profiles: what they promise holds on real shards."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from gallery import GallerySpec, Query, SearchOptions, open_store
from gallery.errors import InvalidQueryError
from gallery.profiles import PROFILES
from tests.digits import entries

SPEC = GallerySpec("g", "seed", "f" * 64, 128)
CHANCE = np.random.default_rng(3)
# like codes of real pictures, these vary in few directions
CODES = (CHANCE.normal(size=(3000, 12)) @ CHANCE.normal(size=(12, 128))).astype(np.float32)
EXACT = SearchOptions(exact=True)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_finds_nearly_what_exact_search_finds_at_the_same_distances(name: str, store_url: str) -> None:
    with closing(open_store(store_url).build(replace(SPEC, profile=name))) as build:
        build.gallery.upsert(entries(CODES))
        build.index()
        queries = CODES[::30] + CHANCE.normal(0, 0.1, (100, 128)).astype(np.float32)
        found = build.gallery.search_batch([Query(code) for code in queries])
        expected = build.gallery.search_batch([Query(code, EXACT) for code in queries])
    shared = 0
    for hits, nearest in zip(found, expected, strict=True):
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


def test_a_profile_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidQueryError, match="profile: expected one of memory, balanced, disk, got 'fast'"):
        replace(SPEC, profile="fast")
