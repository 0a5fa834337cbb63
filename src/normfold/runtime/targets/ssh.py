"""Another machine over ssh: the agent is copied there, checked, started for each process, and removed.

The system's ssh does all of the talking: its configuration, keys and known hosts hold, and it is never let ask for
anything. One connection carries everything; when that breaks, what was started there ends, and removes its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, Self, cast

from normfold import limits
from normfold.errors import EnvironmentUnavailableError, NormfoldError, UsageError
from normfold.runtime.targets.agent import agent
from normfold.runtime.targets.base import Target
from normfold.runtime.workers.process import FAILURES, Clock, Failed, exchange

SCHEME: Final = "ssh://"
EXAMPLE: Final = "ssh://user@host"
ADDRESS: Final = re.compile(
    r"ssh://(?:[A-Za-z0-9_][\w.+-]*@)?(?:[A-Za-z0-9_][\w.-]*|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?/?", re.ASCII
)
"""No part of an address can be taken for an option."""
OPTIONS: Final = (
    *("-T", "-x", "-a"),
    # Nobody is there to answer a question.
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=15"),
    # A link over which nothing comes back for a quarter of a minute is gone.
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
)
BROKEN: Final = 255
"""Status with which ssh ends where it is the link that fails."""
LEAST_PYTHON: Final = (3, 11)
SECONDS: Final = 60.0
"""Time to connect and to copy the agent."""
ENDING_SECONDS: Final = 10.0
KEEPER: Final = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True)
class SshTarget(Target):
    """A machine that ssh reaches."""

    beat: float = 10.0
    """Seconds after which the other end hears again that the link is there."""
    silence: float = 60.0
    """Seconds without a word after which it takes the link for gone."""

    @contextmanager
    def reached(self) -> Iterator[Self]:
        """The agent is there for as long as the ``with`` block lasts."""
        with tempfile.TemporaryDirectory(prefix="normfold-") as folder:
            socket = str(Path(folder) / "s")
            program = self.command[0]
            with _kept(self, socket) as there:
                # Once the connection is gone no other is made: the agent went with it.
                shared = ("-o", "ControlMaster=no", "-o", f"ControlPath={socket}", "-o", "ProxyCommand=false")
                run = f"cd {shlex.quote(there)} && exec python3 agent.pyz"
                yield replace(self, command=(program, *OPTIONS, *shared, self.name, run))


def ssh(address: str) -> Target:
    """The target at ``address``, ``ssh://user@host:port``.

    Raises:
        UsageError: it is no such address.
    """
    if not ADDRESS.fullmatch(address):
        raise UsageError("usage", f"{address!r} is not of the form ssh://user@host or ssh://user@host:22.")
    program = shutil.which("ssh")
    return SshTarget(
        address,
        "measured",
        "ONNX Runtime in Python on another machine",
        (program or "ssh",),
        remote=True,
        profiles=True,
        tunes=True,
        pools=True,
        limits_memory=True,
        missing="" if program else "there is no program ssh",
        install="" if program else "apt-get install openssh-client",
        exits={BROKEN: "link"},
        providers=None,
    )


@contextmanager
def _kept(target: SshTarget, socket: str) -> Iterator[str]:
    """The agent's folder on the other machine, and the connection that all others use."""
    program, address = target.command[0], target.name
    master = ("-o", "ControlMaster=yes", "-o", f"ControlPath={socket}", "-o", "ControlPersist=no")
    keeper = shlex.join(["python3", "-c", KEEPER.read_text(encoding="utf-8")])
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            (program, *OPTIONS, *master, address, keeper), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        ended = threading.Event()
        try:
            folder = _handed_over(process, target, log)
            threading.Thread(target=_beat, args=(process, ended, target.beat), daemon=True).start()
            yield folder
        finally:
            ended.set()
            _end(process)


def _handed_over(process: subprocess.Popen[bytes], target: SshTarget, log: IO[bytes]) -> str:
    """Send the agent; the folder in which it is."""
    data, address = agent(), target.name
    header = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "silence": target.silence}
    left = limits.remaining()
    until = time.monotonic() + (SECONDS if left is None else min(left, SECONDS))
    clock = Clock(process.pid, until, None)
    line = exchange(process, json.dumps(header).encode() + b"\n" + data, clock)
    try:
        reply: dict[str, Any] = json.loads(line)
    except ValueError:
        limits.check()
        raise _unreached(address, process.poll(), _last_line(log)) from None
    if not reply["ok"]:
        raise Failed(reply["kind"] if reply["kind"] in FAILURES else "crash", reply["message"]).error(address)
    if tuple(reply["python"]) < LEAST_PYTHON:
        found, least = (".".join(map(str, version)) for version in (reply["python"], LEAST_PYTHON))
        message = f"The Python of {address} is {found}; it has to be {least} at the least."
        raise EnvironmentUnavailableError("target-unavailable", message)
    return str(reply["folder"])


def _unreached(address: str, status: int | None, said: str) -> NormfoldError:
    why = said or ("it does not answer" if status is None else f"ssh ended with status {status}")
    hint = f"This has to work without a question: ssh {address} python3 --version"
    return EnvironmentUnavailableError("target-unavailable", f"{address} cannot be reached: {why}", hint)


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _beat(process: subprocess.Popen[bytes], ended: threading.Event, seconds: float) -> None:
    with contextlib.suppress(OSError, ValueError):
        while not ended.wait(seconds):
            cast("IO[bytes]", process.stdin).write(b"\n")
            cast("IO[bytes]", process.stdin).flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the link, which removes what is at its other end."""
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            cast("IO[bytes]", pipe).close()
    try:
        process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
