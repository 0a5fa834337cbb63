"""How a client hands files to a worker and gets others back: over a disk that both share, or in the protocol."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from normfold.errors import EnvironmentUnavailableError
from normfold.runtime.workers.arrays import Entry
from normfold.runtime.workers.evaluation_client import Runnable
from normfold.runtime.workers.store import PIECE, checksum

Ask = Callable[..., dict[str, Any]]


class SharedDisk:
    """The worker opens the files where they are."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is for what the worker writes."""
        self._folder = folder
        self._results = 0

    def model(self, model: Runnable) -> dict[str, str]:
        """Fields of a request that name ``model``."""
        return {"model": str(model.file.absolute()), "data_folder": str(model.data_folder.absolute())}

    def feeds(self, feeds: Sequence[Entry]) -> list[Entry]:
        """Inputs as a request has them."""
        return list(feeds)

    def results(self) -> str:
        """A new name for what the worker is to write."""
        self._results += 1
        return str(self._folder / f"results-{self._results}")

    def written(self, results: Sequence[Entry]) -> list[Entry]:
        """What the worker wrote, as files of this process."""
        return list(results)

    def fetched(self, name: str) -> Path:
        """A file that the worker wrote, as one of this process."""
        return Path(name)


class Sent:
    """Files are sent in the protocol; every name is relative to the folder that the worker works in."""

    def __init__(self, folder: Path, ask: Ask) -> None:
        """``folder`` is for what is fetched; ``ask`` sends a request, and raises where it fails."""
        self._folder = folder
        self._ask = ask
        self._sent: dict[Path, str] = {}
        # Another process may work in the same folder there.
        self._token = secrets.token_hex(4)
        self._fetched = 0
        self._results = 0

    def model(self, model: Runnable) -> dict[str, str]:
        """Send the model's file, and those with its external data."""
        # Models may share the bytes of their file and differ in their data.
        files = (model.file, *model.locations.values())
        folder = hashlib.sha256("".join(map(checksum, files)).encode()).hexdigest()[:16]
        for location, file in model.locations.items():
            self._send(file, f"{folder}/{location}")
        return {"model": self._send(model.file, f"{folder}/{model.file.name}"), "data_folder": folder}

    def feeds(self, feeds: Sequence[Entry]) -> list[Entry]:
        """Send the inputs."""
        files = [Path(entry["file"]) for entry in feeds]
        names = [self._send(file, f"{file.parent.name}/{file.name}") for file in files]
        return [Entry(name=one["name"], file=name, type=one["type"]) for one, name in zip(feeds, names, strict=True)]

    def results(self) -> str:
        """A new name for what the worker is to write."""
        self._results += 1
        return f"results-{self._token}-{self._results}"

    def written(self, results: Sequence[Entry]) -> list[Entry]:
        """Fetch what the worker wrote."""
        return [Entry(name=one["name"], file=str(self.fetched(one["file"])), type=one["type"]) for one in results]

    def _send(self, file: Path, name: str) -> str:
        if file in self._sent:
            return self._sent[file]
        digest = checksum(file)
        if not self._ask("held", file=name, sha256=digest)["held"]:
            size, at = file.stat().st_size, 0
            with file.open("rb") as opened:
                while at == 0 or at < size:
                    piece = opened.read(PIECE)
                    last = at + len(piece) >= size
                    data = base64.b64encode(piece).decode()
                    self._ask("put", file=name, at=at, data=data, sha256=digest if last else None)
                    at += max(len(piece), 1)
        self._sent[file] = name
        return name

    def fetched(self, name: str) -> Path:
        """Fetch a file that the worker wrote.

        Raises:
            EnvironmentUnavailableError: ``link-broken``, it arrives damaged.
        """
        self._fetched += 1
        path, digest, at, stated = self._folder / f"fetched-{self._fetched}.npy", hashlib.sha256(), 0, None
        with path.open("wb") as file:
            while stated is None:
                reply = self._ask("get", file=name, at=at)
                piece, stated = base64.b64decode(reply["data"]), reply["sha256"]
                file.write(piece)
                digest.update(piece)
                at += len(piece)
                if not piece:
                    break
        if digest.hexdigest() != stated:
            raise EnvironmentUnavailableError("link-broken", f"{name} did not arrive as it was sent.")
        return path
