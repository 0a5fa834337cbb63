"""Folding an ``nn.Module``: trace a copy, fold, write into another copy, and prove it in PyTorch itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final, Literal, TypeVar, cast

import ml_dtypes
import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from normfold import engine
from normfold.backends.torch import Change, TorchGraph, Trace, record, shared_memory, write
from normfold.decisions import Decision, Refusal, SiteReport, Verification
from normfold.engine.probes import Array, Given, InputSpec
from normfold.engine.verification import Comparison, Pair, Question
from normfold.errors import UsageError
from normfold.runtime import Evaluator, Failed, Loaded, Ran, Runnable

T = TypeVar("T")
Tell = Callable[[str], None]

COARSE: Final = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""Types whose rounding decides how close two modules can be, coarsest first."""


@dataclass(frozen=True, slots=True)
class Folded:
    """What became of a module."""

    module: nn.Module
    decisions: tuple[Decision, ...]
    change: Change
    verification: Verification


@dataclass(frozen=True, slots=True)
class Example:
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(inputs: Any) -> Example:
        """A tuple or list of positional arguments, a mapping of named ones, or the only argument itself."""
        if inputs is None:
            hint = "Pass them as the second argument: normfold.fold(module, (x,))."
            raise UsageError("usage", "A module is run to be folded, and needs example inputs.", hint)
        if isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs):
            return Example((), dict(inputs))
        return Example(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,))

    def tensors(self) -> list[torch.Tensor]:
        """Every tensor in the arguments."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, torch.Tensor)]

    def twice(self) -> Example | None:
        """The same with a batch of twice the size; ``None`` where a tensor has no axes."""
        if not all(tensor.ndim for tensor in self.tensors()):
            return None
        return self.filled([torch.cat([tensor, tensor]) for tensor in self.tensors()])

    def filled(self, tensors: Sequence[torch.Tensor]) -> Example:
        """The same with other tensors."""
        leaves, layout = tree_flatten((self.args, self.kwargs))
        new = iter(tensors)
        args, kwargs = tree_unflatten(
            [next(new) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], layout
        )
        return Example(args, kwargs)


def fold(
    module: nn.Module, inputs: Any, how: Literal["prove", "skip", "dry"], *, in_place: bool = False, **options: Any
) -> Folded:
    """Fold ``module``, run on ``inputs``, and compare the two, unless ``how`` is to skip that or only to decide."""
    job = Job(module, Example.of(inputs), in_place=in_place and how != "dry", **options)
    if how == "prove":
        return job.proven()
    return job.unproven("not asked for" if how == "skip" else "a dry run compares nothing")


def inspect(module: nn.Module, inputs: Any, tell: Tell) -> tuple[SiteReport, ...]:
    """Every norm, its health, and what would be decided."""
    return engine.inspect(TorchGraph(Job(module, Example.of(inputs), tell=tell).trace(), shared_memory(module)))


@dataclass(frozen=True, slots=True)
class Job:
    """One folding of ``module``, which is left alone unless ``in_place``."""

    module: nn.Module
    example: Example
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    seed: int = 0
    in_place: bool = False
    tell: Tell = lambda _doing: None

    def unproven(self, because: str) -> Folded:
        """Fold without a comparison."""
        graph, folding = self._fold(self._copy(), {})
        return self._done(graph, folding.decisions, Verification("skipped", because=because))

    def proven(self) -> Folded:
        """Fold; where the result differs, drop the fold at which it parts from the source, and fold anew.

        ``verification`` says whether the result is equivalent; where it is not, ``module`` is not to be handed over.
        """
        dropped: dict[str, Refusal] = {}
        source = self._copy()
        while True:
            graph, folding = self._fold(source, dropped)
            result = copy.deepcopy(self.module)
            change = write(graph, result)
            self.tell("comparing with the source")
            proof = self._prove(source, result, graph, folding.pairs)
            decisions = folding.decisions
            at_fault = proof.first_parting
            changed = {decision.site for decision in decisions if decision.outcome != "kept"}
            if proof.status == "different" and at_fault in changed:
                because = f"With it folded, the module differs from its source: {proof.because}."
                dropped[str(at_fault)] = Refusal("verification-failed", because)
                source = self._copy()
            elif self.in_place and proof.status == "equivalent":
                return self._done(graph, decisions, proof)
            else:
                return Folded(result, decisions, change, proof)

    def _done(self, graph: TorchGraph, decisions: tuple[Decision, ...], proof: Verification) -> Folded:
        result = self.module if self.in_place else copy.deepcopy(self.module)
        return Folded(result, decisions, write(graph, result), proof)

    def _copy(self) -> nn.Module:
        _check(self.module)
        try:
            return copy.deepcopy(self.module)
        except Exception as error:
            # A class's own __deepcopy__, or a tensor that is the result of a computation.
            hint = "A weight that is computed (torch.nn.utils.weight_norm) has to be baked first."
            raise UsageError("bad-input", f"The module cannot be copied: {error}", hint) from error

    def trace(self, module: nn.Module | None = None) -> Trace:
        """Run ``module``, or a copy of the job's, and write down what it does."""
        self.tell("tracing")
        return record(module or self._copy(), self.example.args, self.example.kwargs)

    def _fold(self, source: nn.Module, dropped: Mapping[str, Refusal]) -> tuple[TorchGraph, engine.Folding]:
        graph = TorchGraph(self.trace(source), shared_memory(self.module))
        self.tell("folding")
        return graph, engine.fold(graph, only=self.only, skip=self.skip, exclude=dropped)

    def _prove(self, source: nn.Module, result: nn.Module, graph: TorchGraph, pairs: Sequence[Pair]) -> Verification:
        if graph.trace.stateful:
            result = copy.deepcopy(result)
        proof = self._compare(self.example, source, result, graph, pairs)
        larger = self.example.twice()
        if proof.status != "equivalent" or larger is None or isinstance(_Runner().run_module(source, larger), Failed):
            return proof
        second = self._compare(larger, source, result, graph, pairs)
        return proof if second.status == "equivalent" else second

    def _compare(
        self, example: Example, source: nn.Module, result: nn.Module, graph: TorchGraph, pairs: Sequence[Pair]
    ) -> Verification:
        feeds = {f"input {k}": _array(tensor) for k, tensor in enumerate(example.tensors())}
        held = {tensor.dtype for tensor in (*source.parameters(), *source.buffers())}
        question = Question(
            [InputSpec(name, array.dtype, array.shape) for name, array in feeds.items()],
            Given(feeds=feeds),
            seed=self.seed,
            precision=next((name for dtype, name in COARSE.items() if dtype in held), None),
            random=any(module.training for module in source.modules()),
        )
        # The comparison asks for a file and a process that runs it; here both are in memory.
        comparison = Comparison(cast(Evaluator, _InProcess(example)), question)
        comparison.begin(cast(Runnable, _Model(source, {})))
        return comparison.finish(cast(Runnable, _Model(result, graph.origins())), pairs)


@dataclass(frozen=True, slots=True)
class _Model:
    """A module to run, and the names that its inner values had before folding renamed them."""

    module: nn.Module
    origins: Mapping[str, str]


class _InProcess:
    """Runs tasks at once, in this process."""

    def __init__(self, example: Example) -> None:
        self._runner = _Runner(example)

    def submit(self, task: Callable[[Any], T]) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(task(self._runner))
        return future


class _Runner:
    """Answers what `Comparison` asks of a worker."""

    def __init__(self, example: Example = Example(())) -> None:
        self._example = example
        self._model: _Model | None = None
        self._extra: Collection[str] = ()

    def load(self, model: _Model, *, extra_outputs: Sequence[str] = (), **_options: Any) -> Loaded | Failed:
        """Hold ``model``; its outputs are known once it has run."""
        self._model, self._extra = model, extra_outputs
        ran = self.run_module(model.module, self._example)
        if isinstance(ran, Failed):
            return ran
        if not ran.outputs:
            return Failed("unsupported", "the module returns no tensors in tuples, lists, dicts or dataclasses")
        return Loaded(f"torch {torch.__version__}", (*ran.outputs, *extra_outputs), ran.seconds)

    def run(self, arrays: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Ran | Failed:
        """Run the model that is held, on ``arrays`` by input name."""
        if self._model is None:
            raise ValueError("run before load")
        examples = self._example.tensors()
        tensors = [_tensor(arrays[f"input {k}"], like) for k, like in enumerate(examples)]
        example = self._example.filled(tensors)
        ran = self.run_module(self._model.module, example)
        if isinstance(ran, Failed) or not self._extra:
            return ran
        names = {name: self._model.origins.get(name, name) for name in self._extra}
        trace = record(self._model.module, example.args, example.kwargs, frozenset(names.values()))
        inner = {name: _array(trace.retained[origin]) for name, origin in names.items() if origin in trace.retained}
        found = {**ran.outputs, **inner}
        return Ran({name: found[name] for name in outputs or found}, ran.seconds)

    def run_module(self, module: nn.Module, example: Example) -> Ran | Failed:
        """Run ``module``; its tensors are numbered in the order in which its result holds them."""
        started = time.monotonic()
        own = example.filled([tensor.detach().clone() for tensor in example.tensors()])
        try:
            with torch.no_grad():
                result = module(*own.args, **own.kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a user's own code raises is an answer about these inputs
            return Failed("run", " ".join(str(error).split()) or type(error).__name__)
        tensors = list(_tensors(result))
        arrays = {f"output {k}": _array(tensor) for k, tensor in enumerate(tensors)}
        return Ran(arrays, time.monotonic() - started)


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    """The tensors in what a module returned, those in its dataclasses, too."""
    for leaf in tree_leaves(result):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            yield from _tensors([getattr(leaf, one.name) for one in fields(leaf)])


def _check(module: nn.Module) -> None:
    """Refuse modules that have no numbers, or whose operations cannot be seen."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise UsageError("bad-input", f"{name} is not initialised: run the module once first.")
        if tensor.is_meta:
            hint = "Load the weights first: module.to_empty(device='cpu'), then load_state_dict."
            raise UsageError("meta-tensors", f"{name} is on the meta device: it has a shape, but no numbers.", hint)
    for name, inner in module.named_modules():
        if isinstance(inner, torch.jit.ScriptModule):
            hint = "Fold the module that it was made from, then script or trace the result."
            raise UsageError("bad-input", f"{name or 'The module'} is compiled by torch.jit.", hint)
        if hasattr(inner, "_orig_mod"):
            hint = "Fold first, then call torch.compile on the result."
            raise UsageError("bad-input", f"{name or 'The module'} is compiled by torch.compile.", hint)


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(tensor.numpy())


def _tensor(array: Array, like: torch.Tensor) -> torch.Tensor:
    """``array`` as a tensor of the type, in the layout and on the device of ``like``."""
    plain = array.view(np.int16) if array.dtype == ml_dtypes.bfloat16 else array
    tensor = torch.from_numpy(np.array(plain))
    tensor = tensor.view(torch.bfloat16) if array.dtype == ml_dtypes.bfloat16 else tensor
    return torch.empty_like(like, requires_grad=False).copy_(tensor)
