"""Debian's Chromium, driven from outside: the status page as people meet it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of one's own, with nothing in it. Skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET, timeout=120_000)
        try:
            yield browser
        finally:
            browser.close()


class Window:
    """A page, and what it complained of: a script that failed, or was kept from running by the page's policy."""

    def __init__(self, browser: Any, url: str, **options: Any):
        self.context = browser.new_context(base_url=url, **options)
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._alarm)
        self.page.on("request", lambda request: self.requested.append(request.url))

    def _alarm(self, dialog: Any) -> None:
        self.complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def accessibility(self) -> list[str]:
        """What axe finds wrong, WCAG 2.2 AA and its best practices."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
        found = axe.Axe().run(self.page)
        return [
            f"{violation['id']}: {violation['help']}: {violation['nodes'][0]['html'][:200]}"
            for violation in found.response["violations"]
        ]

    def close(self) -> None:
        self.context.close()


def keep(window: Window, directory: Path, name: str) -> None:
    """A screenshot, for people who look at a test's directory."""
    window.page.screenshot(path=str(directory / f"{name}.png"), full_page=True)
