"""The other ways that a run of a module may take, and what that means for the one that is folded.

Python takes another way where it looks at values, or at the size of the batch. Where it learns one of two answers, the
module is run once more with the other one, and once on another batch. Operations are matched between the two runs, call
by call. A value that exists in both may change only if the same operations read it in both; a stored tensor only if no
other operation reads it there.

Code may also look at the module of a norm, at its class or its attributes. The run on another batch is one without the
norms that might go, too: it must do the same.

Where Python learns more, its ways cannot be counted. Then nothing changes that the forwards around that place can see;
what happens within a module that gets tensors and nothing else stays the same, however often it is called.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from itertools import combinations, count, starmap
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from normfold.backends.torch.computed import baked, computed_weights
from normfold.backends.torch.copies import copied
from normfold.backends.torch.replacing import LINEAR, put
from normfold.backends.torch.tracer import (
    Call,
    Computed,
    EndlessError,
    Op,
    Place,
    Read,
    Trace,
    Value,
    Way,
    trace,
)
from normfold.backends.torch.tree import PLAIN
from normfold.errors import UsageError

MOST_PLACES: Final = 3
"""Places at which Python looks at values, for which every combination of answers is tried."""
ENDLESS: Final = 8
"""A run that takes so many times the operations, and as many thousands more, as the first one is given up."""
MOST_RUNS: Final = 32
"""Runs by which norms are found that the code around them looks at; those that are not told apart by then stay."""
LONGEST: Final = 1000
"""Items of a call, beyond those at its ends that are the same, that are matched."""


_DRAWN: ContextVar[tuple[Any, ...] | None] = ContextVar("_DRAWN", default=None)
"""The states of the random generators at the beginning of the run that others are compared with."""


def _generators() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - what modules draw from


def _rewind() -> None:
    """Let the next run draw what the first one drew: it would differ otherwise, and nothing else would be told."""
    state = _DRAWN.get()
    if state is not None:
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002 - likewise
        torch.set_rng_state(state[2])


def explore(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    """A run of ``module``, in which is noted where others of its runs part from it.

    Raises:
        UsageError: ``bad-input`` where the module does not run.
    """
    fresh, state = copied(module), _generators()
    base = trace(module, args, kwargs)
    token = _DRAWN.set(state)
    try:
        return _explored(base, fresh, args, kwargs)
    finally:
        _DRAWN.reset(token)


def _explored(base: Trace, fresh: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    base = replace(base, computed=computed_weights(base))
    paths = _Paths(base)
    unknown = [read for read in base.reads if not read.binary]
    binary = [read for read in base.reads if read.binary]
    if binary and not _take_all(paths, fresh, (args, kwargs), binary):
        unknown += binary
    _vary(paths, fresh, args, kwargs)
    return paths.settled(unknown)


def closed(run: Trace) -> Trace:
    """``run``, in which nothing changes that Python could use otherwise: none of its other ways is looked at."""
    return _Paths(run).settled(run.reads)


def _take_all(paths: _Paths, module: nn.Module, inputs: tuple[Any, Mapping[str, Any]], reads: Sequence[Read]) -> bool:
    """Take every way that the answers at ``reads`` lead to; whether they could be counted."""
    places = {read.place: read for read in reads}
    tried: set[frozenset[Place]] = {frozenset()}
    while True:
        if len(places) > MOST_PLACES:
            return False
        sets = (frozenset(some) for k in range(len(places)) for some in combinations(places, k + 1))
        todo = next((some for some in sets if some not in tried), None)
        if todo is None:
            return True
        tried.add(todo)
        limit = ENDLESS * (len(paths.base.ops) + 1000)
        run = _run(copied(module), *inputs, Way(todo, limit))
        if run is None:
            # It ends in an error, after the fold as before it.
            continue
        if isinstance(run, EndlessError) or any(not read.binary for read in run.reads):
            return False
        because = f"where {' and '.join(str(places[place]) for place in todo)} gives another answer"
        if paths.compare(run, because):
            paths.decide([read for read in reads if read.place in todo])
        places |= {read.place: read for read in run.reads if read.place not in places}


def _vary(paths: _Paths, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Run ``module`` on another batch and without what may go: once, and apart only where it takes another way then."""
    base = paths.base
    other = _other_batch(args, kwargs)
    # Without norms, values are others, and so are answers; with weights as they are computed, they are the same.
    going = _computing(base) | ({} if base.reads else _plain_norms(base))
    batch, sizes = ((args, kwargs), (1, 1)) if other is None else other
    if going and _same_without(base, module, batch, sizes, going):
        return
    run = None if other is None else _run(copied(module), *batch, Way())
    if isinstance(run, Trace):
        again = _run(copied(module), args, kwargs, Way())
        if isinstance(again, Trace) and _Match(base, again, (1, 1), frozenset()).parts:
            # It does not do the same twice, whatever the batch: that is for the proof to tell.
            return
        paths.compare(run, f"at a batch size of {sizes[1]}", sizes)
    for path in _looked_at(base, module, (args, kwargs), going):
        paths.looked_at |= _of_module(base, going[path])


def _computing(base: Trace) -> dict[str, Op]:
    """The first convolution of each module that may make way for one that stores the weight, by the module's path."""
    out: dict[str, Op] = {}
    for op, found in base.computed.items():
        if isinstance(found, Computed):
            out.setdefault(found.path, op)
    return out


def _of_module(base: Trace, op: Op) -> frozenset[Op]:
    """``op``, and where it is a convolution with a computed weight, those of its module's other calls."""
    return frozenset({op, *(other for other in base.computed if other.call.module is op.call.module)})


def _plain_norms(base: Trace) -> dict[str, Op]:
    """Norms by stored statistics, by the path of their module, which does nothing else and is called once."""
    calls = Counter(id(call.module) for call in base.calls)
    return {
        call.path: item
        for call in base.calls
        for item in call.items
        if type(call.module) in PLAIN and calls[id(call.module)] == 1 and len(call.items) == 1
        if isinstance(item, Op) and item.kind == "batch_norm" and call.path and "<" not in call.path
    }


def _same_without(
    base: Trace,
    module: nn.Module,
    inputs: tuple[tuple[Any, ...], Mapping[str, Any]],
    sizes: tuple[int, int],
    going: Mapping[str, Op],
) -> bool:
    """Whether ``module`` does the same without the modules of ``going``, and with biases where they would go."""
    bare = copied(module)
    stand_ins = {id(bare.get_submodule(path)): _stand_in(base, op) for path, op in going.items()}
    for path, inner in list(bare.named_modules(remove_duplicate=False)):
        if id(inner) in stand_ins:
            put(bare, path, stand_ins[id(inner)])
    norms = frozenset(op for op in going.values() if op not in base.computed)
    for op in norms:
        _give_bias(bare, op.arguments["input"].op)
    run = _run(bare, *inputs, Way())
    stored = frozenset[Op]().union(*(_of_module(base, op) for op in going.values() if op not in norms))
    return isinstance(run, Trace) and not _Match(base, run, sizes, norms, stored).parts


def _stand_in(base: Trace, op: Op) -> nn.Module:
    found = base.computed.get(op)
    return baked(op, found, bias=True) if isinstance(found, Computed) else _StandIn()


def _give_bias(module: nn.Module, op: Op | None) -> None:
    """Let the module of ``op`` in ``module`` have a bias of zeros, if it is a linear one without a bias."""
    if op is None or type(op.call.module) not in LINEAR or op.arguments.get("bias", op) is not None:
        return
    weight: Value = op.arguments["weight"]
    if weight.names and weight.tensor is not None:
        holder = module.get_submodule(weight.names[0].rpartition(".")[0])
        channels = op.outputs[0].shape[-1 if op.kind == "linear" else 1 - weight.tensor.ndim]
        if getattr(holder, "bias", holder) is None:
            bias = nn.Parameter(weight.tensor.new_zeros(channels), requires_grad=False)
            holder.register_parameter("bias", bias)


class _StandIn(nn.Identity):
    """What stands where a norm was; what it returns is not what it was given, so that the two are told apart."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - a norm may be called by keyword
        """A copy of ``input``."""
        return input.clone()


def _looked_at(
    base: Trace, module: nn.Module, inputs: tuple[tuple[Any, ...], Mapping[str, Any]], going: Mapping[str, Op]
) -> list[str]:
    """The paths of those modules of ``going`` at which the code around them looks, found by halves."""
    out: list[str] = []
    todo = [list(going)] if going else []
    for runs in count():
        if not todo:
            break
        some = todo.pop()
        if _same_without(base, module, inputs, (1, 1), {path: going[path] for path in some}):
            continue
        if len(some) == 1 or runs >= MOST_RUNS:
            out += some
        else:
            todo += [some[: len(some) // 2], some[len(some) // 2 :]]
    return out


def _run(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], way: Way) -> Trace | EndlessError | None:
    _rewind()
    try:
        return trace(module, args, kwargs, way=way)
    except EndlessError as endless:
        return endless
    except UsageError:
        return None


def _other_batch(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[tuple[Any, ...], Mapping[str, Any]], tuple[int, int]] | None:
    """The first sample of a batch, or a batch of one twice, and the two sizes; ``None`` where there is no batch."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors}
    if len(sizes) != 1 or not min(sizes):
        return None
    size = min(sizes)

    def resized(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf[:1] if size > 1 else torch.cat([leaf, leaf])

    return torch.utils._pytree.tree_map(resized, (args, dict(kwargs))), (size, 1 if size > 1 else 2)  # noqa: SLF001


@dataclass
class _Paths:
    """What is known of the ways that runs of one module take besides ``base``."""

    base: Trace
    elsewhere: dict[Value, list[Op]] = field(default_factory=dict)
    fixed: dict[Op, str] = field(default_factory=dict)
    looked_at: set[Op] = field(default_factory=set)

    def settled(self, unknown: Sequence[Read]) -> Trace:
        """The first run with all that is noted; ``unknown`` are reads after which it may take any way."""
        for read in unknown:
            for value in _visible(read):
                value.parted = value.parted or f"may be used otherwise, since {read} hands values to Python"
        self.decide(unknown)
        return replace(self.base, elsewhere=self.elsewhere, fixed=self.fixed, looked_at=frozenset(self.looked_at))

    def decide(self, reads: Sequence[Read]) -> None:
        """Note the operations that the values come from on which the way depends."""
        seen: set[Op] = set()
        for read in reads:
            todo = list(read.values)
            while todo:
                op = todo.pop().op
                if op is not None and op not in seen:
                    seen.add(op)
                    because = f"makes what decides which way the module takes: {read}"
                    self.fixed.setdefault(op, because)
                    todo += op.inputs

    def compare(self, other: Trace, because: str, sizes: tuple[int, int] = (1, 1)) -> bool:
        """Note where ``other`` parts from the first run, whose batch sizes are ``sizes``; whether it does."""
        match = _Match(self.base, other, sizes)
        for value in match.parted:
            value.parted = value.parted or f"is used otherwise {because}"
        for value, readers in match.elsewhere.items():
            self.elsewhere.setdefault(value, []).extend(readers)
        for op in match.changed:
            self.fixed.setdefault(op, f"does something else {because}")
        return match.parts


class _Match:
    """Which operations and values of two runs are the same, and where the runs part.

    ``parted`` are values of the first run that the other one reads otherwise, ``elsewhere`` its stored tensors that
    others of the other one's operations read, and ``changed`` operations that do something else there. In the other run
    copies stand in for the operations that are ``gone``, and the weights of those that are ``baked`` are stored.
    """

    def __init__(
        self,
        base: Trace,
        other: Trace,
        sizes: tuple[int, int],
        gone: frozenset[Op] = frozenset(),
        baked: frozenset[Op] = frozenset(),
    ) -> None:
        self.base = base
        self.gone = gone
        self.baked = baked
        self.sizes = sizes
        self.values: dict[Value, Value] = {}
        self.parted: set[Value] = set()
        self.elsewhere: dict[Value, list[Op]] = {}
        self.changed: list[Op] = []
        mates = dict(_aligned(other.root, base.root, gone))
        for op in other.ops:
            mate = mates.get(op)
            if mate is None:
                self._read(op, op.inputs)
            else:
                self._join(op, mate)
        there = set(self.values.values())
        known = {*mates.values(), *(step for op in baked for step in _inside(base, op))}
        lonely = [op for op in base.ops if op not in known]
        self.parted |= {value for op in lonely for value in op.inputs if value in there and not value.names}
        outputs = (self.values[value] for value in self.values if value.kept is not None)
        self.parted |= {value for value in outputs if value.kept is None and not value.names}
        self.parts = bool(self.parted or self.changed or lonely or len(mates) < len(other.ops))

    def _read(self, op: Op, values: Iterable[Value]) -> None:
        """Note that ``op`` reads ``values`` of the other run, which its mate does not, if it has one."""
        for value in values:
            mine = self._mine(value)
            if mine is not None and mine.names:
                self.elsewhere.setdefault(mine, []).append(op)
            elif mine is not None:
                self.parted.add(mine)

    def _join(self, op: Op, mate: Op) -> None:
        """Note what ``op`` makes as what ``mate`` makes, and what it reads and does instead."""
        here, there = (tree_leaves(dict(one.arguments)) for one in (op, mate))
        if mate in self.gone:
            here, there = [op.arguments.get("self")], [mate.arguments["input"]]
        elif mate in self.baked:
            found = self.base.computed[mate]
            kept = isinstance(found, Computed) and found.plain is None
            here, there = [op.arguments["input"]], [mate.arguments["input"] if kept else mate.call.arguments[0]]
        differing = [pair for pair in zip(here, there, strict=False) if not self._alike(*pair)]
        ranks = ([len(value.shape) for value in outputs] for outputs in (op.outputs, mate.outputs))
        if len(here) == len(there) and next(ranks) == next(ranks) and all(starmap(_is_data, differing)):
            self._read(op, (value for value, _ in differing if value is not None))
            self.parted |= {value for _, value in differing if value is not None}
        else:
            self._read(op, op.inputs)
            self.changed.append(mate)
            self.parted |= {value for value in (*mate.inputs, *mate.outputs) if not value.names}
        self.values |= dict(zip(op.outputs, mate.outputs, strict=False))

    def _mine(self, value: Value) -> Value | None:
        """The value of the first run that is ``value`` of the other."""
        if value.names:
            return self.base.stored.get(value.names[0])
        return self.values.get(value)

    def _alike(self, here: Any, there: Any) -> bool:
        if isinstance(here, Value) and isinstance(there, Value):
            return self._one(here, there)
        if isinstance(here, int) and isinstance(there, int):
            mine, other = self.sizes
            return here == there or here * mine == there * other
        if there is None and self.gone and isinstance(here, Value) and here.names:
            return here.names[0] not in self.base.stored
        # As text, a float that is not a number is the same as another. Handles of PyTorch's own say nothing.
        return type(here) is type(there) and (isinstance(here, torch.ScriptObject) or repr(here) == repr(there))

    def _one(self, here: Value, there: Value) -> bool:
        if here.names or here.op is not None:
            return self._mine(here) is there
        if there.names or there.op is not None or here.name != there.name:
            return False
        # An input of the module, or a tensor that is neither stored nor made by an operation.
        if here.tensor is not None and there.tensor is not None:
            return torch.equal(here.tensor, there.tensor)
        self.values[here] = there
        return here.tensor is there.tensor


def _inside(base: Trace, op: Op) -> Iterator[Op | Call]:
    """What goes with the module of ``op`` where one takes its place that stores the weight."""
    found = base.computed[op]
    kept = isinstance(found, Computed) and found.plain is None
    yield from found.made if isinstance(found, Computed) else ()
    yield from () if kept else op.call.items


def _is_data(here: Any, there: Any) -> bool:
    """Whether both are values that depend on the inputs, or one is and the other is missing."""
    given = [one for one in (here, there) if one is not None]
    return all(isinstance(one, Value) and one.tensor is None for one in given)


def _aligned(there: Call, here: Call, gone: frozenset[Op]) -> Iterator[tuple[Op, Op]]:
    """Pairs of operations of two calls, and of the calls within them, that are done in the same order."""
    alone = (there.items[0], here.items[0]) if len(there.items) == len(here.items) == 1 else None
    if alone is not None and alone[1] in gone and isinstance(alone[0], Op) and isinstance(alone[1], Op):
        yield alone[0], alone[1]
    for first, second in _in_order(there.items, here.items):
        if isinstance(first, Op) and isinstance(second, Op):
            yield first, second
        elif isinstance(first, Call) and isinstance(second, Call):
            yield from _aligned(first, second, gone)


def _in_order(there: Sequence[Op | Call], here: Sequence[Op | Call]) -> Iterator[tuple[Op | Call, Op | Call]]:
    first, second = ([_key(item) for item in items] for items in (there, here))
    shorter = min(len(first), len(second))
    start = next((k for k in range(shorter) if first[k] != second[k]), shorter)
    end = next((k for k in range(shorter - start) if first[-1 - k] != second[-1 - k]), shorter - start)
    yield from zip(there[:start], here[:start], strict=True)
    middle = (slice(start, len(first) - end), slice(start, len(second) - end))
    if max(len(first), len(second)) - start - end <= LONGEST:
        matcher = SequenceMatcher(None, first[middle[0]], second[middle[1]], autojunk=False)
        for i, j, count in matcher.get_matching_blocks():
            yield from ((there[start + i + k], here[start + j + k]) for k in range(count))
    yield from ((there[-1 - k], here[-1 - k]) for k in reversed(range(end)))


def _key(item: Op | Call) -> str:
    return item.kind if isinstance(item, Op) else f"{item.path.partition('@')[0]}()"


def _visible(read: Read) -> Iterator[Value]:
    """Values that the forwards have in sight in which Python may take any way after ``read``."""
    around: Call | None = read.call
    opened: list[Call] = []
    while around is not None:
        opened.append(around)
        around = around.parent
    done: set[int] = set()
    while opened:
        call = opened.pop()
        if id(call) in done:
            continue
        done.add(id(call))
        for item in call.items:
            seen = (item.arguments, item.named, item.result) if isinstance(item, Call) else (item.inputs, item.outputs)
            yield from (leaf for leaf in tree_leaves(seen) if isinstance(leaf, Value) and not leaf.names)
            if isinstance(item, Call) and not _gets_tensors_only(item):
                opened.append(item)


def _gets_tensors_only(call: Call) -> bool:
    leaves = tree_leaves((call.arguments, dict(call.named)))
    return bool(leaves) and all(isinstance(leaf, Value) for leaf in leaves)
