"""Query expansion: search, average the query's code with those of its nearest hits, and search again."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from encoder_service.client import Client
from encoder_service.encoder import Encoder
from encoder_service.searcher import Key, Searcher, SearchRequest, SearchResult
from gallery import Entry, GallerySpec, Hit, Query, SearchOptions
from gallery.errors import InvalidQueryError
from gallery.exact import ExactGallery
from tests import digits

STORED = [Image.fromarray(pixels) for pixels in digits.read("train")[0]]


@pytest.fixture(scope="module")
def stored_codes(encoder: Encoder) -> NDArray[np.float32]:
    return encoder.encode_images(STORED)


def nearest(codes: NDArray[np.float32], code: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    return np.argsort(np.linalg.norm(codes - code, axis=1), kind="stable")[:count]


def keys(result: SearchResult) -> list[str]:
    return [hit.key for hit in result.hits]


def distances(result: SearchResult) -> list[float]:
    return [hit.distance for hit in result.hits]


def test_hits_are_nearest_to_the_mean_and_their_distances_are_to_the_query(
    client: Client, encoder: Encoder, queries: list[Image.Image], stored_codes: NDArray[np.float32]
) -> None:
    has_changed = []
    for query in queries[:20]:
        code = encoder.encode_images([query])[0]
        mean = np.mean([code, *stored_codes[nearest(stored_codes, code, 4)]], axis=0)
        expected = nearest(stored_codes, mean, 10)
        result = client.search(query, options=SearchOptions(limit=10), expand=4)
        assert keys(result) == [f"digits/train/{row}" for row in expected]
        np.testing.assert_allclose(distances(result), np.linalg.norm(stored_codes[expected] - code, axis=1), rtol=1e-3)
        assert result.expanded_count == 4
        has_changed.append(keys(result) != keys(client.search(query, options=SearchOptions(limit=10))))
    assert any(has_changed)


def test_the_same_image_is_among_the_first_at_distance_0_and_never_unusual(client: Client) -> None:
    for index in range(0, 400, 20):
        result = client.search(digits.png(STORED[index]), expand=4)
        assert result.hits[keys(result).index(f"digits/train/{index}")].distance == pytest.approx(0, abs=1e-3)
        assert not result.is_unusual


def test_noise_stays_unusual(client: Client) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8))
    assert client.search(noise, expand=8).is_unusual


def test_a_search_is_not_expanded_unless_asked(client: Client, queries: list[Image.Image]) -> None:
    for result in (
        client.search(queries[0]),
        client.search(queries[0], options=SearchOptions(exact=True)),
        client.search(Key("digits/train/0")),
    ):
        assert result.expanded_count == 0
        assert distances(result) == sorted(distances(result))


def test_image_and_code_exact_and_indexed_are_expanded_alike(client: Client, queries: list[Image.Image]) -> None:
    by_image = client.search(queries[1], expand=4)
    assert client.search(client.encode(digits.png(queries[1])), expand=4).hits == by_image.hits
    assert client.search(queries[1], options=SearchOptions(exact=True), expand=4).hits == by_image.hits
    inverted = client.search(ImageOps.invert(queries[1]), expand=4)
    assert (keys(inverted), inverted.prepared) == (keys(by_image), "inverted")


def test_a_batch_gives_the_hits_of_single_searches(client: Client, queries: list[Image.Image]) -> None:
    requests = [
        SearchRequest(ImageOps.invert(query) if index % 2 else query, SearchOptions(limit=3 + index), expand=expand)
        for index, (query, expand) in enumerate(zip(queries, (0, 4, 8, 1, 0, 2), strict=False))
    ]
    requests.append(SearchRequest(Key("digits/train/0")))
    results = client.search_batch(requests)
    assert [result.expanded_count for result in results] == [0, 4, 8, 1, 0, 2, 0]
    for request, result in zip(requests, results, strict=True):
        single = client.search(request.subject, options=request.options, expand=request.expand)
        assert keys(result) == keys(single)
        np.testing.assert_allclose(distances(result), distances(single), rtol=1e-3)


def test_filters_hold_for_the_images_averaged_and_for_the_hits(client: Client, queries: list[Image.Image]) -> None:
    plain = client.search(queries[0], options=SearchOptions(limit=9))
    others = client.search(queries[0], options=SearchOptions(exclude_keys=tuple(keys(plain))), expand=4)
    assert not set(keys(others)) & set(keys(plain))
    threes = client.search(queries[0], options=SearchOptions(labels=("3",)), expand=4)
    assert {hit.label for hit in threes.hits} == {"3"}
    bound = plain.hits[2].distance + 1e-3
    near = client.search(queries[0], options=SearchOptions(limit=9, max_distance=bound), expand=8)
    assert near.expanded_count == 3
    assert 0 < len(near.hits) <= 3
    assert max(distances(near)) <= bound
    with_thumbnails = client.search(queries[0], options=SearchOptions(with_thumbnails=True), expand=4)
    assert all(hit.thumbnail_png[:4] == b"\x89PNG" for hit in with_thumbnails.hits)


@pytest.mark.parametrize("expand", [-1, 9, 2.5])
def test_a_number_out_of_range_is_rejected(expand: int) -> None:
    with pytest.raises(InvalidQueryError, match=rf"^expand: expected 0 to 8, got {expand}$"):
        SearchRequest(b"", expand=expand)


class CountedGallery(ExactGallery):
    """Notes the number of queries of each call."""

    def __init__(self, encoder: Encoder, codes: NDArray[np.float32]) -> None:
        super().__init__(GallerySpec("g", encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size))
        self.upsert([Entry(str(index), code) for index, code in enumerate(codes)])
        self.calls: list[int] = []

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        self.calls.append(len(queries))
        return super().search_batch(queries)


def test_a_batch_is_expanded_in_two_calls_to_the_store(encoder: Encoder, stored_codes: NDArray[np.float32]) -> None:
    gallery = CountedGallery(encoder, stored_codes)
    requests = [SearchRequest(code, expand=4 if index < 30 else 0) for index, code in enumerate(stored_codes[:40])]
    assert len(Searcher(encoder, gallery).search_batch(requests)) == 40
    assert gallery.calls == [40, 30]


def test_an_empty_gallery_has_nothing_to_expand_with(encoder: Encoder, stored_codes: NDArray[np.float32]) -> None:
    result = Searcher(encoder, CountedGallery(encoder, stored_codes[:0])).search(
        SearchRequest(stored_codes[0], expand=4)
    )
    assert (result.hits, result.expanded_count) == ((), 0)
