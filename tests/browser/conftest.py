"""A real stack that wants keys, and a real Chromium in front of its dashboard."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from inferlane.stack.runfile import ProcessRecord, RunFile
from tests.e2e.conftest import free_ports

REPOSITORY = Path(__file__).parents[2]
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
_START_TIMEOUT_S = 600
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


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where the stack is, and keys for it."""

    api_port: int
    dashboard_port: int
    broker_port: int
    state_dir: Path
    admin_key: str

    @property
    def page_url(self) -> str:
        return f"http://localhost:{self.dashboard_port}/"

    def call(self, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api_port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self.admin_key}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
            return json.load(answer)

    def process(self, name: str) -> ProcessRecord:
        record = RunFile(self.state_dir).read()
        assert record is not None
        return next(process for process in record.processes if process.name == name)

    @contextmanager
    def traffic(self, *bodies: dict[str, Any]) -> Iterator[None]:
        """Send these again and again while the block runs."""
        stop = threading.Event()

        def send() -> None:
            while not stop.wait(0.02):
                for body in bodies:
                    self.call("/v1/models/predict", {"timeout_s": 60, **body})

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield
        finally:
            stop.set()
            sender.join()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    api, broker, store, ops, dashboard = free_ports(5)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INFERLANE_")} | {
        "INFERLANE_STATE_DIR": str(folder),
        "INFERLANE_MODELS_DIR": str(REPOSITORY / ".inferlane" / "models"),
        "INFERLANE_API_KEYS_FILE": str(folder / "keys.toml"),
        "INFERLANE_API_PORT": str(api),
        "INFERLANE_BROKER_PORT": str(broker),
        "INFERLANE_STORE_PORT": str(store),
        "INFERLANE_FIRST_OPS_PORT": str(ops),
        "INFERLANE_DASHBOARD_PORT": str(dashboard),
    }

    def inferlane(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "inferlane", *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_START_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    admin_key = inferlane("keys", "create", "--name", "admin", "--scope", "admin")
    environment["INFERLANE_API_KEY"] = inferlane("keys", "create", "--name", "dashboard", "--scope", "predict")
    try:
        inferlane("up", "--detach")
        yield Stack(api_port=api, dashboard_port=dashboard, broker_port=broker, state_dir=folder, admin_key=admin_key)
    finally:
        inferlane("down")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS, timeout=WAIT_MS)
        yield chromium
        chromium.close()


Open = Callable[..., Page]


@pytest.fixture
def open_page(stack: Stack, browser: Browser) -> Iterator[Open]:
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
        page.goto(stack.page_url)
        page.locator("#freshness[data-state=live]").wait_for()
        page.locator("article.card").first.wait_for()
        return page

    yield opened
    for page, errors in pages:
        violations = page.evaluate("window.violations ?? []")
        page.context.close()
        assert (errors, violations) == ([], [])
