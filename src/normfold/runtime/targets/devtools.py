"""A headless Chromium, driven over its DevTools protocol through a pair of pipes: no port that others could reach."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from normfold.runtime.workers.protocol import RefusedError

READS, WRITES = 3, 4
"""Descriptors from which the browser reads, and to which it writes."""
OTHERS: Final = 10
"""Descriptors from here on are our own."""
END: Final = b"\0"
CRASHES: Final = ("Inspector.targetCrashed", "Target.targetCrashed", "Inspector.detached", "Target.detachedFromTarget")
FLAGS: Final = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--disable-extensions",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-domain-reliability",
    "--disable-dev-shm-usage",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--mute-audio",
    # Nothing is looked up outside this machine, whatever the browser would like to know.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


class Chromium:
    """One browser with one page; it ends with the process that started it."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        """``command`` starts with a path; ``folder`` is for its profile.

        Raises:
            RefusedError: it cannot be started.
        """
        commands, self._out = _pipe()
        self._in, answers = _pipe()
        # A browser of the superuser starts only without its sandbox.
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
        arguments = (*command, *FLAGS, *sandbox, f"--user-data-dir={folder}", "about:blank")
        actions = [
            *((os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)),
            (os.POSIX_SPAWN_DUP2, commands, READS),
            (os.POSIX_SPAWN_DUP2, answers, WRITES),
        ]
        try:
            os.posix_spawn(command[0], arguments, os.environ, file_actions=actions)
        except OSError as error:
            raise RefusedError("target", f"anything: the browser does not start: {error.strerror}") from error
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._number = 0
        self._events: set[str] = set()
        self._session: str | None = None

    def visit(self, url: str) -> None:
        """Open ``url`` in a page, the one that `evaluate` is about."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Inspector", "Runtime", "Page"):
            self._call(f"{domain}.enable")
        self._events.clear()
        self._call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._events:
            self._next()

    def evaluate(self, expression: str) -> Any:
        """The value of ``expression``, or what its promise comes to.

        Raises:
            RefusedError: it throws, or the page crashes.
        """
        found = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            said = details.get("exception", {}).get("description") or details["text"]
            raise RefusedError("crash", f"the page fails: {said.splitlines()[0]}")
        return found["result"].get("value")

    def product(self) -> str:
        """Name and version."""
        return str(self._call("Browser.getVersion", of_page=False)["product"])

    def pages(self) -> list[int]:
        """Ids of the processes that run pages."""
        processes = self._call("SystemInfo.getProcessInfo", of_page=False)["processInfo"]
        return [process["id"] for process in processes if process["type"] == "renderer"]

    def _call(self, method: str, *, of_page: bool = True, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if of_page and self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + END
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            reply = self._next()
            if reply.get("id") == self._number:
                break
        if "error" in reply:
            raise RefusedError("crash", f"the browser refuses {method}: {reply['error'].get('message')}")
        result: dict[str, Any] = reply["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while END not in self._buffer:
            piece = os.read(self._in, 1 << 16)
            if not piece:
                raise RefusedError("crash", "the browser ended")
            self._buffer += piece
        text, _, self._buffer = self._buffer.partition(END)
        message: dict[str, Any] = json.loads(text)
        self._events.add(message.get("method", ""))
        if message.get("method") in CRASHES:
            raise RefusedError("crash", "the browser's page crashed")
        return message


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are out of the way of the descriptors that the browser wants."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, OTHERS) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
