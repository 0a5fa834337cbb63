"""What a comparison asks of that which runs models: a worker that holds files, or this process, which holds modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from normfold.runtime import Failed, Loaded, Ran

T = TypeVar("T")
M_contra = TypeVar("M_contra", contravariant=True)


class Runner(Protocol[M_contra]):
    """Holds one model at a time, and runs it."""

    def load(
        self,
        model: M_contra,
        *,
        extra_outputs: Sequence[str] = (),
        custom_ops: Sequence[str] = (),
        evaluator: str = "",
        optimised: bool = False,
        precise: bool = False,
    ) -> Loaded | Failed:
        """Hold ``model`` in place of the one before, with ``extra_outputs`` besides its own.

        ``evaluator`` insists on the one that a `Loaded` named. ``optimised`` asks for the same model in another order
        of computation, whose difference is the rounding noise of the model itself; ``precise`` for the same in float64.
        """
        ...

    def run(self, arrays: Mapping[str, NDArray[Any]], outputs: Sequence[str] = (), /) -> Ran | Failed:
        """Run the model held on ``arrays`` by input name, for ``outputs`` or, if none are named, all of them."""
        ...


class Queue(Protocol[M_contra]):
    """Runs tasks on a runner, one after the other."""

    def submit(self, task: Callable[[Runner[M_contra]], T], /) -> Future[T]:
        """Queue ``task``; its result, or what it raised, is the future's."""
        ...
