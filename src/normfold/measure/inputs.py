"""Inputs of the models: made once, on disk where every process can read them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from normfold import limits
from normfold.errors import UsageError
from normfold.measure.checks import Values
from normfold.models.data import UserInputs
from normfold.proof.probes import KINDS, InputSpec, check_given, layouts, make_feed, unmakeable
from normfold.records import Probe
from normfold.runtime import Failed
from normfold.runtime.targets.timing_client import TimingClient
from normfold.runtime.workers import arrays
from normfold.runtime.workers.arrays import Entry


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """Inputs on disk, the record of how each was made, and the outputs that belong to them."""

    entries: tuple[Entry, ...]
    probes: tuple[Probe, ...]
    outputs: Values = field(default_factory=dict)
    own: Mapping[str, Values] = field(default_factory=dict)
    """On another target: what each candidate gives on this machine with the same settings."""


class ArrayFolder:
    """A folder that goes away with the ``with`` block."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="normfold-", ignore_cleanup_errors=True)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @property
    def path(self) -> Path:
        """For other files that go away with it."""
        return Path(self._folder.name)

    def write(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[Entry, ...]:
        """Put arrays where every process can read them."""
        self._count += 1
        return tuple(arrays.write(Path(self._folder.name) / f"inputs-{self._count}", inputs))

    @staticmethod
    def keep(values: Values) -> Values:
        """The same in memory: the files behind them go away with the process that wrote them."""
        return {name: np.array(value) for name, value in values.items()}


def prepare_inputs(
    client: TimingClient, name: str, specs: Sequence[InputSpec], given: UserInputs, seed: int, folder: ArrayFolder
) -> PreparedInputs:
    """The first inputs on which the model called ``name`` runs; free sizes are guessed.

    Raises:
        EnvironmentUnavailableError: ``out-of-memory``, they are larger than the memory.
        UsageError: ``bad-input``, the given shapes or arrays do not fit; ``not-runnable``, no inputs tried fit.
    """
    check_given(specs, given)
    missing = unmakeable(specs, given)
    if missing:
        raise UsageError("bad-input", f"{name}: {missing}.")
    failure = Failed("run", "no inputs to try")
    for index, layout in enumerate(layouts(specs, given)):
        try:
            feed = make_feed(specs, given, layout, KINDS[0], seed)
        except (MemoryError, ValueError) as error:  # NumPy has two words for more than there is room for
            raise limits.out_of_memory() from error
        inputs = PreparedInputs(folder.write(feed.arrays), feed.probes)
        reply = client.try_to_bind(name, inputs.entries)
        if not isinstance(reply, Failed):
            return inputs
        failure = reply if index == 0 else failure
        if reply.kind != "run":
            raise reply.error(name)
    if given.names:
        raise UsageError("bad-input", f"The model does not run on the inputs given: {failure.message}")
    raise failure.error(name)
