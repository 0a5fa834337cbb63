"""The worker's half of sending files: the verbs with which a worker's folder is filled and read, piece by piece.

A worker works in a folder of its own, and names of files are relative to that. Where its client shares a disk with it,
it needs none of this.
"""

from __future__ import annotations

import base64
import errno
import hashlib
from pathlib import Path, PurePosixPath
from typing import Final

from normfold.runtime.workers.protocol import RefusedError, Reply, Request

PIECE: Final = 1 << 20
"""Bytes sent at a time."""
FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def held(_worker: object, request: Request) -> Reply:
    """Whether ``file`` is there already, with the checksum ``sha256``."""
    path = _inside(request["file"])
    return {"held": path.is_file() and checksum(path) == request["sha256"]}


def put(_worker: object, request: Request) -> Reply:
    """Write ``data`` at ``at`` of ``file``; with ``sha256``, the file is whole, and has to have that checksum."""
    path = _inside(request["file"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if request["at"] else "wb") as file:
            file.seek(request["at"])
            file.write(base64.b64decode(request["data"], validate=True))
    except OSError as error:
        raise refusal(error) from error
    if request["sha256"] is not None and checksum(path) != request["sha256"]:
        path.unlink()
        raise RefusedError("link", f"{request['file']} did not arrive as it was sent")
    return {}


def get(_worker: object, request: Request) -> Reply:
    """A piece of ``file`` from ``at``; with the last one, the checksum of all of it, and the file is gone."""
    path = _inside(request["file"])
    with path.open("rb") as file:
        file.seek(request["at"])
        data = file.read(PIECE)
        last = file.tell() == path.stat().st_size
    digest = checksum(path) if last else None
    if last:
        path.unlink()
    return {"data": base64.b64encode(data).decode(), "sha256": digest}


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refusal(error: OSError) -> RefusedError:
    """Why a file cannot be written."""
    kind = "space" if error.errno in FULL else "crash"
    return RefusedError(kind, f"a file cannot be written: {error.strerror}")


def _inside(name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise RefusedError("crash", f"{name} is not a file of this worker's folder")
    return Path(path)
