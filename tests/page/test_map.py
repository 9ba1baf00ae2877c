"""The map and the strip between two pictures in a browser, with real pointer and key events."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from encoder_service.encoder import Encoder
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from gallery import Store, open_store
from gallery.map import MAP, MAX_PLACE, GalleryMap, write_map
from tests import digits
from tests.page.conftest import OpenPage, url
from tests.page.test_search_page import WCAG, draw, expect_examples, names
from tests.waiting import eventually

# Share of the canvas that the whole map takes.
FIT = 0.94
KEY = "digits/train/200"


def columns() -> GalleryMap:
    """A map of the 400 digits: a column for each label."""
    labels = [str(label) for label in digits.read("train")[1]]
    keys = [f"digits/train/{index}" for index in range(400)]
    order = sorted(range(400), key=keys.__getitem__)
    places = np.zeros((400, 2), np.uint16)
    for label in "0123456789":
        rows = [row for row, index in enumerate(order) if labels[index] == label]
        places[rows, 0] = 3000 + int(label) * 6500
        places[rows, 1] = np.linspace(2000, MAX_PLACE - 2000, len(rows))
    return GalleryMap([keys[index] for index in order], [labels[index] for index in order], places)


COLUMNS = columns()


def put_map(store: Store, content: GalleryMap) -> None:
    write_map(store.local_folder("digits"), content.to_bytes())


@pytest.fixture(scope="module")
def map_url(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over a gallery of 400 digits with a map, which tests only read."""
    store = open_store(f"edge:{tmp_path_factory.mktemp('map') / 'store'}")
    digits.build(store, encoder)
    put_map(store, COLUMNS)
    with Server(store, encoder, Config(port=0, http_port=0)) as server:
        yield url(server)


def open_map(open_page: OpenPage, address: str, query: str = "", **settings: object) -> Page:
    page = open_page(f"{address}#view=map{query}", **settings)
    expect(page.locator("#plot")).to_be_visible()
    expect(page.locator("#hits li").first).to_be_visible()
    return page


def place_of(page: Page, key: str) -> tuple[float, float]:
    """Return where the whole map shows an image, in pixels of the page."""
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#points").bounding_box()
    assert box
    x, y = COLUMNS.places[list(COLUMNS.keys).index(key)].tolist()
    scale = min(box["width"], box["height"]) / MAX_PLACE * FIT
    return (
        box["x"] + box["width"] / 2 + (x - MAX_PLACE / 2) * scale,
        box["y"] + box["height"] / 2 + (y - MAX_PLACE / 2) * scale,
    )


def drawn(page: Page) -> str:
    """Return the map as it is drawn, once it rests."""
    page.wait_for_timeout(300)
    return str(page.evaluate("document.getElementById('points').toDataURL()"))


def has_colour(page: Page, colour: tuple[int, int, int]) -> bool:
    """Return whether a pixel of the map has this colour, once the map rests."""
    content = base64.b64decode(drawn(page).split(",")[1])
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    return bool((pixels == colour).all(axis=2).any())


def test_a_click_on_the_map_finds_images_like_the_one_there(open_page: OpenPage, map_url: str) -> None:
    page = open_map(open_page, map_url)
    expect(page.get_by_role("application", name="Map of digits: 400 images")).to_be_visible()
    expect(page.locator("#legend li")).to_have_text(list("0123456789"))
    before = drawn(page)
    page.mouse.click(*place_of(page, KEY))
    expect(page.locator("#title")).to_have_text(f"Most like {KEY}")
    page.wait_for_url(f"**#view=map*key={KEY}")
    assert KEY not in names(page)
    assert drawn(page) != before
    page.go_back()
    expect_examples(page)


def test_the_image_at_the_pointer_is_named(open_page: OpenPage, map_url: str) -> None:
    page = open_map(open_page, map_url)
    page.mouse.move(*place_of(page, KEY))
    label = COLUMNS.labels[list(COLUMNS.keys).index(KEY)]
    expect(page.locator("#here")).to_have_text(f"{label}, {KEY}")


def test_the_mouse_moves_and_zooms_the_map(open_page: OpenPage, map_url: str) -> None:
    page = open_map(open_page, map_url)
    x, y = place_of(page, KEY)
    page.mouse.move(x, y)
    whole = drawn(page)
    page.mouse.wheel(0, -500)
    with page.expect_response("**/GetImages"):
        page.mouse.wheel(0, -500)
    assert drawn(page) != whole
    page.mouse.down()
    page.mouse.move(x - 90, y - 60, steps=5)
    page.mouse.up()
    expect_examples(page)  # the end of a movement is no click
    page.mouse.click(x - 90, y - 60)
    expect(page.locator("#title")).to_have_text(f"Most like {KEY}")
    page.get_by_role("button", name="All", exact=True).click()
    page.mouse.click(*place_of(page, "digits/train/7"))
    expect(page.locator("#title")).to_have_text("Most like digits/train/7")


def test_the_map_can_be_used_from_the_keyboard_alone(open_page: OpenPage, map_url: str) -> None:
    page = open_map(open_page, map_url)
    page.locator("#to-galleries").focus()
    page.keyboard.press("Tab")
    expect(page.locator("#plot")).to_be_focused()
    for press in ("+", "+", "+", "ArrowRight", "ArrowDown", "-", "ArrowLeft", "ArrowUp", "ArrowUp"):
        page.keyboard.press(press)
    here = page.locator("#here").inner_text()
    assert re.fullmatch(r"\d, digits/train/\d+", here)
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text(f"Most like {here[3:]}")
    expect(page.locator("#plot")).to_be_focused()
    page.keyboard.press("0")
    page.mouse.click(*place_of(page, KEY))
    expect(page.locator("#title")).to_have_text(f"Most like {KEY}")


def test_a_drawing_is_marked_among_its_hits(open_page: OpenPage, map_url: str) -> None:
    page = open_map(open_page, map_url)
    accent = (11, 107, 93)
    assert not has_colour(page, accent)
    draw(page, (0.5, 0.15), (0.48, 0.85))
    expect(page.locator("#title")).to_have_text("Most like your drawing")
    eventually(lambda: has_colour(page, accent))
    page.get_by_role("button", name="Clear").click()
    expect_examples(page)
    eventually(lambda: not has_colour(page, accent))


def test_60_000_points_are_drawn_and_moved(
    open_page: OpenPage, serve: Callable[..., Server], encoder: Encoder, store_url: str
) -> None:
    store = open_store(store_url)
    digits.build(store, encoder, count=20)
    random = np.random.default_rng(0)
    places = (random.normal(32768, 9000, (60_000, 2)).clip(0, MAX_PLACE)).astype(np.uint16)
    keys = [f"k{index:05}" for index in range(60_000)]
    put_map(store, GalleryMap(keys, [key[-1] for key in keys], places))
    page = open_map(open_page, url(serve(store)))
    expect(page.locator("#map-note")).to_have_text(
        "The map has 60,000 images, and the gallery has 20. ingest map digits makes a new map."
    )
    before = drawn(page)
    page.locator("#plot").focus()
    page.keyboard.press("+")
    box = page.locator("#plot").bounding_box()
    assert box
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 300, steps=20)
    page.mouse.up()
    assert drawn(page) != before
    expect(page.locator("#here")).to_have_text(re.compile(r"\d, k\d{5}"))


def test_without_a_map_the_page_says_what_to_type_and_shows_the_map_once_it_is_there(
    open_page: OpenPage, serve: Callable[..., Server], encoder: Encoder, store_url: str
) -> None:
    store = open_store(store_url)
    digits.build(store, encoder)
    page = open_page(f"{url(serve(store))}#view=map&key={KEY}")
    expect(page.get_by_role("heading", name="No map of this gallery yet")).to_be_visible()
    expect(page.locator("#map-command")).to_have_text("ingest map digits")
    expect(page.locator("#title")).to_have_text(f"Most like {KEY}")
    put_map(store, COLUMNS)
    expect(page.locator("#plot")).to_be_visible()
    (store.local_folder("digits") / MAP).write_bytes(b"no map")
    page.reload()
    expect(page.get_by_role("heading", name="The map of this gallery can't be read")).to_be_visible()
    page.get_by_role("link", name="Search", exact=True).click()
    expect(page.locator("#title")).to_have_text(f"Most like {KEY}")


def test_a_strip_shows_what_lies_between_the_query_and_a_hit(page: Page, open_page: OpenPage) -> None:
    draw(page, (0.5, 0.15), (0.48, 0.85))
    page.wait_for_url("**picture=*")
    page.get_by_role("button", name="Look between the query and …").click()
    page.get_by_label("Images").select_option("12")
    expect(page.locator("#hits button")).to_have_count(12)
    expect(page.locator("#status")).to_have_text("Choose an image: see what lies between the query and it.")
    key = names(page)[-1]
    page.locator("#hits button").last.click()
    expect(page.get_by_role("heading", name="Between two pictures")).to_be_focused()
    strip = page.locator("#strip li")
    expect(strip).to_have_count(9)
    expect(strip.first.get_by_alt_text("Decoded at 0 % of the way")).to_be_visible()
    assert strip.last.locator("button").get_attribute("title") == key
    assert key not in [cell.get_attribute("title") for cell in page.locator("#strip button").all()[:-1]]
    page.wait_for_url(f"**to={key}")
    other = open_page(page.url)
    expect(other.locator("#strip li")).to_have_count(9)
    page.locator("#strip button").last.click()
    expect(page.locator("#title")).to_have_text(f"Most like {key}")
    page.go_back()
    expect(page.get_by_role("heading", name="Between two pictures")).to_be_visible()


def test_any_two_images_can_be_the_ends(page: Page) -> None:
    page.get_by_role("link", name="Between").click()
    expect(page.locator("#strip li")).to_have_count(9)
    page.get_by_label("From the image").fill("digits/train/1")
    page.get_by_label("To the image").fill("digits/train/2")
    page.keyboard.press("Enter")
    page.wait_for_url("**key=digits/train/1&to=digits/train/2")
    ends = page.locator("#strip button")
    expect(ends.first).to_have_attribute("title", "digits/train/1")
    expect(ends.last).to_have_attribute("title", "digits/train/2")
    page.get_by_label("To the image").fill("nothing")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("no image 'nothing' in gallery 'digits'")
    page.get_by_role("button", name="Two others").click()
    expect(page.locator("#alert")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_map_and_strip_are_accessible_and_fit(open_page: OpenPage, map_url: str, scheme: str, width: int) -> None:
    page = open_map(open_page, map_url, f"&key={KEY}", color_scheme=scheme, viewport={"width": width, "height": 844})
    axe = Axe()

    def check() -> None:
        found = axe.run(page, options=WCAG)
        assert not found.violations_count, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    check()
    page.evaluate("document.getElementById('map-view').hidden = true; document.getElementById('no-map').hidden = false")
    check()
    page.get_by_role("link", name="Between").click()
    expect(page.locator("#strip li")).to_have_count(9)
    check()


def test_a_finger_moves_the_map_and_two_zoom_it(open_page: OpenPage, map_url: str, tmp_path: Path) -> None:
    page = open_map(open_page, map_url, viewport={"width": 390, "height": 844}, has_touch=True)
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    assert box
    before = drawn(page)
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": box["x"] + x, "y": box["y"] + y, "id": index} for index, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (100, 150), (200, 150))
    for spread in range(0, 60, 10):
        touch("touchMove", (100 - spread, 150), (200 + spread, 150))
    touch("touchEnd")
    zoomed = drawn(page)
    assert zoomed != before
    touch("touchStart", (150, 150))
    for way in range(0, 100, 20):
        touch("touchMove", (150 - way, 150))
    touch("touchEnd")
    assert drawn(page) != zoomed
    expect_examples(page)
