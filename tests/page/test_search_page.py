"""The search page in a browser, with real pointer and key events."""

import base64
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from encoder_service.encoder import Encoder
from encoder_service.rpc.server import Server
from gallery import open_store
from tests.digits import build, png
from tests.page.conftest import OpenPage, url

WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}


def draw(page: Page, *points: tuple[float, float]) -> None:
    """Draw a stroke through points of the drawing area, each from 0 to 1."""
    box = page.locator("#pad").bounding_box()
    assert box
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def draw_one(page: Page) -> None:
    draw(page, (0.5, 0.15), (0.48, 0.85))
    expect(page.locator("#hits")).not_to_have_attribute("aria-busy", "true")
    expect(page.locator("#title")).to_have_text("Most like your drawing")


def expect_examples(page: Page) -> None:
    expect(page.locator("#title")).to_have_text("Some images of this gallery")


def labels(page: Page) -> list[str]:
    return page.locator("#hits .label").all_inner_texts()


def names(page: Page) -> list[str]:
    return [str(hit.get_attribute("title")) for hit in page.locator("#hits button").all()]


def drop(page: Page, name: str, content: bytes, kind: str) -> None:
    """Drop a file on the page."""
    data = page.evaluate_handle(
        """([name, content, kind]) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            data.items.add(new File([bytes], name, { type: kind }));
            return data;
        }""",
        [name, base64.b64encode(content).decode(), kind],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": data})


def test_a_drawn_digit_finds_digits_like_it(page: Page) -> None:
    draw_one(page)
    expect(page.locator("#status")).to_contain_text("24 images, nearest first, in ")
    assert labels(page)[:5] == ["1"] * 5
    expect(page.get_by_alt_text("The query as the encoder sees it")).to_be_visible()
    expect(page.get_by_alt_text("The query as the decoder returns it")).to_be_visible()
    first = page.locator("#hits button").first
    name = first.get_attribute("aria-label") or ""
    assert re.fullmatch(r"1, distance \d\.\d\d, digits/train/\d+: find more like it", name)
    expect(page.locator("#unlike")).to_be_hidden()


def test_results_follow_the_drawing_before_the_stroke_ends(page: Page) -> None:
    box = page.locator("#pad").bounding_box()
    assert box
    page.mouse.move(box["x"] + 140, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 135, box["y"] + 240, steps=10)
    expect(page.locator("#title")).to_have_text("Most like your drawing")
    page.mouse.up()
    page.get_by_role("button", name="Clear").click()
    expect_examples(page)


def test_a_shared_address_shows_the_same_search(page: Page, open_page: OpenPage) -> None:
    draw_one(page)
    page.wait_for_url("**picture=*")
    page.get_by_label("Images").select_option("12")
    expect(page.locator("#hits li")).to_have_count(12)
    found = names(page)
    other = open_page(page.url)
    expect(other.locator("#title")).to_have_text("Most like this picture")
    expect(other.locator("#hits li")).to_have_count(12)
    assert names(other) == found


def test_a_file_can_be_dropped_or_chosen(page: Page, queries: list[Image.Image], tmp_path: Path) -> None:
    drop(page, "seven.png", png(queries[0]), "image/png")
    expect(page.locator("#title")).to_have_text("Most like seven.png")
    dropped = names(page)
    (tmp_path / "other.png").write_bytes(png(queries[1]))
    page.locator("#file").set_input_files(tmp_path / "other.png")
    expect(page.locator("#title")).to_have_text("Most like other.png")
    assert names(page) != dropped


def test_a_file_that_is_not_a_picture_is_one_clear_error(page: Page) -> None:
    before = names(page)
    drop(page, "notes.txt", b"no picture", "text/plain")
    expect(page.get_by_role("alert")).to_contain_text("notes.txt: expected a whole image file")
    assert names(page) == before
    draw_one(page)
    expect(page.locator("#alert")).to_be_hidden()
    drop(page, "large.png", bytes(11 * 1024 * 1024), "image/png")
    expect(page.get_by_role("alert")).to_have_text("large.png: expected at most 10 MiB, got 11.0")


def test_a_click_on_a_hit_finds_more_like_it_and_back_returns(page: Page) -> None:
    draw_one(page)
    page.wait_for_url("**picture=*")
    key = names(page)[0]
    page.locator("#hits button").first.click()
    expect(page.locator("#title")).to_have_text(f"Most like {key}")
    page.wait_for_url(f"**key={key}")
    assert key not in names(page)
    page.go_back()
    expect(page.locator("#title")).to_have_text("Most like this picture")
    assert names(page)[0] == key
    page.go_back()
    expect_examples(page)


def test_filters_limit_what_is_found(page: Page) -> None:
    draw_one(page)
    page.get_by_label("Labels").fill("7, 9")
    page.get_by_label("Labels").press("Enter")
    page.wait_for_url("**label=7&label=9*")
    expect(page.locator("#hits .label").first).to_have_text(re.compile("[79]"))
    assert set(labels(page)) <= {"7", "9"}
    page.get_by_label("Labels").fill("")
    page.get_by_label("Max. distance").fill("0.001")
    page.get_by_label("Max. distance").press("Enter")
    expect(page.locator("#status")).to_have_text("No image has these labels and this distance.")
    expect(page.locator("#hits li")).to_have_count(0)


def test_a_key_that_does_not_exist_is_one_clear_error(page: Page) -> None:
    page.get_by_label("Key of a stored image").fill("digits/train/x")
    page.get_by_role("button", name="Find", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("no image 'digits/train/x' in gallery 'digits'")


def test_noise_is_like_nothing(page: Page) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8))
    drop(page, "noise.png", png(noise), "image/png")
    expect(page.locator("#unlike")).to_contain_text("Nothing in this gallery is like it:")
    page.locator("#hits button").first.click()
    expect(page.locator("#unlike")).to_be_hidden()


def test_the_page_can_be_used_from_the_keyboard_alone(page: Page) -> None:
    visited = []
    for _ in range(13):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        visited.append(focused.get_attribute("id") or focused.inner_text().split()[0])
        outline = page.evaluate("""() => {
            const label = document.activeElement.closest('label.button');
            return getComputedStyle(label ?? document.activeElement).outlineStyle;
        }""")
        assert outline != "none", visited
    assert visited[:7] == ["skip", "to-search", "to-map", "to-between", "to-galleries", "pad", "clear"]
    assert visited[7:12] == ["file", "gallery", "limit", "labels", "max"]
    key = page.locator(":focus").get_attribute("title")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text(f"Most like {key}")
    page.locator("#pad").focus()
    for press in (*["ArrowUp"] * 6, " ", *["ArrowDown"] * 14, " "):
        page.keyboard.press(press)
    expect(page.locator("#title")).to_have_text("Most like your drawing")
    expect(page.locator("#hits .label").first).to_have_text("1")
    page.keyboard.press("Escape")
    expect_examples(page)


def test_the_galleries_are_listed(page: Page) -> None:
    page.get_by_role("link", name="Galleries").click()
    row = page.get_by_role("row").nth(1)
    for text in ("digits", "400", "seed", "balanced", "digits/train"):
        expect(row).to_contain_text(text)
    expect(row.get_by_role("cell").nth(4)).to_have_text(re.compile(r"\w+ \d+, 20\d\d"))
    page.get_by_role("link", name="digits").click()
    expect_examples(page)
    page.go_back()
    expect(page.get_by_role("heading", name="Galleries")).to_be_visible()


def test_the_list_of_galleries_fits_every_width(page: Page) -> None:
    page.get_by_role("link", name="Galleries").click()
    expect(page.get_by_role("heading", name="Galleries")).to_be_visible()
    for width in (320, 780, 1000):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_a_gallery_the_page_says_what_to_type(
    open_page: OpenPage, serve: Callable[..., Server], encoder: Encoder, store_url: str
) -> None:
    store = open_store(store_url)
    page = open_page(url(serve(store)))
    expect(page.get_by_role("heading", name="No gallery yet")).to_be_visible()
    expect(page.locator("#empty pre")).to_contain_text("ingest load mnist")
    build(store, encoder)
    expect_examples(page)


@pytest.fixture
def locked(open_page: OpenPage, serve: Callable[..., Server], encoder: Encoder, store_url: str, tmp_path: Path) -> Page:
    """The page of a service whose only token is `sesame`."""
    (tmp_path / "tokens").write_text("read sesame\n")
    store = open_store(store_url)
    build(store, encoder)
    return open_page(url(serve(store, tokens_file=tmp_path / "tokens")))


def test_the_page_asks_for_a_token_and_keeps_it_for_the_tab(locked: Page) -> None:
    page = locked
    dialog = page.get_by_role("dialog", name="Access token")
    expect(dialog).to_contain_text("This service asks for a token.")
    page.get_by_label("Token", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("The service does not know this token.")
    page.get_by_label("Token", exact=True).fill("sesame")
    page.get_by_role("button", name="Continue").click()
    expect_examples(page)
    page.reload()
    expect_examples(page)
    assert page.evaluate("localStorage.length + document.cookie.length") == 0


def test_a_service_that_is_gone_and_comes_back_is_noticed(
    open_page: OpenPage, serve: Callable[..., Server], encoder: Encoder, store_url: str
) -> None:
    store = open_store(store_url)
    build(store, encoder)
    server = serve(store)
    page = open_page(url(server))
    expect_examples(page)
    server.stop(grace_s=0)
    page.get_by_label("Images").select_option("6")
    expect(page.get_by_role("alert")).to_have_text("The service does not answer. Trying again …")
    serve(open_store(store_url), http_port=server.http_port)
    expect(page.locator("#alert")).to_be_hidden()
    draw_one(page)
    expect(page.locator("#hits li")).to_have_count(6)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_view_is_accessible_and_fits(open_page: OpenPage, digits_url: str, scheme: str, width: int) -> None:
    page = open_page(digits_url, color_scheme=scheme, viewport={"width": width, "height": 844}, reduced_motion="reduce")
    axe = Axe()

    def check() -> None:
        found = axe.run(page, options=WCAG)
        assert not found.violations_count, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    expect_examples(page)
    check()
    drop(page, "notes.txt", b"no picture", "text/plain")
    expect(page.get_by_role("alert")).to_be_visible()
    check()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8))
    drop(page, "noise.png", png(noise), "image/png")
    expect(page.locator("#unlike")).to_be_visible()
    check()
    page.get_by_role("link", name="Galleries").click()
    expect(page.get_by_role("heading", name="Galleries")).to_be_visible()
    check()
    page.evaluate("document.getElementById('galleries').hidden = true; document.getElementById('empty').hidden = false")
    check()
    page.evaluate("document.getElementById('ask').showModal()")
    check()


def test_a_token_that_no_browser_can_send_is_not_kept(locked: Page) -> None:
    page = locked
    page.get_by_label("Token", exact=True).fill("“sesame”")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("A token has no spaces and no characters such as “ and –.")
    page.get_by_label("Token", exact=True).fill("sesame")
    page.keyboard.press("Enter")
    expect_examples(page)


def test_a_picture_dropped_on_another_view_leads_to_the_search(page: Page, queries: list[Image.Image]) -> None:
    page.get_by_role("link", name="Galleries").click()
    expect(page.locator("#search")).to_be_hidden()
    drop(page, "nine.png", png(queries[0]), "image/png")
    expect(page.locator("#title")).to_have_text("Most like nine.png")
    expect(page.get_by_role("link", name="Search", exact=True)).to_have_attribute("aria-current", "page")


def test_a_picture_too_long_for_the_address_survives_the_views_and_back(
    page: Page, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8))
    drop(page, "noise.png", png(noise), "image/png")
    expect(page.locator("#title")).to_have_text("Most like noise.png")
    found = names(page)
    page.evaluate("history.replaceState(history.state, '', location.href.replace(/picture=[^&]*/, ''))")
    page.get_by_role("link", name="Map", exact=True).click()
    expect(page.locator("#title")).to_have_text("Most like noise.png")
    page.locator("#hits button").last.click()
    expect(page.locator("#title")).to_have_text(f"Most like {found[-1]}")
    page.go_back()
    expect(page.locator("#title")).to_have_text("Most like this picture")
    assert names(page) == found
    page.reload()
    expect(page.locator("#title")).to_have_text("Most like this picture")
