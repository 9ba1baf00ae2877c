"""Queries in unusual form: digits are brought to MNIST's form, and what is no digit is left alone."""

import time
from contextlib import closing

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from benchmarks.framing import FORMS
from encoder_service.client import Client
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.framing import frame_digit
from encoder_service.searcher import Key, Searcher, SearchRequest
from gallery import Entry, GallerySpec, SearchOptions, Store, open_store
from tests import digits

TEST = [Image.fromarray(pixels) for pixels in digits.read("t10k")[0]]
LABELS = [str(label) for label in digits.read("t10k")[1]]


@pytest.fixture(scope="module")
def searcher(encoder: Encoder) -> Searcher:
    """Searches the 100 digits that the queries are drawn from."""
    return searcher_of(encoder, TEST)


def searcher_of(encoder: Encoder, pictures: list[Image.Image]) -> Searcher:
    store = open_store("exact:")
    building = store.build(GallerySpec("g", encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size))
    codes = encoder.encode_images(pictures)
    building.gallery.upsert([Entry(str(index), code, LABELS[index % 100], "", b"") for index, code in enumerate(codes)])
    return Searcher(encoder, building.gallery)


def test_mnists_own_images_stay_unchanged() -> None:
    for stem in ("train", "t10k"):
        for pixels in digits.read(stem)[0]:
            image = Image.fromarray(pixels)
            assert frame_digit(image) == (image, ())


@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("upright", "thin strokes")])
def test_a_digit_in_any_form_is_found(searcher: Searcher, form: str) -> None:
    chance = np.random.default_rng(1)
    pictures = [FORMS[form](digit, chance) for digit in TEST]
    results = searcher.search_batch([SearchRequest(picture, SearchOptions(limit=1)) for picture in pictures])
    assert np.mean([result.hits[0].label == label for result, label in zip(results, LABELS, strict=True)]) >= 0.95
    assert sum(bool(result.prepared) for result in results) >= 95


def test_the_answer_says_what_was_done(searcher: Searcher) -> None:
    inverted = ImageOps.invert(TEST[3])
    corner = ImageOps.expand(inverted.resize((84, 84)), (20, 20, 500, 300), fill=255)
    assert searcher.search(SearchRequest(TEST[3])).prepared == ""
    assert searcher.search(SearchRequest(inverted)).prepared == "inverted"
    assert searcher.search(SearchRequest(corner)).prepared == "inverted, centred"
    as_is = searcher.search(SearchRequest(inverted, as_is=True))
    assert as_is.prepared == ""
    assert as_is.hits[0].distance > searcher.search(SearchRequest(inverted)).hits[0].distance


def test_a_gallery_of_pictures_in_another_form_is_searched_in_that_form(encoder: Encoder) -> None:
    scans = [ImageOps.expand(ImageOps.invert(digit.resize((84, 84))), 30, fill=255) for digit in TEST]
    results = searcher_of(encoder, scans).search_batch([SearchRequest(scan) for scan in scans])
    for index, result in enumerate(results):
        assert (result.hits[0].key, result.prepared) == (str(index), "")
        assert result.hits[0].distance == pytest.approx(0, abs=1e-3)


def strokes_unlike_a_digit() -> list[Image.Image]:
    chance = np.random.default_rng(0)
    square = Image.new("L", (100, 100), 255)
    ImageDraw.Draw(square).rectangle((5, 10, 55, 60), fill=0)
    return [
        Image.new("L", (28, 28)),
        Image.new("L", (1, 1), 255),
        Image.new("L", (300, 2), 90),
        Image.fromarray(chance.integers(0, 256, (28, 28), np.uint8)),
        Image.fromarray(chance.integers(0, 256, (300, 200), np.uint8)),
        Image.linear_gradient("L"),
        square,
    ]


@pytest.mark.parametrize("picture", strokes_unlike_a_digit())
def test_what_shows_no_strokes_is_left_alone(picture: Image.Image) -> None:
    assert frame_digit(picture) == (picture, ())


def test_only_encoders_of_digits_reframe() -> None:
    inverted = ImageOps.invert(TEST[0])
    assert load_encoder("mnist").frame(inverted)[1] == load_encoder("seed").frame(inverted)[1] == ("inverted",)
    assert load_encoder("fashion").frame(inverted) == (inverted, ())


def test_ink_on_transparency_is_reframed(searcher: Searcher) -> None:
    transparent = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    transparent.putalpha(TEST[5])
    result = searcher.search(SearchRequest(transparent))
    assert (result.hits[0].key, result.prepared) == ("5", "inverted")


def test_a_picture_in_form_is_recognised_quickly() -> None:
    def seconds() -> float:
        begun = time.perf_counter()
        for digit in TEST:
            frame_digit(digit)
        return time.perf_counter() - begun

    assert min(seconds() for _ in range(20)) / len(TEST) < 5e-4  # 0.07 ms on an idle machine


def test_a_service_reframes_unless_asked_not_to(client: Client) -> None:
    inverted = ImageOps.invert(TEST[0])
    upright, framed, as_is = client.search(TEST[0]), client.search(inverted), client.search(inverted, as_is=True)
    assert (upright.prepared, framed.prepared, as_is.prepared) == ("", "inverted", "")
    assert upright.hits == framed.hits != as_is.hits
    assert client.search_batch([SearchRequest(inverted, as_is=True)])[0].hits == as_is.hits


def test_the_query_itself_is_a_close_match_even_among_copies(encoder: Encoder, store: Store) -> None:
    with closing(store.open("digits")) as gallery:
        stored = gallery.get(["digits/train/3"])[0]
        assert stored is not None
        gallery.upsert([Entry("copy", stored.code, "", "", b"")])
        result = Searcher(encoder, gallery).search(SearchRequest(Key("digits/train/3")))
    assert (result.hits[0].key, result.hits[0].distance_percentile, result.is_unusual) == ("copy", 0, False)
