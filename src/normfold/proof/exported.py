"""An exported model compared with the module that it came from, run eagerly, at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Final, TypeVar

from torch import nn

from normfold.errors import UsageError
from normfold.models.data import UserInputs
from normfold.models.exporter.interface import Interface, Limits
from normfold.models.module.duplicate import replica
from normfold.models.module.example import Example, call, to_array
from normfold.proof.comparison import Setup, verify
from normfold.proof.modules import ModuleRunner, RunnableModule, precision
from normfold.proof.probes import Array, InputSpec
from normfold.proof.runner import Queue, Runner
from normfold.records import Verification
from normfold.runtime import Evaluator, Failed, Loaded, Ran, Runnable, WorkerClient

M = TypeVar("M")
T = TypeVar("T")
Sizes = Mapping[str, int]

LARGEST_DOUBLED: Final = 64
"""Size up to which a dynamic size is doubled to try another one; larger ones are halved."""
ANY_SIZE: Final[Limits] = (1, None)
"""What is allowed where nothing is said."""


def compare(
    queue: Callable[[ModuleRunner], Queue[RunnableModule | M]],
    module: nn.Module,
    result: RunnableModule | M,
    what: Interface,
    setup: Setup,
) -> Verification:
    """Compare ``result`` with ``module`` on generated inputs, at every set of dynamic sizes worth trying.

    ``queue`` makes the one that runs both, given what runs modules: `InProcess`, or `FilesAndModules` where ``result``
    is a file. The verdict is the first that is not "equivalent"; figures and inputs are those of all of them. A
    difference is none where the rounding of either of the two explains it.

    Raises:
        UsageError: ``bad-input`` where the module runs at no other size than the example's.
    """
    source = RunnableModule(module)
    whole: Verification | None = None
    for example in examples(module, what):
        both = queue(ModuleRunner(example, what.inputs, what.outputs))
        proof = _either_way(both, _about(setup, module, what, example), source, result)
        whole = proof if whole is None else _both(whole, proof)
        if proof.status != "equivalent":
            break
    if whole is None:
        raise ValueError("there is always the example itself")
    return whole


def _either_way(queue: Queue[M], setup: Setup, source: M, result: M) -> Verification:
    """The comparison with ``source``; where the two differ, the other way round, with the rounding of ``result``."""
    proof = verify(queue, source, result, setup)
    # One that does not run has no rounding of its own.
    if proof.status != "different" or proof.failure:
        return proof
    turned = verify(queue, result, source, setup)
    return turned if turned.status == "equivalent" else proof


def examples(module: nn.Module, what: Interface) -> Iterator[Example]:
    """The example, the same at other dynamic sizes, and with the smallest batch: of one, unless it has to be larger."""
    yield what.example
    sizes = what.sizes()
    if not sizes:
        return
    batches = {axes[0] for axes in what.dynamic.values() if 0 in axes}
    allowed = what.limits
    others = [other for other in _other_sizes(sizes, batches, allowed) if _runs(module, what, other)]
    if not others:
        tried = ", ".join(f"{symbol} {size}" for symbol, size in sizes.items())
        raise UsageError(
            "bad-input",
            f"The module runs at no other size than {tried}.",
            "Name only those axes dynamic that are so in the module's code.",
        )
    for other in others[:1]:
        yield what.resized(other)
    single = {
        symbol: max(allowed.get(symbol, ANY_SIZE)[0], 1) if symbol in batches else n for symbol, n in sizes.items()
    }
    if single not in (sizes, *others[:1]) and _runs(module, what, single):
        yield what.resized(single)


def _other_sizes(sizes: Sizes, batches: set[str], allowed: Mapping[str, Limits]) -> Iterator[dict[str, int]]:
    """All dynamic sizes other than they were, as far as others are ``allowed``, from the likeliest to run."""
    ways: list[Callable[[int], int]] = [_near, lambda size: 2 * size, lambda size: max(size // 2, 1), lambda n: n + 1]
    for way in ways:
        wanted = {symbol: _batch(n) if symbol in batches else way(n) for symbol, n in sizes.items()}
        other = {symbol: another_size(n, sizes[symbol], allowed.get(symbol, ANY_SIZE)) for symbol, n in wanted.items()}
        if all(other[symbol] != size for symbol, size in sizes.items()):
            yield other


def another_size(wanted: int, size: int, limits: Limits) -> int:
    """The allowed size nearest to ``wanted``, or another one where that is ``size``."""
    least, most = max(limits[0], 1), limits[1] or wanted + size
    near = max(least, min(wanted, most))
    if near != size or wanted == size:
        return near
    return least if least < size else min(size + 1, most)


def _near(size: int) -> int:
    return 2 * size if size <= LARGEST_DOUBLED else size // 2


def _batch(size: int) -> int:
    return 3 if size != 3 else 5


def _runs(module: nn.Module, what: Interface, sizes: Sizes) -> bool:
    return not isinstance(call(replica(module), what.resized(sizes)), Failed)


def _about(setup: Setup, module: nn.Module, what: Interface, example: Example) -> Setup:
    """``setup`` for this module with these inputs."""
    arrays = {name: to_array(tensor) for name, tensor in zip(what.inputs, example.tensors(), strict=True)}
    return replace(
        setup,
        inputs=[InputSpec(name, array.dtype, array.shape) for name, array in arrays.items()],
        given=UserInputs(arrays=arrays),
        precision=precision(module),
    )


def _both(first: Verification, second: Verification) -> Verification:
    """Two proofs of the same result as one; the second has the last word."""
    because = dict.fromkeys(filter(None, [first.because, second.because]))
    return replace(
        second,
        because="; ".join(because),
        max_abs=_larger(first.max_abs, second.max_abs),
        max_rel=_larger(first.max_rel, second.max_rel),
        inputs=(*first.inputs, *second.inputs),
    )


def _larger(first: float | None, second: float | None) -> float | None:
    return max((number for number in (first, second) if number is not None), default=None)


class FilesAndModules:
    """Runs modules here and files in the worker of ``evaluator``."""

    def __init__(self, evaluator: Evaluator, runner: ModuleRunner) -> None:
        self._evaluator = evaluator
        self._runner = runner

    def submit(self, task: Callable[[Runner[RunnableModule | Runnable]], T]) -> Future[T]:
        """Queue ``task`` behind what the evaluator has to do."""
        return self._evaluator.submit(lambda client: task(_EitherRunner(self._runner, client)))


class _EitherRunner:
    """Passes on what is asked to the runner that holds the model."""

    def __init__(self, modules: ModuleRunner, files: WorkerClient) -> None:
        self._modules, self._files = modules, files
        self._holder: ModuleRunner | WorkerClient = files

    def load(
        self,
        model: RunnableModule | Runnable,
        *,
        extra_outputs: Sequence[str] = (),
        custom_ops: Sequence[str] = (),
        evaluator: str = "",
        optimised: bool = False,
        precise: bool = False,
    ) -> Loaded | Failed:
        """Hold ``model``; which evaluator ran the module says nothing about the one for files."""
        if isinstance(model, RunnableModule):
            self._holder = self._modules
            return self._modules.load(model, extra_outputs=extra_outputs, optimised=optimised, precise=precise)
        self._holder = self._files
        own = "" if evaluator.startswith("torch") else evaluator
        return self._files.load(
            model,
            extra_outputs=extra_outputs,
            custom_ops=custom_ops,
            evaluator=own,
            optimised=optimised,
            precise=precise,
        )

    def run(self, arrays: Mapping[str, Array], outputs: Sequence[str] = (), /) -> Ran | Failed:
        """Run the model that is held."""
        return self._holder.run(arrays, outputs)
