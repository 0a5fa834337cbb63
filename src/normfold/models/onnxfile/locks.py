"""One writer for each output, and nothing left of one that was killed.

While an output is written, a file ``.STEM.normfold-lock`` beside it is locked, so that a second writer waits; the
system gives the lock up with the process. The file lists the data file that was put under its final name for a model
which may never have come: the next writer that finds the list removes what the output does not refer to.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

NAME_BYTES: Final = 180
"""Names are cut here, so that the longest one that a file system takes leaves room for what is added to it."""


class Writing:
    """The right to write one output."""

    def __init__(self, target: Path, handle: int | None) -> None:
        self._target = target
        self._handle = handle

    def announce(self, data_file: Path) -> None:
        """Note that ``data_file`` is about to get its final name, for whoever comes after a kill."""
        if self._handle is not None:
            os.write(self._handle, os.fsencode(data_file.name) + b"\n")

    def clean(self) -> None:
        """Remove what killed writers of this output have left."""
        with contextlib.suppress(OSError):
            for file in self._left():
                with contextlib.suppress(OSError):
                    file.unlink()
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, 0)

    def _left(self) -> list[Path]:
        target = self._target
        temporary = re.compile(re.escape(f".{cut(target.name)}.normfold-") + r"\d+-[0-9a-f]{8}\.tmp")
        found = [file for file in target.parent.iterdir() if temporary.fullmatch(file.name)]
        return found + [file for file in self._announced() if not refers_to(target, file.name)]

    def _announced(self) -> list[Path]:
        if self._handle is None:
            return []
        size = min(os.fstat(self._handle).st_size, 1 << 16)
        names = os.pread(self._handle, size, 0).decode(errors="replace").split("\n")
        ours = data_file_pattern(self._target)
        return [self._target.with_name(name) for name in names if ours.fullmatch(name)]


def cut(name: str) -> str:
    """As much of ``name`` as leaves room for more."""
    return os.fsencode(name)[:NAME_BYTES].decode(errors="ignore")


def data_file_pattern(target: Path) -> re.Pattern[str]:
    """The names that data files of ``target`` have."""
    return re.compile(re.escape(target.stem) + r"-[0-9a-f]{16}\.data")


def refers_to(target: Path, name: str) -> bool:
    """Whether the model ``target`` may keep tensors in the file called ``name``.

    Raises:
        OSError: ``target`` is there and cannot be read.
    """
    if not target.is_file() or not target.stat().st_size:
        return False
    with target.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(os.fsencode(name)) >= 0


@contextlib.contextmanager
def sole_writer(target: Path) -> Iterator[Writing]:
    """Wait until no other process writes ``target``, remove what killed ones left, and keep others waiting.

    Where the folder or its file system knows no locks nobody waits.
    """
    lock = target.with_name(f".{cut(target.stem)}.normfold-lock")
    handle = _acquire(lock)
    writing = Writing(target, handle)
    try:
        writing.clean()
        yield writing
    finally:
        if handle is not None:
            # Before the lock is given up: who waits for this file sees that it is gone, and takes a new one.
            with contextlib.suppress(OSError):
                lock.unlink()
            os.close(handle)


def _acquire(lock: Path) -> int | None:
    """A handle to the locked file; None where there can be none."""
    try:
        import fcntl
    except ImportError:  # no POSIX
        return None
    while True:
        try:
            handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_APPEND, 0o666)
        except OSError:
            return None  # what cannot be written here says so with its own error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, lock):
                return handle
        except OSError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether ``path`` still names the open file: its last owner removes it."""
    try:
        there = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
