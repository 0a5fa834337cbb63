"""A headless browser that looks at a page, and notes what the page asks for and complains of."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from normfold.runtime.targets.browser import PROGRAMS
from normfold.runtime.targets.devtools import Chromium


class Watching(Chromium):
    """Keeps what the browser tells."""

    def __init__(self, command: tuple[str, ...], folder: Path) -> None:
        self.told: list[dict[str, Any]] = []
        super().__init__(command, folder)

    def _next(self) -> dict[str, Any]:
        message = super()._next()
        self.told.append(message)
        return message

    def look(self, file: Path) -> None:
        """Open ``file``, and wait until its scripts have run."""
        self.visit("about:blank")
        for domain in ("Network", "Log"):
            self._call(f"{domain}.enable")
        self.told.clear()
        self._call("Page.navigate", url=file.resolve().as_uri())
        until = time.monotonic() + 30
        while self.evaluate("location.protocol + document.readyState") != "file:complete":
            assert time.monotonic() < until
            time.sleep(0.02)

    def dark(self) -> None:
        """Prefer dark pages from now on."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])

    def requests(self) -> list[str]:
        """Addresses that were asked for, the page's own apart."""
        asked = [
            one["params"]["request"]["url"] for one in self.told if one.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in asked[1:] if not url.startswith("data:")]

    def complaints(self) -> list[Any]:
        """What the console says, and what scripts raise."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [one["params"] for one in self.told if one.get("method") in kinds]


@contextmanager
def watching() -> Iterator[Watching]:
    """A browser; the test skips where there is none."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(PROGRAMS)} is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Watching((program,), Path(folder))
        try:
            yield browser
        finally:
            browser._call("Browser.close", of_page=False)
