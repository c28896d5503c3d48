"""A real browser for pages that are files: Chromium, without a network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

NO_BROWSER = "no chromium on the PATH: install it (Debian: apt-get install chromium)"
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio")


@dataclass
class Opened:
    """A page, and what it said and asked for since it was opened."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def run_browser() -> Iterator[Any]:
    """Chromium of the system, headless; the test is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip(NO_BROWSER)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=path, args=list(_OPTIONS))
        yield browser
        browser.close()


@contextmanager
def open_page(
    browser: Any, path: str, *, width: int = 1280, dark: bool = False
) -> Iterator[Opened]:
    """A file in a window of its own, with the network off."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        offline=True,
    )
    opened = Opened(context.new_page())

    def complain(message: Any) -> None:
        if message.type in ("error", "warning"):
            opened.complaints.append(message.text)

    opened.page.on("console", complain)
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.page.on("request", lambda request: opened.requests.append(request.url[:80]))
    opened.page.goto(f"file://{path}")
    yield opened
    context.close()
