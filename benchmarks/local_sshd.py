"""An ssh server of this machine for as long as it is needed, with keys and a configuration of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SERVER: Final = """
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
LOGIN: Final = '#!/bin/sh\nPATH={folder}/there:/usr/bin:/bin\nexport PATH\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'
PYTHON: Final = '#!/bin/sh\nunset PYTHONPATH\nexec {python} -I "$@"\n'
CLIENT: Final = """#!/bin/sh
exec {ssh} -o IdentityFile={folder}/user -o IdentitiesOnly=yes -o UserKnownHostsFile={folder}/known "$@"
"""
SECONDS: Final = 20.0


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The server's address; until the end of the ``with`` block, ``ssh`` on the path has its keys.

    Raises:
        FileNotFoundError: there is no sshd or no ssh here.
    """
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    client = shutil.which("ssh")
    if server is None or client is None:
        raise FileNotFoundError("no sshd or ssh: apt-get install openssh-server openssh-client")
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(SERVER.format(port=port, folder=folder))
    _program(folder / "login", LOGIN.format(folder=folder))
    _program(folder / "there" / "python3", PYTHON.format(python=sys.executable))
    _program(folder / "here" / "ssh", CLIENT.format(ssh=client, folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    before = os.environ["PATH"]
    with subprocess.Popen([server, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL) as daemon:
        os.environ["PATH"] = f"{folder / 'here'}:{before}"
        try:
            _answers(port)
            yield f"ssh://127.0.0.1:{port}"
        finally:
            os.environ["PATH"] = before
            daemon.terminate()


def _program(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def _answers(port: int) -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("sshd does not answer")
