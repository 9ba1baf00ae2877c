"""A browser, and services whose page it opens. Skipped where there is no Chromium."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from encoder_service.encoder import Encoder
from encoder_service.rpc.config import Config
from encoder_service.rpc.server import Server
from gallery import Store, open_store
from tests.digits import build

OpenPage = Callable[..., Page]

# Milliseconds that the page may take: long, because other tests may run at the same time.
expect.set_options(timeout=20_000)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not executable:
        pytest.skip("no Chromium: install it with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture
def serve(encoder: Encoder) -> Iterator[Callable[..., Server]]:
    """Starts a service over a store, which stops when the test ends."""
    with ExitStack() as stack:

        def start(store: Store, **settings: Any) -> Server:
            return stack.enter_context(Server(store, encoder, Config(**{"port": 0, "http_port": 0, **settings})))

        yield start


@pytest.fixture(scope="package")
def digits_url(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page over a gallery of 400 digits, which tests only read."""
    store = open_store(f"edge:{tmp_path_factory.mktemp('page') / 'store'}")
    build(store, encoder)
    with Server(store, encoder, Config(port=0, http_port=0)) as server:
        yield url(server)


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.http_port}/"


@pytest.fixture
def open_page(browser: Browser, digits_url: str) -> Iterator[OpenPage]:
    """Opens the page in a new window. In the end, the page must have had no error, and have asked nobody else."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_it(address: str = digits_url, **settings: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        origin = address.split("/", 3)[2]
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if _is_problem(line.type, line.text) else None)
        page.on("request", lambda request: problems.append(request.url) if _is_foreign(request.url, origin) else None)
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not problems


def _is_problem(kind: str, text: str) -> bool:
    return kind in ("error", "warning") and not text.startswith("Failed to load resource")  # which tests cause


def _is_foreign(address: str, origin: str) -> bool:
    return not address.startswith(("data:", "blob:")) and address.split("/", 3)[2] != origin


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """The page with examples shown, before any search."""
    page = open_page()
    expect(page.locator("#title")).to_have_text("Some images of this gallery")
    return page
