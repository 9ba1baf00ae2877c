"""One suite for every kind of gallery, compared with plain NumPy."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from gallery import Entry, Gallery, GallerySpec, Hit, Query, SearchOptions, Store
from gallery.errors import InvalidCodeError, InvalidQueryError
from tests.digits import entries

SPEC = GallerySpec("g", "seed", "f" * 64, 8)
CODES = np.random.default_rng(5).random((300, 8), np.float32)


@pytest.fixture
def empty(store: Store) -> Iterator[Gallery]:
    with closing(store.build(SPEC)) as build:
        yield build.gallery


@pytest.fixture
def full(empty: Gallery) -> Gallery:
    empty.upsert(entries(CODES))
    return empty


def nearest(code: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argsort(np.linalg.norm(CODES - code, axis=1))


def keys(hits: list[Hit]) -> list[str]:
    return [hit.key for hit in hits]


def test_hits_are_the_nearest_by_euclidean_distance(full: Gallery) -> None:
    code = np.full(8, 0.5, np.float32)
    hits = full.search(Query(code, SearchOptions(limit=10)))
    assert keys(hits) == [f"k{i}" for i in nearest(code)[:10]]
    expected = np.sort(np.linalg.norm(CODES - code, axis=1))[:10]
    np.testing.assert_allclose([hit.distance for hit in hits], expected, rtol=1e-5)


def test_a_stored_code_is_at_distance_0_from_itself(full: Gallery) -> None:
    hit = full.search(Query(CODES[42]))[0]
    assert (hit.key, hit.distance) == ("k42", 0.0)


def test_a_batch_returns_the_hits_of_single_searches(full: Gallery) -> None:
    queries = [Query(CODES[i], SearchOptions(limit=i + 1)) for i in range(4)]
    assert full.search_batch(queries) == [full.search(query) for query in queries]


def test_a_filter_by_label_returns_only_these_labels(full: Gallery) -> None:
    hits = full.search(Query(CODES[0], SearchOptions(limit=300, labels=("b",))))
    assert len(hits) == 150
    assert {hit.label for hit in hits} == {"b"}


def test_excluded_keys_are_not_returned(full: Gallery) -> None:
    hits = full.search(Query(CODES[0], SearchOptions(limit=3, exclude_keys=("k0", "no such key"))))
    assert keys(hits) == [f"k{i}" for i in nearest(CODES[0])[1:4]]


def test_no_hit_is_farther_than_max_distance(full: Gallery) -> None:
    hits = full.search(Query(CODES[0], SearchOptions(limit=300, max_distance=0.6)))
    assert len(hits) == (np.linalg.norm(CODES - CODES[0], axis=1) <= 0.6).sum() > 1


def test_exact_search_gives_the_same(full: Gallery) -> None:
    assert full.search(Query(CODES[7], SearchOptions(exact=True))) == full.search(Query(CODES[7]))


def test_thumbnails_come_only_when_asked_for(full: Gallery) -> None:
    assert full.search(Query(CODES[3]))[0].thumbnail_png == b""
    assert full.search(Query(CODES[3], SearchOptions(with_thumbnails=True)))[0].thumbnail_png == b"png3"


def test_codes_come_only_when_asked_for(full: Gallery) -> None:
    assert full.search(Query(CODES[3]))[0].code is None
    queries = [Query(CODES[3], with_codes=True), Query(CODES[4]), Query(CODES[5], with_codes=True)]
    with_code, without, with_code_too = full.search_batch(queries)
    assert without[0].code is None
    for hits in (full.search(queries[0]), with_code, with_code_too):
        for hit in hits:
            np.testing.assert_array_equal(hit.code, CODES[int(hit.key[1:])])


def test_an_empty_gallery_has_no_hits(empty: Gallery) -> None:
    assert empty.search(Query(CODES[0])) == []


def test_storing_again_changes_nothing_and_new_content_replaces(full: Gallery) -> None:
    full.upsert(entries(CODES))
    assert full.count() == 300
    full.upsert([Entry("k5", CODES[5] + 9, "new")])
    assert full.count() == 300
    hit = full.search(Query(CODES[5] + 9))[0]
    assert (hit.key, hit.label) == ("k5", "new")


def test_entries_come_back_as_they_were_stored(full: Gallery) -> None:
    ninth, missing, second = full.get(["k9", "no such key", "k2"])
    assert missing is None
    for entry, index in ((ninth, 9), (second, 2)):
        stored = entries(CODES)[index]
        assert entry is not None
        np.testing.assert_array_equal(entry.code, stored.code)
        assert (entry.key, entry.label, entry.sha256, entry.thumbnail_png) == (
            stored.key,
            stored.label,
            stored.sha256,
            stored.thumbnail_png,
        )


def test_scrolling_visits_every_entry_once(full: Gallery) -> None:
    batches = list(full.scroll(batch_count=77))
    assert max(map(len, batches)) <= 77
    assert sorted(entry.key for batch in batches for entry in batch) == sorted(f"k{i}" for i in range(300))


def test_deleted_entries_no_longer_exist(full: Gallery) -> None:
    full.delete(["k0", "k1", "no such key"])
    assert full.count() == 298
    assert full.get(["k0"]) == [None]
    assert "k0" not in keys(full.search(Query(CODES[0])))


def test_empty_arguments_do_nothing(full: Gallery) -> None:
    full.upsert([])
    full.delete([])
    assert (full.get([]), full.search_batch([]), full.count()) == ([], [], 300)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full(8, np.nan, np.float32), "finite numbers, got nan"),
        (np.array([0, 1, 2, np.inf, 4, 5, 6, 7], np.float32), "got inf at position 3"),
        (np.zeros(7, np.float32), "expected 8 numbers, got 7"),
        (np.zeros(0, np.float32), "expected 8 numbers, got 0"),
    ],
)
def test_bad_codes_are_rejected_before_they_are_stored_or_searched(
    full: Gallery, bad: NDArray[np.float32], message: str
) -> None:
    good = Entry("new", CODES[0])
    with pytest.raises(InvalidCodeError, match=message):
        full.upsert([replace(good, key="bad", code=bad)])
    with pytest.raises(InvalidCodeError, match=message):
        full.search(Query(bad))
    assert full.count() == 300


def test_a_batch_with_a_bad_code_is_rejected_whole(full: Gallery) -> None:
    with pytest.raises(InvalidCodeError):
        full.upsert([Entry("good", CODES[0]), Entry("bad", np.full(8, np.nan, np.float32))])
    assert full.get(["good"]) == [None]


@pytest.mark.parametrize(
    "code",
    [np.full(8, 1e20), np.full(8, -1e19), np.array([3e38, 0, 0, 0, 0, 0, 0, 0]), np.array([1.01e18, *[0] * 7])],
)
def test_codes_whose_distances_would_overflow_are_rejected(full: Gallery, code: NDArray[np.float64]) -> None:
    huge = code.astype(np.float32)
    for attempt in (
        lambda: full.search(Query(huge)),
        lambda: full.search_batch([Query(CODES[0]), Query(huge)]),
        lambda: full.upsert([Entry("good", CODES[0]), Entry("bad", huge)]),
    ):
        with pytest.raises(InvalidCodeError, match=r"code: expected a Euclidean norm of at most 1e\+18, .* got [1-9]"):
            attempt()
    assert full.count() == 300


def test_the_largest_codes_have_finite_distances(empty: Gallery) -> None:
    largest = np.array([0.99e18, *[0] * 7], np.float32)
    empty.upsert([Entry("near", largest), Entry("far", -largest), Entry("zero", np.zeros(8, np.float32))])
    hits = empty.search(Query(largest, SearchOptions(exact=True)))
    assert keys(hits) == ["near", "zero", "far"]
    np.testing.assert_allclose([hit.distance for hit in hits], [0, 0.99e18, 1.98e18], rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_a_bound_beyond_all_distances_is_none(full: Gallery) -> None:
    assert len(full.search(Query(CODES[0], SearchOptions(limit=300, max_distance=1e39)))) == 300


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_limits_out_of_range_are_rejected(limit: int) -> None:
    with pytest.raises(InvalidQueryError, match="limit: expected 1 to 1,000"):
        SearchOptions(limit=limit)


@pytest.mark.parametrize("bound", [-0.1, float("nan"), float("inf")])
def test_invalid_distances_are_rejected(bound: float) -> None:
    with pytest.raises(InvalidQueryError, match="max_distance"):
        SearchOptions(max_distance=bound)
