"""An exported model compared with the module that it came from, run eagerly, at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final, TypeVar, cast

from torch import nn

from normfold.errors import UsageError
from normfold.models.data import UserInputs
from normfold.models.exporter.interface import Interface
from normfold.models.module.example import Example, call, to_array
from normfold.proof.comparison import Comparison, Question
from normfold.proof.modules import InProcess, ModuleRunner, RunnableModule, precision
from normfold.proof.probes import Array, InputSpec
from normfold.records import Verification
from normfold.runtime import Evaluator, Failed, Loaded, Ran, Runnable, WorkerClient

T = TypeVar("T")
Sizes = Mapping[str, int]

LARGEST_DOUBLED: Final = 64
"""Size up to which a free size is doubled to try another one; larger ones are halved."""


def compare(
    evaluator: Evaluator | None,
    module: nn.Module,
    result: Runnable | RunnableModule,
    what: Interface,
    asked: Question,
) -> Verification:
    """Compare ``result`` with ``module`` on made-up inputs, at every set of free sizes worth trying.

    The verdict is the first that is not "equivalent"; figures and inputs are those of all of them. A difference is none
    where the rounding of either of the two explains it. A file needs an ``evaluator``; modules run here.

    Raises:
        UsageError: ``bad-input`` where the module runs at no other free size than the example's.
    """
    whole: Verification | None = None
    for example in examples(module, what):
        runner = ModuleRunner(example, what.inputs, what.outputs)
        both = InProcess(runner) if evaluator is None else _Both(evaluator, runner)
        question = _about(asked, module, what, example)
        proof = _compare(both, question, RunnableModule(module), result)
        if proof.status == "different":
            turned = _compare(both, question, result, RunnableModule(module))
            proof = turned if turned.status == "equivalent" else proof
        whole = proof if whole is None else _both(whole, proof)
        if proof.status != "equivalent":
            break
    if whole is None:
        raise ValueError("there is always the example itself")
    return whole


def examples(module: nn.Module, what: Interface) -> Iterator[Example]:
    """The example, the same at other free sizes, and with a batch of one."""
    yield what.example
    sizes = what.sizes()
    if not sizes:
        return
    batches = {axes[0] for axes in what.dynamic.values() if 0 in axes}
    others = [other for other in _other_sizes(sizes, batches) if _runs(module, what, other)]
    if not others:
        tried = ", ".join(f"{symbol} {size}" for symbol, size in sizes.items())
        raise UsageError(
            "bad-input",
            f"The module itself runs at no other size than {tried}.",
            "Leave out what is not free in its code from the dynamic sizes.",
        )
    for other in others[:1]:
        yield what.resized(other)
    single = dict.fromkeys(batches, 1) | {symbol: n for symbol, n in sizes.items() if symbol not in batches}
    if single not in (sizes, *others[:1]) and _runs(module, what, single):
        yield what.resized(single)


def _other_sizes(sizes: Sizes, batches: set[str]) -> Iterator[dict[str, int]]:
    """All free sizes other than they were, from the likeliest to run."""
    ways: list[Callable[[int], int]] = [_near, lambda size: 2 * size, lambda size: max(size // 2, 1), lambda n: n + 1]
    for way in ways:
        other = {symbol: _batch(n) if symbol in batches else way(n) for symbol, n in sizes.items()}
        if all(other[symbol] != size for symbol, size in sizes.items()):
            yield other


def _near(size: int) -> int:
    return 2 * size if size <= LARGEST_DOUBLED else size // 2


def _batch(size: int) -> int:
    return 3 if size != 3 else 5


def _runs(module: nn.Module, what: Interface, sizes: Sizes) -> bool:
    return not isinstance(call(module, what.resized(sizes)), Failed)


def _about(asked: Question, module: nn.Module, what: Interface, example: Example) -> Question:
    """``asked``, of this module with these inputs."""
    feeds = {name: to_array(tensor) for name, tensor in zip(what.inputs, example.tensors(), strict=True)}
    return replace(
        asked,
        inputs=[InputSpec(name, array.dtype, array.shape) for name, array in feeds.items()],
        given=UserInputs(arrays=feeds),
        precision=precision(module),
    )


def _compare(
    evaluator: _Both | InProcess,
    question: Question,
    source: RunnableModule | Runnable,
    result: RunnableModule | Runnable,
) -> Verification:
    # The comparison asks for files; the evaluator knows what to do with a module.
    comparison = Comparison(cast("Evaluator", evaluator), question)
    comparison.begin(cast("Runnable", source))
    return comparison.finish(cast("Runnable", result))


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


class _Both:
    """An evaluator that runs modules here and files in its worker."""

    def __init__(self, evaluator: Evaluator, runner: ModuleRunner) -> None:
        self._evaluator = evaluator
        self._runner = runner

    def submit(self, task: Callable[[Any], T]) -> Future[T]:
        return self._evaluator.submit(lambda client: task(_Client(self._runner, client)))


class _Client:
    """Passes on what is asked to the one that holds the model."""

    def __init__(self, runner: ModuleRunner, client: WorkerClient) -> None:
        self._runner, self._client = runner, client
        self._holder: ModuleRunner | WorkerClient = client

    def load(self, model: RunnableModule | Runnable, *, evaluator: str = "", **options: Any) -> Loaded | Failed:
        """Hold ``model``; which evaluator ran the module says nothing about the one for files."""
        if isinstance(model, RunnableModule):
            self._holder = self._runner
            return self._runner.load(model, **options)
        self._holder = self._client
        return self._client.load(model, evaluator="" if evaluator.startswith("torch") else evaluator, **options)

    def run(self, arrays: Mapping[str, Array], outputs: Sequence[str] = ()) -> Ran | Failed:
        """Run the model that is held."""
        return self._holder.run(arrays, outputs)
