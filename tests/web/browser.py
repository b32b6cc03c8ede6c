"""A real browser before the pages: Debian's chromium, or whatever is called so, driven by playwright."""

import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from agent.web.security import Doors
from agent.web.server import create_app

PHONE = {"viewport": {"width": 390, "height": 664}, "device_scale_factor": 1, "is_mobile": True, "has_touch": True}
DESKTOP = {"viewport": {"width": 1280, "height": 800}}


def why_not() -> str:
    """Say why no page can be looked at here; empty where one can."""
    try:
        import playwright.sync_api  # noqa: F401 - whether it is there
    except ImportError:
        return "playwright is missing: pip install --require-hashes -r tests/web/browser.lock"
    return "" if chromium() else "no chromium is found: apt-get install chromium"


def chromium() -> str:
    """Return the browser's program, empty where there is none."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), "")


@contextmanager
def launched() -> Iterator[Any]:
    """Start a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield found
        found.close()


@dataclass
class Served:
    """The pages of some homes, served by this process.

    Args:
        address: Their beginning, without a slash.
        doors: Their links and sessions.
    """

    address: str
    doors: Doors

    def enter(self, browser: Any, **device: Any) -> "Window":
        """Open the link in a fresh window."""
        window = Window(browser.new_context(**device), self.address)
        window.tab.goto(self.doors.link())
        return window


@dataclass
class Window:
    """A window with its own cookies: what it asked others for, and what went wrong in it."""

    context: Any
    address: str
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tab = self.new_tab()

    def new_tab(self) -> Any:
        """Open one more tab of the same session."""
        tab = self.context.new_page()
        tab.set_default_timeout(20_000)
        tab.on("console", self._heard)
        tab.on("pageerror", lambda error: self._note(f"script: {error}"))
        tab.on("dialog", self._shown)
        tab.on("request", lambda asked: self._asked(asked.url))
        return tab

    def _note(self, said: str) -> None:
        self.wrong.append(said)

    def _heard(self, said: Any) -> None:
        if said.type == "error":
            self._note(f"console: {said.text}")

    def _shown(self, dialog: Any) -> None:
        self._note(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _asked(self, url: str) -> None:
        if not url.startswith((self.address, "data:")):
            self._note(f"asked elsewhere: {url}")

    def at(self, path: str) -> Any:
        """Go to a page; return the tab."""
        answer = self.tab.goto(self.address + path)
        if answer is None or answer.status >= 400:
            self.wrong.append(f"{path}: {answer and answer.status}")
        return self.tab


@contextmanager
def served(homes: Sequence[Path]) -> Iterator[Served]:
    """Serve the pages of some homes on a free port."""
    doors = Doors(port=0)
    app = create_app(homes, doors, lambda: server.should_exit)
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    doors.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{doors.port}", doors)
    finally:
        server.should_exit = True
        thread.join()


def is_needed() -> bool:
    """Say whether a missing browser is a failure, as it is in `.ci/run`."""
    return os.environ.get("VIGIL_BROWSER") == "needed"
