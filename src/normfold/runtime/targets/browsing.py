"""The timing process of the browser target: hands requests to a page of a headless Chromium, and its answers back.

The page gets models and inputs from a server in this process, and puts outputs there. Runs as
``python -m normfold.runtime.targets.browsing CHROMIUM FOLDER``, the folder being where npm installed onnxruntime-web.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from normfold.runtime import memory, processors
from normfold.runtime.targets.devtools import Chromium
from normfold.runtime.targets.server import PageServer
from normfold.runtime.workers.protocol import RefusedError, Reply, Request, own_stdout, serve
from normfold.runtime.workers.store import get, held, put


class BrowsingWorker:
    """One browser with one page, which holds any number of models."""

    def __init__(self, chromium: str, runtime: Path) -> None:
        self._command = (chromium,)
        self._runtime = runtime
        self._browser: Chromium | None = None

    def hello(self, request: Request) -> Reply:
        """Start the browser on the processors ``cpus`` and load ONNX Runtime into its page."""
        if request["cpus"]:
            _pin(request["cpus"])
        server = PageServer(self._runtime, Path.cwd())
        self._browser = Chromium(self._command, Path.cwd() / "profile")
        self._browser.visit(server.url)
        reply = self.ask(request)
        return reply | {
            "machine": processors.machine() | {"browser": self._browser.product()},
            "runtime_bytes": sum(server.served.values()),
            "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "peak_rss": self._peak(),
        }

    def open(self, request: Request) -> Reply:
        """Load a model; the page is told which files of external data there are."""
        folder, model = Path(request["data_folder"]), Path(request["model"])
        files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file != model)
        return self.ask({**request, "data": [file.relative_to(folder).as_posix() for file in files]})

    def bind(self, request: Request) -> Reply:
        """Give a model its inputs and run it once."""
        return self.ask(request) | {"peak_rss": self._peak()}

    def ask(self, request: Request) -> Reply:
        """What the page replies."""
        if self._browser is None:
            raise RefusedError("crash", "no browser was started")
        reply: dict[str, Any] = json.loads(self._browser.evaluate(f"normfold({json.dumps(json.dumps(request))})"))
        if not reply.pop("ok"):
            raise RefusedError(reply["kind"], reply["message"])
        return reply

    def _peak(self) -> int | None:
        """Most memory that the page ever took, in bytes; None where unknown."""
        pages = [] if self._browser is None else self._browser.pages()
        return max((peak for page in pages if (peak := memory.peak_of(page)) is not None), default=None)


def _pin(cpus: Sequence[int]) -> None:
    """Keep this process, and the browser that it starts, to ``cpus``."""
    if not hasattr(os, "sched_setaffinity"):
        raise RefusedError("setting", "this system does not let a process choose its processors")
    os.sched_setaffinity(0, cpus)


VERBS: Final[dict[str, Callable[[BrowsingWorker, Request], Reply]]] = {
    "hello": BrowsingWorker.hello,
    "held": held,
    "put": put,
    "get": get,
    "open": BrowsingWorker.open,
    "bind": BrowsingWorker.bind,
    "time": BrowsingWorker.ask,
    "outputs": BrowsingWorker.ask,
    "close": BrowsingWorker.ask,
}
"""What can be asked."""


def main() -> None:
    """Serve until standard input ends."""
    replies = own_stdout()
    serve(BrowsingWorker(sys.argv[1], Path(sys.argv[2])), VERBS, replies)


if __name__ == "__main__":
    main()
