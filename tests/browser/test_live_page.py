"""The live page in a real Chromium, in front of a real stack that wants keys."""

import os
import re
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer
from playwright.sync_api import Page, expect

from tests.browser.conftest import SCREENSHOTS, WAIT_MS, Open, traffic
from tests.support.brokers.processes import run_coroutine
from tests.support.keyed_stack import REPOSITORY, KeyedStack

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = pytest.mark.timeout(420)
expect.set_options(timeout=WAIT_MS)
_ANSWERED_MS = 45_000
_ASKED_AGAIN_AT_MOST = 3

IRIS = {"instances": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}
DIGITS = {"model": "digits", "instances": [[0.0] * 64]}
# The page itself logs nothing; the browser does, of each answer that refuses a key.
REFUSED = ("401",)
AXE = REPOSITORY / "dashboards" / "live" / "web" / "node_modules" / "axe-core" / "axe.min.js"


def card(page: Page, model: str, version: str) -> "Locator":
    return page.get_by_role("region", name=model, exact=True).get_by_role("article", name=version, exact=True)


def press_until(page: Page, target: "Locator", *, key: str = "Tab", limit: int = 80) -> None:
    """Move the focus as a person with a keyboard does."""
    for _ in range(limit):
        page.keyboard.press(key)
        if target.evaluate("node => node === document.activeElement"):
            return
    pytest.fail(f"{limit} times {key} never reach {target}")


def await_answer(page: Page, text: str) -> None:
    """Wait for a prediction, and ask again, as a person would, where a busy machine took longer than the page waits."""
    for _ in range(_ASKED_AGAIN_AT_MOST):
        with suppress(AssertionError):
            return expect(page.locator("#try-result")).to_contain_text(text, timeout=_ANSWERED_MS)
        page.get_by_role("button", name="Predict", exact=True).click()
    return expect(page.locator("#try-result")).to_contain_text(text)


def test_the_cards_and_the_flow_fill_under_real_traffic(keyed_stack: KeyedStack, open_page: Open) -> None:
    page = open_page()
    with traffic(keyed_stack, IRIS, DIGITS, {**IRIS, "version": "v2"}):
        mine = card(page, "iris", "v1")
        expect(mine.locator(".predictions")).to_contain_text("setosa")
        expect(mine.locator(".latency tbody tr").first.locator("td").nth(1)).not_to_have_text("\u2013")
        expect(mine.locator(".kpi").nth(1)).to_contain_text("0 %")
        expect(card(page, "iris", "v2").locator(".facts")).to_contain_text("workers1")
        expect(page.locator("#verdict")).to_have_text("All is well")
        workers = page.locator(".hop", has_text="Workers")
        expect(workers.locator(".value")).to_have_text("5")
        expect(page.locator(".legend").first).to_contain_text("iris v1")
        page.wait_for_function(
            "() => Number.parseFloat(document.querySelectorAll('.legend .now')[0].textContent) > 0", timeout=WAIT_MS
        )
        assert page.locator(".plot canvas").count() == 3


def test_a_split_is_changed_by_keyboard_alone_after_confirmation_and_with_a_key(
    keyed_stack: KeyedStack, open_page: Open
) -> None:
    keyed_stack.call("/v1/traffic-split", {"v1": 100})
    page = open_page(expected=REFUSED)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    slider = page.get_by_role("slider", name="Share of iris v2 in percent", exact=True)
    press_until(page, slider)
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".slide", has=slider).locator(".percent")).to_have_text("10 %")
    split = page.get_by_role("form", name="Traffic split of iris")
    press_until(page, split.get_by_role("button", name="Change split…"))
    page.keyboard.press("Enter")

    dialog = page.get_by_role("dialog", name="Change the traffic split of iris?")
    expect(dialog.get_by_role("row", name="v2 0 % 10 %", exact=True)).to_be_visible()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert keyed_stack.call("/v1/traffic-split")["weights"]["v1"] == 1

    page.keyboard.press("Enter")
    press_until(page, dialog.get_by_role("button", name="Change split"))
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("key")
    expect(dialog.get_by_label("API key")).to_be_focused()
    page.keyboard.type(keyed_stack.admin_key)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    page.wait_for_function("window.toasts.some((text) => text.includes('v2 10 %'))")
    assert keyed_stack.call("/v1/traffic-split")["weights"] == pytest.approx({"v1": 0.9, "v2": 0.1, "v2-quantized": 0})
    expect(card(page, "iris", "v2").locator(".weight")).to_have_text("10 % of traffic")


def test_the_form_gets_a_real_prediction_from_its_own_example(keyed_stack: KeyedStack, open_page: Open) -> None:
    page = open_page(expected=REFUSED)
    expect(page.get_by_label("Row")).to_have_value("[5.1, 3.5, 1.4, 0.2]")
    page.get_by_role("combobox", name="Version").select_option("v2-quantized")
    page.get_by_role("button", name="Predict", exact=True).click()
    dialog = page.get_by_role("dialog", name="The API asks for a key")
    dialog.get_by_label("API key").fill(keyed_stack.admin_key)
    dialog.get_by_role("button", name="Predict").click()
    await_answer(page, "iris v2-quantized answered in")
    expect(page.locator("#try-result .answer")).to_contain_text("setosa")

    page.get_by_role("combobox", name="Model").select_option("digits")
    page.get_by_role("button", name="Predict", exact=True).click()
    await_answer(page, "digits v")
    page.get_by_label("Row").fill("[1, 2")
    page.get_by_role("button", name="Predict", exact=True).click()
    expect(page.locator("#try-result")).to_contain_text("no JSON")
    expect(page.get_by_label("Row")).to_be_focused()


def test_a_dead_letter_shows_with_the_command_that_replays_it(keyed_stack: KeyedStack, open_page: Open) -> None:
    async def produce() -> None:
        async with AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{keyed_stack.broker_port}") as producer:
            await producer.send_and_wait("inferlane.requests", b"no json", headers=[("ce_id", b"letter-of-the-page")])

    page = open_page()
    run_coroutine(produce())
    letter = page.locator(".letters li").first
    expect(letter).to_be_visible()
    expect(letter.locator(".when")).to_have_text(re.compile(r"\d+ (s|min) ago"))
    letter.locator("summary").click()
    expect(letter).to_contain_text("inferlane dead-letters replay letter-of-the-page")
    expect(page.locator(".chips")).to_contain_text("1 ")
    letter.get_by_role("button", name="Copy").click()
    expect(letter.get_by_role("button")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()").endswith("letter-of-the-page")


def test_the_page_says_that_the_stack_is_gone_and_comes_back_by_itself(
    keyed_stack: KeyedStack, open_page: Open
) -> None:
    page = open_page(expected=("ERR_", "Failed to load"))
    os.kill(keyed_stack.process("dashboard").pid, signal.SIGKILL)
    expect(page.locator("#freshness")).to_have_attribute("data-state", "lost")
    expect(page.locator("#verdict")).to_have_text("The dashboard does not answer")
    expect(page.locator("#freshness")).to_have_attribute("data-state", "live")
    expect(page.locator("#verdict")).not_to_have_text("The dashboard does not answer")


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits(keyed_stack: KeyedStack, open_page: Open, size: str, scheme: str) -> None:
    page = open_page(size=size, scheme=scheme)
    with traffic(keyed_stack, IRIS, DIGITS, {**IRIS, "version": "v2"}):
        expect(card(page, "iris", "v2").locator(".predictions")).to_contain_text("setosa")
        page.wait_for_timeout(5_000)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=SCREENSHOTS / f"live-{scheme}-{size}.png", full_page=True)
    # In the page's own world: its policy forbids scripts of others.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    assert [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_theme_button_turns_the_page_over_and_is_remembered(open_page: Open) -> None:
    page = open_page(scheme="light")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Switch to the dark theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    page.reload()
    expect(page.get_by_role("button", name="Switch to the light theme")).to_be_visible()
