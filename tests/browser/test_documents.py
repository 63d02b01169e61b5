"""The page of the documents, in a real Chromium: it works under its own policy, and asks nobody else for anything."""

from playwright.sync_api import Browser

from tests.browser.conftest import WAIT_MS
from tests.support.keyed_stack import KeyedStack


def test_the_documents_are_shown_and_nothing_is_loaded_from_elsewhere(
    keyed_stack: KeyedStack, browser: Browser
) -> None:
    """Guards `_POLICY` and the files of `documents`; fails (nothing is shown) when one of them is not served."""
    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"http://localhost:{keyed_stack.api_port}/docs")
    page.get_by_text("/v1/models/predict").first.wait_for()
    assert errors == []
    own = (f"http://localhost:{keyed_stack.api_port}/", "data:")
    assert [url for url in asked if not url.startswith(own)] == []
