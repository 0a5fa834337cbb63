"""The stages of a job in a folder: a stage is done again only where its input, its options or normfold changed.

Each stage has a folder named after a digest of what it depends on. It is made under another name and renamed when it is
complete, so that a killed run leaves whole stages and rubbish that the next run removes.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Final

from normfold._version import __version__
from normfold.errors import OutputError

FOLDER: Final = ".normfold"
RECORD: Final = "stage.json"
MODEL: Final = "model.onnx"
PART: Final = ".part-"
"""What the name of a stage that is being made begins with."""
LENGTH: Final = 20
"""Digits of a digest in a folder's name."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that was done."""

    folder: Path
    record: Json
    resumed: bool
    """Whether an earlier run did it."""

    @property
    def model(self) -> Path:
        """The model that it made, where it made one."""
        return self.folder / MODEL


@dataclass(frozen=True, slots=True)
class Workshop:
    """The folder that stages are kept in."""

    folder: Path

    @staticmethod
    @contextmanager
    def opened(output: Path) -> Iterator[Workshop]:
        """That of the job whose results go to ``output``, for this process alone.

        Raises:
            OutputError: ``output-not-writable``: it cannot be made, or another process is at work in it.
        """
        folder = output / FOLDER
        with _writing(output):
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(lock, output)
            for rubbish in folder.glob(f"{PART}*"):
                shutil.rmtree(rubbish, ignore_errors=True)
            yield Workshop(folder)
        finally:
            os.close(lock)

    def find(self, name: str, depends: Mapping[str, Any]) -> Stage | None:
        """The stage ``name`` as an earlier run left it, if it did and what it left is whole."""
        folder = self._folder(name, depends)
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            wanted = record["sha256"]
            if wanted is not None and digest(folder / MODEL) != wanted:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Stage(folder, record, resumed=True)

    def do(self, name: str, depends: Mapping[str, Any], work: Callable[[Path], Json]) -> Stage:
        """The stage ``name``, which ``depends`` on so much: found, or done by ``work`` in the folder that it is given.

        Raises:
            OutputError: ``output-not-writable``.
        """
        found = self.find(name, depends)
        if found is not None:
            return found
        return self._made(work, lambda _: self._folder(name, depends))

    def fresh(self, name: str, work: Callable[[Path], Json]) -> Stage:
        """A stage that depends on what no digest tells, such as code: it is done each time, and named by its model.

        Raises:
            OutputError: ``output-not-writable``.
        """
        return self._made(work, lambda sha256: self._folder(name, {"model": sha256}))

    def _made(self, work: Callable[[Path], Json], named: Callable[[str | None], Path]) -> Stage:
        with _writing(self.folder):
            part = Path(tempfile.mkdtemp(prefix=PART, dir=self.folder))
        try:
            record = work(part)
            made = digest(part / MODEL) if (part / MODEL).is_file() else None
            record["sha256"] = made
            folder = named(made)
            with _writing(folder):
                (part / RECORD).write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")
                shutil.rmtree(folder, ignore_errors=True)
                part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return Stage(folder, record, resumed=False)

    def _folder(self, name: str, depends: Mapping[str, Any]) -> Path:
        text = json.dumps({"normfold": __version__, "stage": name, **depends}, sort_keys=True)
        return self.folder / f"{name}-{sha256(text.encode()).hexdigest()[:LENGTH]}"


def digest(file: Path) -> str:
    """SHA-256 of the bytes of ``file``."""
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _take(lock: int, output: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        hint = "Wait until it is done, or choose another folder."
        raise OutputError("output-not-writable", f"Another run is at work in {output}.", hint) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError("output-not-writable", f"{path} cannot be written: {error.strerror}.") from error
