"""Another machine over ssh, which is a server of this one: figures, and nothing left behind whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

import normfold
import timed
from normfold.cli.application import run
from normfold.errors import NormfoldError
from normfold.measure import Cell, Conditions, Effort, Experiment, measure, open_candidate
from normfold.measure.processes import Measurement
from normfold.runtime.targets import LOCAL, Target, find
from normfold.runtime.targets.agent import agent
from normfold.runtime.targets.ssh import SshTarget
from normfold.runtime.targets.timing_client import TimingClient

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)
MISSING = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
server = pytest.mark.skipif(
    SSHD is None or bool(MISSING), reason="no sshd: apt-get install openssh-server openssh-client"
)
BRIEF = Effort(first=2, most=2, per_process=0.05, warm_up=0.005, time_limit=120.0, copies=1, control=False)
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile {folder}/pid
AuthorizedKeysFile {folder}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
ForceCommand {folder}/login
"""
LOGIN = """#!/bin/sh
PATH={folder}/bin:/usr/bin:/bin TMPDIR={there}
export PATH TMPDIR
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""
"""What the user's shell would set, had the user a home on that machine."""
PYTHON = '#!/bin/sh\nunset PYTHONPATH\nexec {python} {flags} "$@"\n'


@dataclass
class Board:
    """The server's side: where the agent's folder will be, and the target that leads there."""

    folder: Path
    there: Path
    port: int

    @property
    def target(self) -> Target:
        return find(f"ssh://127.0.0.1:{self.port}")

    def told(self, **seconds: float) -> Target:
        """The same, with other times between words."""
        assert isinstance(self.target, SshTarget)
        return replace(self.target, **seconds)

    def python(self, text: str) -> None:
        """Let this be its python3."""
        program = self.folder / "bin" / "python3"
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)

    def running(self) -> list[int]:
        """Processes that work in its folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    where = (entry / "cwd").readlink()
                except OSError:
                    continue
                if where.is_relative_to(self.there):
                    found.append(int(entry.name))
        return found

    def is_clean(self, seconds: float = 20.0) -> bool:
        """Whether, soon, no process and no file is left."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.running() and not list(self.there.iterdir()):
                return True
            time.sleep(0.1)
        return False


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    folder, there = tmp_path / "ssh", tmp_path / "there"
    folder.mkdir(mode=0o700)
    there.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(CONFIG.format(port=port, folder=folder, there=there))
    (folder / "config").write_text(
        f"Host *\nIdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
    )
    (folder / "login").write_text(LOGIN.format(folder=folder, there=there))
    (folder / "login").chmod(0o755)
    # The system's ssh, with a configuration of its own.
    client = folder / "client"
    client.mkdir()
    (client / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    (client / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{client}:{os.environ['PATH']}")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    assert SSHD is not None
    with subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL) as daemon:
        board = Board(folder, there, port)
        board.python(PYTHON.format(python=sys.executable, flags="-I"))
        _answers(port)
        yield board
        daemon.terminate()


def _answers(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("sshd does not answer")


def measured(board: Board, path: Path, meanwhile: Callable[[], None] | None = None, effort: Effort = BRIEF) -> Cell:
    with board.target.reached() as target, open_candidate(path) as model:
        if meanwhile is not None:
            threading.Thread(target=meanwhile, daemon=True).start()
        return measure(Experiment((model,), Conditions(target=target.name), effort, target=target))


def code(board: Board) -> str:
    with pytest.raises(NormfoldError) as caught, board.target.reached():
        pass
    assert caught.value.exit_code == 3
    return caught.value.code


@server
@pytest.mark.slow
def test_figures_and_nothing_left_behind(board: Board, tmp_path: Path) -> None:
    cell = measured(board, timed.products(tmp_path, 3), effort=replace(BRIEF, details=True))
    assert cell.refused is None
    (figure,) = cell.figures
    assert figure.deviation <= 1e-6
    assert figure.details is not None
    assert len(figure.details.nodes) == 3
    assert cell.samples[0].machine["architecture"]
    assert board.is_clean()


@server
@pytest.mark.slow
def test_bench_there_as_a_user_calls_it(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Measurement, "_per_process", 0.05)
    path, name = timed.products(tmp_path, 3), board.target.name
    brief = ("--processes", "2", "--half-width", "50", "--no-details")
    assert run(["bench", str(path), *brief, "--target", name, "--memory-limit", "2GiB"]) == 0
    assert f"{name}, server, 1 thread" in capfd.readouterr().out
    assert board.is_clean()


@server
@pytest.mark.slow
def test_tuning_there(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Measurement, "_per_process", 0.05)
    done = normfold.tune(timed.products(tmp_path, 3), threads=1, target=board.target.name, time_limit=20.0)
    assert done.conditions.target == board.target.name
    assert done.trials
    assert board.is_clean()


@server
@pytest.mark.slow
def test_a_link_that_is_cut_leaves_nothing_behind(board: Board, tmp_path: Path) -> None:
    """Every connection of the server is killed while a model is timed."""

    def cut() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not any(map(_is_busy, board.running())):
            time.sleep(0.05)
        for process in _children(int((board.folder / "pid").read_text())):
            os.kill(process, signal.SIGKILL)

    long = replace(BRIEF, per_process=30.0, time_limit=300.0)
    cell = measured(board, timed.products(tmp_path, 200, width=512), cut, long)
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == ("link-broken", 3)
    assert not cell.figures
    assert board.is_clean()


def _is_busy(process: int) -> bool:
    """Whether it has had a processor for a second."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[11]) + int(fields[12]) > os.sysconf("SC_CLK_TCK") * 2


def _children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return list(map(int, listed.stdout.split()))


@server
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("#!/bin/sh\nexit 127\n", "target-unavailable"),
        (PYTHON.format(python="/nowhere/python", flags=""), "target-unavailable"),
        ("#!/bin/sh\necho Welcome\nsleep 1\n", "target-unavailable"),
    ],
)
def test_a_machine_without_a_python(board: Board, program: str, expected: str) -> None:
    board.python(program)
    assert code(board) == expected


@server
def test_an_old_python_is_named(board: Board) -> None:
    board.python(
        "#!/bin/sh\nshift\n"
        f"exec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])' \"$@\"\n"
    )
    with pytest.raises(NormfoldError) as caught, board.target.reached():
        pass
    assert caught.value.code == "target-unavailable"
    assert "3.9" in caught.value.message
    assert board.is_clean()


@server
@pytest.mark.slow
def test_a_machine_without_onnxruntime(board: Board, tmp_path: Path) -> None:
    board.python(PYTHON.format(python=sys.executable, flags="-I -S"))
    cell = measured(board, timed.products(tmp_path, 2))
    assert cell.refused is not None
    assert cell.refused.code == "target-unavailable"
    assert "pip install onnxruntime" in cell.refused.message
    assert board.is_clean()


STRANGE = """#!/bin/sh
if [ "$1" = -c ]; then exec {python} -I "$@"; fi
exec {python} -I -c 'import platform, runpy, sys
platform.machine = lambda: "{architecture}"
sys.path[:0] = ["{folder}"]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")' "$@"
"""
"""A Python of another architecture, in whose folder an ``onnxruntime`` is found first."""
ELF32: Final = b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x03\x00\x28\x00\x01" + bytes(200)
"""The start of a library for 32-bit Arm."""


@server
@pytest.mark.parametrize(("architecture", "words"), [("armv7l", "no package"), ("x86_64", "another architecture")])
def test_another_architecture(board: Board, tmp_path: Path, architecture: str, words: str) -> None:
    """ONNX Runtime is not to be had for it, or the one that is there is for another one."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / f"onnxruntime{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(ELF32)
    board.python(STRANGE.format(python=sys.executable, architecture=architecture, folder=folder))
    cell = measured(board, timed.products(tmp_path, 2))
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == ("target-unavailable", 3)
    assert words in cell.refused.message
    assert architecture in cell.refused.message
    assert board.is_clean()


@server
def test_a_silent_link_is_given_up_at_the_other_end(board: Board) -> None:
    """Its network is gone, and nothing says so: here, nothing is sent."""
    with board.told(beat=1000.0, silence=1.0).reached() as target:
        assert list(board.there.iterdir())
        with TimingClient(time_limit=60, target=target) as client, pytest.raises(NormfoldError) as caught:
            _ask_on(client)
        assert caught.value.code == "link-broken"
        assert board.is_clean()


def _ask_on(client: TimingClient) -> None:
    """Its process answers until it is ended."""
    while True:
        client.close("nothing")
        time.sleep(0.05)


@server
def test_a_link_that_is_heard_of_is_kept(board: Board) -> None:
    with board.told(beat=0.2, silence=1.0).reached():
        time.sleep(2.0)
        assert list(board.there.iterdir())
    assert board.is_clean()


@server
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a small file system: run as root")
@pytest.mark.parametrize("kilobytes", [16, 512])
def test_a_full_disk(board: Board, tmp_path: Path, kilobytes: int) -> None:
    """It is too small for the agent, or for the model."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(board.there)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        if kilobytes < 100:
            assert code(board) == "target-full"
        else:
            cell = measured(board, timed.products(tmp_path, 1, width=512))
            assert cell.refused is not None
            assert cell.refused.code == "target-full"
        assert board.is_clean()
    finally:
        subprocess.run(["umount", "-l", str(board.there)], check=True)


@server
def test_an_unknown_host_key_is_respected(board: Board) -> None:
    (board.folder / "known").write_text("")
    with pytest.raises(NormfoldError) as caught, board.target.reached():
        pass
    assert caught.value.code == "target-unavailable"
    assert "Host key verification failed" in caught.value.message
    assert (board.folder / "known").read_text() == ""
    assert "ssh ssh://127.0.0.1" in caught.value.hint


@pytest.mark.parametrize(
    "address", ["ssh://", "ssh://-oProxyCommand=x", "ssh://a@-b", "ssh://a b", "ssh://host;reboot", "ssh://h:x"]
)
def test_an_address_is_no_option_and_no_command(address: str) -> None:
    with pytest.raises(NormfoldError) as caught:
        find(address)
    assert caught.value.code == "usage"


def test_the_agent_is_the_same_each_time_and_small() -> None:
    assert agent() == agent()
    assert len(agent()) < 200_000


def test_the_agent_needs_nothing_but_python_to_say_what_is_missing(tmp_path: Path) -> None:
    """Neither NumPy nor this package can be imported."""
    (tmp_path / "agent.pyz").write_bytes(agent())
    target = replace(LOCAL, travels=True, command=(sys.executable, "-I", "-S", str(tmp_path / "agent.pyz")))
    with TimingClient(time_limit=60, target=target) as client, pytest.raises(NormfoldError) as caught:
        client.hello((), 0)
    assert caught.value.code == "target-unavailable"
    assert "pip install onnxruntime" in caught.value.message
