"""What runs on the other machine for as long as the link is there: it keeps the agent in a folder, and removes it.

Handed to that machine's Python as text, whichever version it has, so it knows nothing of normfold. It reads a line of
JSON with the agent's size and checksum and the seconds of silence after which the link counts as gone, and the agent;
it replies with a line of JSON. Then it waits: the end of its standard input, a signal or that silence mean that the
link is gone. Nothing of what was started stays behind.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

ATTEMPTS = 50
"""To remove a folder in which something may still write."""


def received(size: int) -> bytes:
    """So many bytes of standard input; ends with it."""
    data = b""
    while len(data) < size:
        piece = os.read(0, min(size - len(data), 1 << 20))
        if not piece:
            sys.exit(1)
        data += piece
    return data


def header() -> dict[str, object]:
    """The line of JSON that comes first."""
    line = b""
    while not line.endswith(b"\n"):
        line += received(1)
    asked: dict[str, object] = json.loads(line.decode())
    return asked


def keep(folder: str, asked: dict[str, object]) -> dict[str, object]:
    """Put the agent into ``folder``; what there is to say of that."""
    agent = received(int(str(asked["size"])))
    path = Path(folder) / "agent.pyz"
    try:
        path.write_bytes(agent)
        arrived = hashlib.sha256(path.read_bytes()).hexdigest() == asked["sha256"]
    except OSError as error:
        return failed(error)
    if not arrived:
        return {"ok": False, "kind": "link", "message": "the agent did not arrive as it was sent"}
    return {"ok": True, "folder": folder, "python": list(sys.version_info[:2])}


def failed(error: OSError) -> dict[str, object]:
    """Why there is no folder, or no file in it."""
    kind = "space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "target"
    return {"ok": False, "kind": kind, "message": f"no file can be written there: {error.strerror}"}


def wait(silence: float) -> None:
    """Until the link is gone."""
    while True:
        ready, _, _ = select.select([0], [], [], silence)
        if not ready or not os.read(0, 4096):
            return


def clean(folder: str) -> None:
    """End what runs in ``folder``, and remove it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and (process / "cwd").samefile(folder):
                os.kill(int(process.name), signal.SIGKILL)
    for _ in range(ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not Path(folder).exists():
            return
        time.sleep(0.1)


def main() -> None:
    """Receive, keep, wait, clean."""
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    asked = header()
    try:
        folder = tempfile.mkdtemp(prefix="normfold-")
    except OSError as error:
        reply = failed(error)
        folder = ""
    try:
        if folder:
            reply = keep(folder, asked)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()
        wait(float(str(asked["silence"])))
    finally:
        if folder:
            clean(folder)


if __name__ == "__main__":
    main()
