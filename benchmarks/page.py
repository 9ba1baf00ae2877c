"""Measure the search page in Chromium: `python -m benchmarks.page --store edge:DIR --gallery mnist`.

Prints the time from the end of a stroke until the results are shown, with the thumbnails decoded and a frame drawn, and
the time of one frame of the gallery's map, if it has one, while the map is moved.
"""

import argparse
import shutil
from statistics import median, quantiles

from playwright.sync_api import Page, sync_playwright

from encoder_service.encoder import load_encoder
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from gallery import DEFAULT_STORE, open_store
from gallery.map import MAP

# Strokes that are drawn before the measured ones, each in a cleared drawing area.
_WARM_UP = 5
# Frames of the map that are drawn.
_FRAMES = 60

# Makes `window.shown` a promise of the milliseconds from the end of the latest stroke until its results are shown.
_WATCH_STROKES = """() => {
    let show = () => {};
    document.getElementById('pad').addEventListener('pointerup', () => {
        const ended = performance.now();
        window.shown = new Promise((resolve) => show = () => resolve(performance.now() - ended));
    }, true);
    const hits = document.getElementById('hits');
    new MutationObserver(async () => {
        const shown = show;
        await Promise.all([...hits.querySelectorAll('img')].map((image) => image.decode().catch(() => {})));
        requestAnimationFrame(() => setTimeout(shown));
    }).observe(hits, { childList: true });
}"""

# Moves the map by the wheel, a frame at a time, and returns the milliseconds that drawing each frame took.
_MOVE = """async (frames) => {
    const plot = document.getElementById('plot');
    const box = plot.getBoundingClientRect();
    const place = { clientX: box.left + box.width / 3, clientY: box.top + box.height / 3 };
    const times = [];
    for (let frame = 0; frame < frames; frame++) {
        const deltaY = frame < frames / 2 ? -20 : 20;
        plot.dispatchEvent(new WheelEvent('wheel', { ...place, deltaY, cancelable: true }));
        // the page draws in the next frame's callback, which was requested before this one
        const drawn = (resolve) => (begun) => resolve(performance.now() - begun);
        times.push(await new Promise((resolve) => requestAnimationFrame(drawn(resolve))));
    }
    return times;
}"""


def main() -> None:
    """Serve the gallery, open the page and print the measurements."""
    parser = argparse.ArgumentParser(description="Measure the search page in Chromium.")
    parser.add_argument("--store", default=DEFAULT_STORE)
    parser.add_argument("--gallery", default="mnist")
    parser.add_argument("--strokes", type=int, default=40)
    arguments = parser.parse_args()
    store = open_store(arguments.store)
    has_map = (store.local_folder(arguments.gallery) / MAP).exists()
    encoder = load_encoder(store.spec(arguments.gallery).encoder)
    with Server(store, encoder, Config(port=0, http_port=0)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        address = f"http://127.0.0.1:{server.http_port}/#gallery={arguments.gallery}"
        page.goto(address)
        page.wait_for_selector("#hits li")
        _print("from the end of a stroke to the results", _strokes(page, arguments.strokes))
        if has_map:
            page.goto("about:blank")
            page.goto(f"{address}&view=map")
            page.wait_for_selector("#plot")
            page.wait_for_selector("#hits li")
            _print("one frame of the map", page.evaluate(_MOVE, _FRAMES))
        browser.close()


def _strokes(page: Page, count: int) -> list[float]:
    """Draw strokes, and return for each the milliseconds from its end until its results were shown."""
    page.evaluate(_WATCH_STROKES)
    box = page.locator("#pad").bounding_box()
    assert box
    times = []
    for stroke in range(_WARM_UP + count):
        page.click("#clear")
        page.wait_for_selector("#title:has-text('Some images')")
        shift = stroke % 7 * 12
        page.mouse.move(box["x"] + 90 + shift, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + 160, box["y"] + 60 + shift, steps=6)
        page.mouse.move(box["x"] + 110, box["y"] + 230, steps=8)
        page.mouse.up()
        times.append(float(page.evaluate("window.shown")))
    return times[_WARM_UP:]


def _print(what: str, times: list[float]) -> None:
    print(f"{what:<42}{median(times):7.1f} ms  least {min(times):.1f}  p95 {quantiles(times, n=20)[18]:.1f}")


if __name__ == "__main__":
    main()
