"""The module that a mutated package has in addition: a switch for every guard, and the plugin of pytest that flips it.

The tests are collected once. A forked process runs all of them with every guard on and notes where each bites; then,
for each guard, another one runs the tests in which it bites with that guard off.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest

SECONDS = 20.0
"""What a test may take on top of ten times the usual: a mutant that searches for ever is found out, too."""

bitten: set[int] = set()
"""The guards that have bitten since this was last asked."""
failed: list[str] = []
"""The tests that have failed."""
off = int(os.environ.get("NORMFOLD_GUARD_OFF", "-1"))


def guard(number: int, value: Any = 1, without: Any = 0) -> Any:
    """What guard ``number`` says: ``value``; or ``without`` where it is off."""
    if number == off:
        return without
    if bool(value) != bool(without):
        bitten.add(number)
    return value


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a failure."""
    if report.failed:
        failed.append(report.nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Run the tests for each guard that NORMFOLD_GUARDS lists; the lines of verdicts go to NORMFOLD_VERDICTS."""
    guards, pipe = json.loads(os.environ["NORMFOLD_GUARDS"]), int(os.environ["NORMFOLD_VERDICTS"])
    source, sink = os.pipe()
    child = forked(lambda: say(sink, noted(session.items)))
    os.close(sink)
    with os.fdopen(source) as notes:
        found = json.loads(notes.read() or "null")
    os.waitpid(child, 0)
    if found is None:
        say(pipe, [-1, "the tests ended before their time"])
        return True
    for item, (_, bites) in zip(session.items, found, strict=True):
        if bites is None:
            say(pipe, [-1, item.nodeid])
    sound = {item: note for item, note in zip(session.items, found, strict=True) if note[1] is not None}
    waiting: dict[int, tuple[int, int]] = {}
    for number in guards:
        while len(waiting) >= int(os.environ.get("WORKERS", "2")):
            reap(waiting)
        tests = needing(number, sound)
        if tests:
            waiting[forked(partial(judge, pipe, number, tests))] = (pipe, number)
        else:
            say(pipe, [number, None])
    while waiting:
        reap(waiting)
    return True


def needing(number: int, notes: Mapping[pytest.Item, tuple[float, Collection[int]]]) -> dict[pytest.Item, float]:
    """The tests in which a guard bites, the fastest first, and what shares a file with them, each with its time."""
    taking = {item: seconds for item, (seconds, _) in notes.items()}
    biting = {item for item, (_, numbers) in notes.items() if number in numbers}
    files = {item.path for item in biting}
    near = [item for item in notes if item.path in files and item not in biting]
    return {item: taking[item] for item in (*sorted(biting, key=taking.__getitem__), *near)}


def forked(work: Callable[[], object]) -> int:
    """A child process that does ``work``."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child


def reap(waiting: dict[int, tuple[int, int]]) -> None:
    """Wait for a child; one that was killed has not said anything itself."""
    child, status = os.wait()
    pipe, number = waiting.pop(child)
    if os.WIFSIGNALED(status):
        say(pipe, [number, f"ended by {signal.Signals(os.WTERMSIG(status)).name}"])


def say(pipe: int, what: object) -> None:
    """Write one line."""
    os.write(pipe, f"{json.dumps(what)}\n".encode())


def run(items: Sequence[pytest.Item]) -> Iterator[float]:
    """Run tests one after another; how long each took."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        started = time.perf_counter()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        yield time.perf_counter() - started


def noted(items: Sequence[pytest.Item]) -> list[tuple[float, list[int] | None]]:
    """For each test, how long it takes and which guards bite in it, or nothing where it fails."""
    notes: list[tuple[float, list[int] | None]] = []
    bitten.clear()
    for seconds in run(items):
        notes.append((seconds, None if failed else sorted(bitten)))
        bitten.clear()
        failed.clear()
    return notes


def judge(pipe: int, number: int, tests: Mapping[pytest.Item, float]) -> None:
    """Say which test fails first with a guard off. One that goes on for too long ends this process."""
    global off  # noqa: PLW0603 - one process, one guard
    off = number
    os.environ["NORMFOLD_GUARD_OFF"] = str(number)
    usual = iter(tests.values())
    limit(next(usual))
    for _ in run(list(tests)):
        if failed:
            break
        limit(next(usual, 0.0))
    say(pipe, [number, failed[0] if failed else ""])


def limit(usual: float) -> None:
    """From now on, so much processor time, and a multiple of it on the clock of a busy machine."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS + 10 * usual)
    signal.setitimer(signal.ITIMER_REAL, 10 * (SECONDS + 10 * usual))
