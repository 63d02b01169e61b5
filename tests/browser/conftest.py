"""A real Chromium in front of a stack's dashboard, and traffic for it to show."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.keyed_stack import REPOSITORY, KeyedStack

SCREENSHOTS = REPOSITORY / ".inferlane" / "screenshots"
_CHROMIUM = "/usr/bin/chromium"
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# A busy machine is slow, and every wait ends as soon as what it waits for is there.
WAIT_MS = 180_000
_SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
# What a page may not do, and what it said for a moment, kept where a test can ask for it.
_WATCH = """
window.violations = [];
window.toasts = [];
document.addEventListener("DOMContentLoaded", () => {
  const toast = document.getElementById("toast");
  new MutationObserver(() => window.toasts.push(toast.textContent)).observe(toast, {childList: true, subtree: true});
});
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@contextmanager
def traffic(stack: KeyedStack, *bodies: dict[str, Any]) -> Iterator[None]:
    """Send these again and again while the block runs."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.02):
            for body in bodies:
                stack.call("/v1/models/predict", {"timeout_s": 60, **body})

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A Chromium of this test alone: one that hangs when it opens a page takes no other test along."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS, timeout=WAIT_MS)
        yield chromium
        chromium.close()


Open = Callable[..., Page]


@pytest.fixture
def open_page(keyed_stack: KeyedStack, browser: Browser) -> Iterator[Open]:
    """Opens the dashboard; at the end of the test no page may have broken its policy or logged an error."""
    pages: list[tuple[Page, list[str]]] = []

    def opened(*, size: str = "desktop", scheme: str = "light", expected: tuple[str, ...] = ()) -> Page:
        width, height = _SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(WAIT_MS)
        context.add_init_script(_WATCH)
        page = context.new_page()
        errors: list[str] = []

        def note(text: str) -> None:
            if not any(part in text for part in expected):
                errors.append(text)

        page.on("console", lambda message: note(message.text) if message.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: note(str(error)))
        pages.append((page, errors))
        page.goto(keyed_stack.page_url)
        page.locator("#freshness[data-state=live]").wait_for()
        page.locator("article.card").first.wait_for()
        return page

    yield opened
    for page, errors in pages:
        violations = page.evaluate("window.violations ?? []")
        page.context.close()
        assert (errors, violations) == ([], [])
