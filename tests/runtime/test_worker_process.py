"""Whatever a worker process prints, starts or leaves undone, the caller gets an answer or a failure in time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from normfold.limits import limited
from normfold.runtime.workers.process import (
    BYTES_PER_SECOND,
    COMPUTING_SECONDS,
    COPIES,
    COPIES_OF_INPUTS,
    USUAL_BYTES,
    Failed,
    WorkerProcess,
)

READ = "import sys, json, os, time, subprocess\nline = sys.stdin.readline()\n"
HOSTILE = {
    "no UTF-8": "sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.flush(); time.sleep(600)",
    "noise": "print('Welcome!', flush=True); time.sleep(600)",
    "no object": "print('[]', flush=True); time.sleep(600)",
    "another protocol": "print(json.dumps({'ok': 'yes'}), flush=True); time.sleep(600)",
    "an unknown kind of failure": "print(json.dumps({'ok': False, 'kind': 'x', 'message': ''}), flush=True)",
    "deep nesting": "print('[' * 200000, flush=True); time.sleep(600)",
    "a closed pipe": "os.close(1); time.sleep(600)",
    "an end in the middle": "sys.stdout.write('{\"ok\": tr'); sys.stdout.flush(); os._exit(3)",
    "a child that holds the pipe": "subprocess.Popen(['sleep', '600']); os._exit(4)",
}


def worker(code: str, time_limit: float = 30.0) -> WorkerProcess:
    return WorkerProcess((sys.executable, "-c", code), time_limit=time_limit)


@pytest.fixture
def started() -> Iterator[list[WorkerProcess]]:
    held: list[WorkerProcess] = []
    yield held
    for process in held:
        process.close()
        process.dispose()


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_answer_is_a_crash(name: str, started: list[WorkerProcess]) -> None:
    started.append(worker(READ + HOSTILE[name]))
    began = time.monotonic()
    reply = started[0].ask("do")
    assert isinstance(reply, Failed)
    assert reply.kind == "crash"
    assert time.monotonic() - began < 29.0
    assert started[0].pid is None


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(600)", READ + "subprocess.Popen(['sleep', '600']); time.sleep(600)"]
)
def test_silence_is_a_timeout(code: str, started: list[WorkerProcess]) -> None:
    started.append(worker(code, time_limit=1.0))
    reply = started[0].ask("do", data="x" * (4 << 20))
    assert isinstance(reply, Failed)
    assert reply.kind == "time"


def test_output_without_a_line_is_a_timeout(started: list[WorkerProcess]) -> None:
    started.append(worker("import sys\nwhile sys.stdout.write('x' * 100): pass", time_limit=1.0))
    reply = started[0].ask("do")
    assert isinstance(reply, Failed)
    assert reply.kind == "time"


BUSY = READ + "\nwhile True: pass"
ASLEEP = READ + "time.sleep(2); print(json.dumps({'ok': True}), flush=True)"


def test_a_small_model_that_computes_for_long_is_ended(
    started: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normfold.runtime.workers.process.COMPUTING_SECONDS", 0.5)
    started.append(worker(BUSY))
    started[0].expect(1000)
    reply = started[0].ask("do")
    assert isinstance(reply, Failed)
    assert (reply.kind, "--time-limit allows more" in reply.message) == ("time", True)


def test_waiting_is_no_computing(started: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.runtime.workers.process.COMPUTING_SECONDS", 1.0)
    started.append(worker(ASLEEP))
    started[0].expect(0)
    assert started[0].ask("do") == {"ok": True}


def test_a_time_limit_that_is_given_takes_the_place_of_the_usual_one(started: list[WorkerProcess]) -> None:
    started.append(worker(BUSY))
    with limited(1000.0):
        started[0].expect(0)
    assert started[0]._computing is None
    started[0].expect(int(BYTES_PER_SECOND))
    assert started[0]._computing == COMPUTING_SECONDS + 1


def test_a_model_that_computes_for_long_has_half_the_time_when_it_is_asked_for_again(
    started: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normfold.runtime.workers.process.COMPUTING_SECONDS", 0.5)
    started.append(worker(BUSY))
    started[0].expect(0)
    for left in (0.25, 0.125):
        assert isinstance(started[0].ask("do"), Failed)
        assert started[0]._computing == left


ECHO = "import sys, json\nfor line in sys.stdin: print(json.dumps({'ok': True, **json.loads(line)}), flush=True)"


def test_memory_follows_the_size_of_the_model_and_of_its_inputs(started: list[WorkerProcess], tmp_path: Path) -> None:
    def limit(**request: object) -> object:
        reply = started[0].ask("do", **request)
        assert isinstance(reply, dict)
        return reply["memory_limit"]

    feed = tmp_path / "0.npy"
    feed.write_bytes(bytes(100))
    started.append(worker(ECHO))
    assert limit() is None
    started[0].expect(1000)
    assert limit() == USUAL_BYTES + COPIES * 1000
    assert limit(feeds=[{"file": str(feed)}]) == USUAL_BYTES + COPIES * 1000 + COPIES_OF_INPUTS * 100
    with limited(memory_limit=1 << 40):
        assert limit(feeds=[{"file": str(feed)}]) == 1 << 40
    started[0].expect(None)
    assert limit() is None


def test_what_a_worker_started_ends_with_it(started: list[WorkerProcess], tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child = f"child = subprocess.Popen(['sleep', '600']); open({str(note)!r}, 'w').write(str(child.pid)); os._exit(4)"
    started.append(worker(READ + child))
    assert isinstance(started[0].ask("do"), Failed)
    for _ in range(200):
        if not _runs(int(note.read_text())):
            break
        time.sleep(0.05)
    assert not _runs(int(note.read_text()))


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_long_request_and_a_long_answer_get_through(started: list[WorkerProcess]) -> None:
    echo = READ + "print(json.dumps({'ok': True, **json.loads(line)}), flush=True)"
    started.append(worker(echo))
    reply = started[0].ask("do", data="é" * (1 << 20))
    assert not isinstance(reply, Failed)
    assert reply["data"] == "é" * (1 << 20)


def test_the_next_request_finds_another_process(started: list[WorkerProcess], tmp_path: Path) -> None:
    once = tmp_path / "once"
    code = READ + (
        f"first = not os.path.exists({str(once)!r}); open({str(once)!r}, 'w')\n"
        "print('noise' if first else json.dumps({'ok': True}), flush=True)"
    )
    started.append(worker(code))
    assert isinstance(started[0].ask("do"), Failed)
    assert started[0].ask("do") == {"ok": True}


def test_standard_error_is_quoted(started: list[WorkerProcess]) -> None:
    started.append(
        worker(READ + "sys.stderr.buffer.write(b'a\\nlast \\xff words\\n'); sys.stderr.flush(); os._exit(9)")
    )
    reply = started[0].ask("do")
    assert isinstance(reply, Failed)
    assert "exit status 9" in reply.message
    assert "last \N{REPLACEMENT CHARACTER} words" in reply.message
    assert os.getpid() != started[0].pid
