"""Runs modules in this process: the `Runner` for modules in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from normfold import limits
from normfold.backends.torch import copied, trace
from normfold.models.data import UserInputs
from normfold.models.module.behaviour import seed_generators
from normfold.models.module.duplicate import replica
from normfold.models.module.example import Example, call, tensor_like, tensors_in, to_array
from normfold.proof.comparison import Setup
from normfold.proof.probes import Array, InputSpec
from normfold.runtime import Failed, Loaded, Ran

T = TypeVar("T")

COARSE: Final = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}
"""Types whose rounding decides how close two modules can be, coarsest first."""
HALVES: Final = frozenset({torch.bfloat16, torch.float16})


@dataclass(frozen=True, slots=True)
class RunnableModule:
    """A module to run, and the names that its inner values had before folding renamed them."""

    module: nn.Module
    origins: Mapping[str, str] = field(default_factory=dict)


class InProcess:
    """Runs tasks at once, in this process."""

    def __init__(self, runner: ModuleRunner) -> None:
        self._runner = runner

    def submit(self, task: Callable[[ModuleRunner], T]) -> Future[T]:
        """The answer to ``task``, which is there already."""
        future: Future[T] = Future()
        future.set_result(task(self._runner))
        return future


class ModuleRunner:
    """Holds one module at a time; its inputs and outputs are numbered unless they are named."""

    def __init__(
        self,
        example: Example,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> None:
        """``seed`` is what the generators that modules draw from start at, in each run; None: they go on."""
        self._example, self._seed = example, seed
        self._inputs = inputs or [f"input {k}" for k in range(len(example.tensors()))]
        self._outputs = outputs
        self._model: RunnableModule | None = None
        self._exactly = False
        self._types: tuple[torch.dtype, ...] = ()
        self._extra: Collection[str] = ()

    def load(
        self,
        model: RunnableModule,
        *,
        extra_outputs: Sequence[str] = (),
        custom_ops: Sequence[str] = (),  # noqa: ARG002 - libraries are for files
        evaluator: str = "",  # noqa: ARG002 - there is one only
        optimised: bool = False,
        precise: bool = False,
    ) -> Loaded | Failed:
        """Hold ``model``; its outputs are known once it has run.

        ``optimised`` asks for the same in another order of computation. Here that is float64, rounded at the end: the
        difference is the rounding error that the module itself accumulates. ``precise`` is the same.
        """
        self._exactly, self._extra = optimised or precise, extra_outputs
        # Each starts from the state that it came in, and is left in it.
        own = copied(model.module).double() if self._exactly else replica(model.module)
        self._model = replace(model, module=own)
        ran = self._ran(self._example)
        if isinstance(ran, Failed):
            return ran
        if not ran.outputs:
            return Failed("unsupported", "the module returns no tensors in tuples, lists, dicts or dataclasses")
        return Loaded(f"torch {torch.__version__}", (*ran.outputs, *extra_outputs), ran.seconds)

    def run(self, arrays: Mapping[str, Array], outputs: Sequence[str] = ()) -> Ran | Failed:
        """Run the model that is held, on ``arrays`` by input name."""
        named = zip(self._inputs, self._example.tensors(), strict=True)
        example = self._example.filled([tensor_like(arrays[name], like) for name, like in named])
        ran = self._ran(example)
        if isinstance(ran, Failed) or not self._extra or self._model is None:
            return ran
        names = {name: self._model.origins.get(name, name) for name in self._extra}
        run = trace(self._model.module, example.args, example.kwargs, frozenset(names.values()))
        inner = {name: to_array(run.retained[origin]) for name, origin in names.items() if origin in run.retained}
        found = {**ran.outputs, **inner}
        # On other inputs a module may take a way on which a value is never made.
        return Ran({name: found[name] for name in outputs or found if name in found}, ran.seconds)

    def _ran(self, example: Example) -> Ran | Failed:
        """Run the module; its tensors are numbered in the order in which its result holds them."""
        if self._model is None:
            raise ValueError("run before load")
        limits.check()
        if self._seed is not None:
            seed_generators(self._seed)
        started = time.monotonic()
        result = call(self._model.module, _doubled(example) if self._exactly else example)
        if isinstance(result, Failed):
            return result
        tensors = list(tensors_in(result))
        if self._exactly:
            tensors = [tensor.to(dtype) for tensor, dtype in zip(tensors, self._types, strict=False)]
        self._types = tuple(tensor.dtype for tensor in tensors)
        names = self._outputs or [f"output {k}" for k in range(len(tensors))]
        if len(names) != len(tensors):
            return Failed("run", f"the module returns {len(tensors)} tensors on these inputs, {len(names)} on others")
        return Ran(dict(zip(names, map(to_array, tensors), strict=True)), time.monotonic() - started)


def setup_of(example: Example, module: nn.Module, seed: int, types: Collection[torch.dtype] = ()) -> Setup:
    """What results are compared with ``module`` on: inputs like ``example``, which number theirs.

    ``types`` are those that whatever differs in a result is computed in.
    """
    arrays = {f"input {k}": to_array(tensor) for k, tensor in enumerate(example.tensors())}
    specs = [InputSpec(name, array.dtype, array.shape) for name, array in arrays.items()]
    return Setup(specs, UserInputs(arrays=arrays), seed=seed, precision=precision(module, types))


def _doubled(example: Example) -> Example:
    """The same in float64."""
    return example.filled([one.double() if one.is_floating_point() else one for one in example.tensors()])


def precision(module: nn.Module, types: Collection[torch.dtype] = ()) -> str | None:
    """The coarsest of ``types`` and of the halves that ``module`` holds; None for no type coarser than float64."""
    held = {tensor.dtype for tensor in (*module.parameters(), *module.buffers())} & HALVES
    return next((name for dtype, name in COARSE.items() if dtype in held or dtype in types), None)


class Widened(TorchDispatchMode):
    """While this is entered, whatever a module makes of ``data`` is as ``wide`` as what it stores: no cast rounds.

    Constants that it computes from its weights alone are as it computes them: a fold takes them over as they are.
    """

    def __init__(self, wide: torch.dtype, data: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wide = wide
        self._data: Any = WeakTensorKeyDictionary()
        self._data.update(dict.fromkeys(data, True))

    @staticmethod
    def of(module: nn.Module, types: Collection[torch.dtype], data: Iterable[torch.Tensor]) -> Widened | None:
        """For a ``module`` that stores one type and computes in narrower ones, which are among ``types``, too."""
        held = {one.dtype for one in module.parameters() if one.is_floating_point()}
        wide = next(iter(held)) if len(held) == 1 else None
        return Widened(wide, data) if wide is not None and any(one.itemsize < wide.itemsize for one in types) else None

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, with ``wide`` in the place of every narrower type where it reads what is made of data."""
        given = (tuple(args), dict(kwargs or {}))
        if not any(isinstance(leaf, torch.Tensor) and leaf in self._data for leaf in tree_leaves(given)):
            return func(*given[0], **given[1])
        if not func._schema.is_mutable:  # noqa: SLF001 - the only description of an operation's arguments
            given = tree_map(self._widened, given)
        result = func(*given[0], **given[1])
        self._data.update({leaf: True for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)})
        return result

    def _widened(self, leaf: Any) -> Any:
        kind = leaf.dtype if isinstance(leaf, torch.Tensor) else leaf
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point or kind.itemsize >= self._wide.itemsize:
            return leaf
        return leaf.to(self._wide) if isinstance(leaf, torch.Tensor) else self._wide
