"""Runs a module once and writes down what it did: every operation, its values, and the module call it stood in.

The operations are those that PyTorch's dispatcher sees below autograd (``conv2d``, ``batch_norm``, ``linear``), so that
any Python may stand around them. What Python did with a value besides is found out, too: a value read out of a tensor,
a tensor changed in place, one kept after the call.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from normfold.backends.torch.schemas import ROLES, SHAPES, SIZES, TENSORS, bound, flat, sized_by_values
from normfold.backends.torch.stored import storage
from normfold.errors import UsageError
from normfold.records import Refusal

READERS: Final = frozenset({"numpy", "tolist", "__array__", "__dlpack__", "data_ptr"})
"""Methods of a tensor that hand its elements to Python without an operation."""

LIBRARY: Final = (str(Path(torch.__file__).parent), __file__)
"""Where code is that is not the module's own."""


@dataclass(eq=False, slots=True, repr=False)
class Memory:
    """What several values may share, and the index of the last operation that changed it in place."""

    written: int = -1
    holders: list[TensorWeakRef] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def tensors(self) -> list[torch.Tensor]:
        """The tensors that still live and share it."""
        return [tensor for holder in self.holders if (tensor := holder()) is not None]


@dataclass(eq=False, slots=True, repr=False)
class Value:
    """A tensor at one moment of the run.

    ``tensor`` is held where the value does not depend on the inputs: a stored one, whose ``names`` are those in the
    module's state, or one computed from such. ``steady`` says that it is made of such, and of sizes, alone: inputs of
    other elements make the same. ``kept`` says why the value is seen from outside, if it is; ``parted`` why it may be
    used in another way than in this run.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    memory: Memory
    op: Op | None = None
    tensor: torch.Tensor | None = None
    names: tuple[str, ...] = ()
    steady: bool = False
    kept: str | None = None
    parted: str | None = None


@dataclass(eq=False, slots=True, repr=False)
class Call:
    """One call of a module: what went in, by position and by name, what came out, and what was done on the way.

    ``made_of`` names the class that the module had when it was exported: a program has forgotten it.
    """

    module: nn.Module
    path: str
    parent: Call | None
    arguments: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None
    items: list[Op | Call] = field(default_factory=list)
    made_of: str = ""

    @property
    def kind(self) -> str:
        """The name of the module's class."""
        return self.made_of or type(self.module).__name__


@dataclass(eq=False, slots=True, repr=False)
class Op:
    """One operation. ``arguments`` holds every argument by name, with values in the place of tensors.

    One that is ``idle`` handed on the very tensor that it was given.
    """

    kind: str
    name: str
    index: int
    call: Call
    arguments: Mapping[str, Any]
    outputs: tuple[Value, ...] = ()
    idle: bool = False
    inputs: tuple[Value, ...] = field(init=False)
    """The values among the arguments."""

    def __post_init__(self) -> None:
        self.inputs = tuple(leaf for leaf in tree_leaves(dict(self.arguments)) if isinstance(leaf, Value))


Place = tuple[str, int, int]
"""A file, a line of it, and the instruction there."""


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Read:
    """Python looked at ``values`` that depend on the inputs, at ``place``, by ``how``, within ``call``.

    ``binary`` says that it learnt one of two answers: it may take two ways from there.
    """

    how: str
    values: tuple[Value, ...]
    place: Place
    call: Call
    binary: bool

    def __str__(self) -> str:
        return f"{self.how} in {self.call.path or 'the module'!r}"


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Computed:
    """An operation whose module, at ``path``, computes the weight anew at each call, by ``made``, from what it stores.

    A module of the class ``plain`` that is made with ``settings`` does the same with the weight as it is; where no
    class is given, its own one does, without PyTorch's norm of its weight.
    """

    path: str
    made: tuple[Op, ...]
    plain: type[nn.Conv1d | nn.Conv2d | nn.Conv3d] | None
    settings: Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Trace:
    """A run of ``module``: its operations, its calls, and the values of the tensors in its state, by name.

    ``root`` is where the outermost call was made, ``reads`` are where Python looked at values that depend on the
    inputs, ``result`` is what the module returned, and ``idle`` are the operations that are not among ``ops`` since
    they did nothing. Where a run may take other ways, ``elsewhere`` holds the operations there that read a stored
    tensor, and ``fixed`` those that must stay as they are, each with why.
    ``looked_at`` are norms, and convolutions with a computed weight, at whose modules the code around them looks.
    ``computed`` holds those convolutions, each with how another module does the same, or why none can.
    """

    module: nn.Module
    root: Call
    ops: tuple[Op, ...]
    calls: tuple[Call, ...]
    stored: Mapping[str, Value]
    reads: tuple[Read, ...]
    retained: Mapping[str, torch.Tensor]
    result: Any
    idle: tuple[Op, ...] = ()
    elsewhere: Mapping[Value, Sequence[Op]] = field(default_factory=dict)
    fixed: Mapping[Op, str] = field(default_factory=dict)
    looked_at: frozenset[Op] = frozenset()
    computed: Mapping[Op, Computed | Refusal] = field(default_factory=dict)

    @property
    def stateful(self) -> bool:
        """Whether the run has changed what the module stores."""
        return any(value.memory.written >= 0 for value in self.stored.values())


@dataclass(frozen=True, slots=True)
class Way:
    """Another way than the run would take by itself.

    Where Python gets one of two answers at one of ``places``, it gets the other one. The run ends with an error after
    ``limit`` operations.
    """

    places: frozenset[Place] = frozenset()
    limit: float = float("inf")


class EndlessError(Exception):
    """The run takes more operations than it may."""


def trace(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    retain: Collection[str] = (),
    way: Way | None = None,
) -> Trace:
    """Run ``module`` on copies of ``args`` and ``kwargs``. What the run changes in the module stays changed.

    Values whose names are in ``retain`` are copied, for the caller to look at.

    Raises:
        UsageError: ``bad-input`` where the module does not run on them.
        EndlessError: it takes more operations than ``way`` allows.
    """
    tracer = _Tracer(module, retain, way or Way())
    arguments, named = tracer.enter((args, dict(kwargs)))
    try:
        with tracer.watching():
            result = module(*arguments, **named)
    except EndlessError:
        raise
    except Exception as error:
        # Whatever a user's own code raises is an answer about these inputs.
        because = " ".join(str(error).split()) or type(error).__name__
        raise UsageError("bad-input", f"The module does not run on the example inputs: {because}") from error
    del arguments, named
    tracer.keep(result, search=way is None)
    root, reads = tracer.stack[0], tuple(tracer.reads)
    ops, idle = (tuple(op for op in tracer.ops if op.idle is kind) for kind in (False, True))
    return Trace(module, root, ops, tuple(tracer.calls), tracer.stored, reads, tracer.retained, result, idle)


class _Tracer:
    """What is known while the module runs. Tensors that depend on the inputs are not kept alive."""

    def __init__(self, module: nn.Module, retain: Collection[str], way: Way) -> None:
        self.retain = retain
        self.way = way
        self.retained: dict[str, torch.Tensor] = {}
        self.values: Any = WeakTensorKeyDictionary()
        self.memories: dict[int, Memory] = {}
        self.ops: list[Op] = []
        self.calls: list[Call] = []
        self.reads: list[Read] = []
        self.paths: dict[nn.Module, str] = {}
        for path, found in module.named_modules(remove_duplicate=False):
            self.paths.setdefault(found, path)
        self.counts: Counter[str] = Counter()
        self.stack = [Call(module, "", None)]
        self.stored = self._store(module)

    def _store(self, module: nn.Module) -> dict[str, Value]:
        parameters = module.named_parameters(remove_duplicate=False)
        out: dict[str, Value] = {}
        for name, tensor in chain(parameters, module.named_buffers(remove_duplicate=False)):
            value = self.values.get(tensor) or self._register(tensor, name, constant=True)
            value.names = (*value.names, name)
            out[name] = value
        return out

    def enter(self, inputs: Any) -> Any:
        """Copies of the tensors in ``inputs``, known as the module's inputs."""
        copies = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf, inputs)
        for k, leaf in enumerate(leaf for leaf in tree_leaves(copies) if isinstance(leaf, torch.Tensor)):
            self._register(leaf, f"input {k}")
        return copies

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Everything that happens inside is written down."""
        with ExitStack() as stack:
            # The fused transformer layer reads the weights of many modules in one operation.
            stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
            stack.enter_context(_below_autograd())
            hooks = nn.modules.module
            stack.callback(hooks.register_module_forward_pre_hook(self._before).remove)
            after = hooks.register_module_forward_hook(self._after, with_kwargs=True, always_call=True)
            stack.callback(after.remove)
            # Its handle does not remove this.
            stack.callback(hooks._global_forward_hooks_with_kwargs.pop, after.id, None)  # noqa: SLF001
            stack.enter_context(_Reads(self))
            stack.enter_context(_Operations(self))
            yield

    def keep(self, result: Any, *, search: bool) -> None:
        """Note which values are seen from outside: the outputs, and whatever still lives now that the run is over."""
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf in self.values:
                self.values[leaf].kept = "is an output of the module"
        if search and any(value.tensor is None and value.kept is None for value in self.values.values()):
            # Cycles that nobody holds may still hold tensors. To look for them takes as long as the rest of the run.
            gc.collect()
        for value in self.values.values():
            # What is stored, or computed from that alone, lives as long as the trace itself.
            value.kept = value.kept or ("is kept by somebody after the call" if value.tensor is None else None)

    def _before(self, module: nn.Module, arguments: Any) -> None:
        own = self.paths.get(module, f"<{type(module).__name__}>")
        self.counts[own] += 1
        path = own if self.counts[own] == 1 else f"{own}@{self.counts[own]}"
        call = Call(module, path, self.stack[-1], self._as_values(arguments))
        self.stack[-1].items.append(call)
        self.calls.append(call)
        self.stack.append(call)

    def _after(self, _module: nn.Module, _arguments: Any, *rest: Any) -> None:
        """``rest`` is the result, after the named arguments; where the call raised, PyTorch leaves those out."""
        *named, result = rest
        call = self.stack.pop()
        call.named, call.result = self._as_values(dict(*named)), self._as_values(result)

    def _as_values(self, tree: Any) -> Any:
        """``tree`` with values for tensors and plain tuples for named ones, which may take tensors only."""

        def replaced(leaf: Any) -> Any:
            if _is_named(leaf):
                return tuple(self._as_values(part) for part in leaf)
            return self.value(leaf) if isinstance(leaf, torch.Tensor) else leaf

        return tree_map(replaced, tree, is_leaf=_is_named)

    def value(self, tensor: torch.Tensor) -> Value:
        """What ``tensor`` holds now; one that nobody made during the run was there before, and is constant.

        Once Python has looked at values, it may also have made one of them. A class of tensors that computes by itself
        may have made one at any time, of anything.
        """
        found: Value | None = self.values.get(tensor)
        if found is None and type(tensor) not in TENSORS:
            op = self._open(type(tensor).__name__, {}, inplace=False)
            found = self._register(tensor, op.name, op)
            op.outputs = (found,)
        return found or self._register(tensor, "a tensor that is not in the module's state", constant=not self.reads)

    def _register(self, tensor: torch.Tensor, name: str, op: Op | None = None, *, constant: bool = False) -> Value:
        key = storage(tensor)
        memory = self.memories.get(key)
        if memory is None or not memory.tensors():
            # The address of one that nobody holds any more may have been given out again.
            memory = self.memories[key] = Memory()
        value = Value(
            name, tuple(tensor.shape), tensor.dtype, memory, op, tensor if constant else None, steady=constant
        )
        if tensor not in self.values:
            memory.holders.append(TensorWeakRef(tensor))
        memory.values.append(value)
        self.values[tensor] = value
        return value

    def run(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one operation and write it down."""
        schema = function._schema  # noqa: SLF001 - the only description of an operation's arguments
        given = flat(bound(schema, args, kwargs))
        kind = schema.name.removeprefix("aten::")
        if kind in SIZES:
            return function(*args, **kwargs)
        looks, roles = SHAPES.get(kind), ROLES.get(kind, {})
        arguments = {roles.get(name, name): self._as_values(value) for name, value in given.items() if name != looks}
        changed = [given[a.name] for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        result = function(*args, **kwargs)
        idle = not changed and any(result is leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor))
        op = self._open(schema.name, arguments, inplace=bool(changed), idle=idle)
        if idle:
            return result
        inputs = op.inputs
        drawn = torch.Tag.nondeterministic_seeded in function.tags
        steady = not (changed or drawn or self.reads) and all(value.steady for value in inputs)
        fixed = not (changed or drawn) and bool(inputs) and all(value.tensor is not None for value in inputs)
        if not fixed and inputs:
            result = self._looked_at(op, result, sized=sized_by_values(function, given))
        written = [leaf for leaf in tree_leaves(changed) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        known = {id(tensor) for tensor in made}
        made += [tensor for tensor in written if id(tensor) not in known]
        op.outputs = tuple(
            self._register(tensor, op.name if not k else f"{op.name}.{k}", op, constant=fixed)
            for k, tensor in enumerate(made)
        )
        for value in op.outputs:
            value.steady = value.steady or steady
        for tensor in written:
            self._spread(op, tensor)
        for tensor, value in zip(made, op.outputs, strict=True):
            if value.name in self.retain:
                self.retained[value.name] = tensor.clone()
        return result

    def _open(self, kind: str, arguments: Mapping[str, Any], *, inplace: bool, idle: bool = False) -> Op:
        if len(self.ops) >= self.way.limit:
            raise EndlessError
        kind = kind.removeprefix("aten::")
        kind = kind.removesuffix("_") if inplace and not kind.endswith("__") else kind
        call = self.stack[-1]
        name = f"{call.path}:{kind}" if call.path else kind
        self.counts[name] += 1
        name = name if self.counts[name] == 1 else f"{name}@{self.counts[name]}"
        op = Op(kind, name, len(self.ops), call, arguments, idle=idle)
        self.ops.append(op)
        call.items += () if idle else (op,)
        return op

    def _looked_at(self, op: Op, result: Any, *, sized: bool) -> Any:
        """``result`` of ``op``, from which Python learns about values if it is no tensor, or one of unknown size."""
        plain = any(not isinstance(leaf, torch.Tensor | None) for leaf in tree_leaves(result))
        if not plain and not sized:
            return result
        read = Read(op.kind, op.inputs, _place(), op.call, isinstance(result, bool))
        self.reads.append(read)
        return not result if read.binary and read.place in self.way.places else result

    def _spread(self, op: Op, tensor: torch.Tensor) -> None:
        """After ``op`` changed ``tensor`` in place: whatever shares its memory has changed, too."""
        value = self.values[tensor]
        value.memory.written = op.index
        for other in value.memory.tensors():
            if other is not tensor:
                alias = self._open("alias", {"before": self.values[other], "written": value}, inplace=False)
                alias.outputs = (self._register(other, alias.name, alias),)

    def handed_over(self, method: str, tensor: torch.Tensor) -> None:
        """Python looks at the elements of ``tensor``."""
        value = self.value(tensor)
        if value.tensor is None:
            self.reads.append(Read(method, (value,), _place(), self.stack[-1], binary=False))


@contextmanager
def _below_autograd() -> Iterator[None]:
    """As in inference mode, but with ordinary tensors: one that a module caches can be trained with later.

    Views do not know their base, which they would keep alive.
    """
    views = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)  # noqa: SLF001 - there is no public way
    with torch.no_grad(), torch._C._AutoDispatchBelowAutograd(), torch._C._ExcludeDispatchKeyGuard(views):  # noqa: SLF001
        yield


class _Operations(TorchDispatchMode):
    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self._tracer.run(func, args, kwargs or {})


class _Reads(TorchFunctionMode):
    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in READERS and args and isinstance(args[0], torch.Tensor):
            self._tracer.handed_over(name, args[0])
        return func(*args, **(kwargs or {}))


def _place() -> Place:
    """Where the module's own code is at the moment."""
    frame = sys._getframe()  # noqa: SLF001 - what the standard library's warnings do as well
    while frame.f_back is not None and frame.f_code.co_filename.startswith(LIBRARY):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno, frame.f_lasti


def _is_named(tree: Any) -> bool:
    return isinstance(tree, tuple) and hasattr(tree, "_fields")
