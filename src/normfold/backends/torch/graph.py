"""A traced module behind the `Graph` protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from normfold.backends.torch.carried import carried
from normfold.backends.torch.chains import collapse
from normfold.backends.torch.lift import lift
from normfold.backends.torch.lift.linear import LIFTS as LINEAR
from normfold.backends.torch.lift.norms import NORMS
from normfold.backends.torch.making import Making
from normfold.backends.torch.replacing import NORMS as NORM_MODULES
from normfold.backends.torch.replacing import irreplaceable
from normfold.backends.torch.running import running_norm
from normfold.backends.torch.tracer import Computed, Op, Trace, Value
from normfold.backends.torch.tree import ModuleTree, Removal, has_hooks
from normfold.backends.torch.weight_norms import unnormalisable
from normfold.core.algebra import Affine
from normfold.core.graph import Site
from normfold.core.health import findings
from normfold.core.plan import Bypass, Edit, Insert, Move, Plan, Remove, Replace, Respell, SetConstant, SetView
from normfold.core.premises import CALLED_ONCE, FIXED_PATH, NEEDS_STRUCTURE, NOT_LOOKED_AT, NOT_OUTPUT, NOT_OVERWRITTEN
from normfold.core.views import AffineOp, Embedding, Linear, Node, Norm, NotLifted, Recurrent, Spelling, View
from normfold.core.views import Value as AnyValue
from normfold.records import Refusal, StatisticsRecord

ORDER: Final = (Insert, Move, Remove, SetConstant, SetView, Replace, Respell, Bypass)
"""In which edits are looked at for a reason to refuse: what no module tree can express comes first."""

ASKED: Final = {
    Insert: "a new operation would have to be put in",
    SetConstant: "a tensor that is no constant of an operation would have to be set",
    Move: "operations would have to be put in other places",
}
"""What an edit asks for that no module tree can express."""


class TorchGraph:
    """One run of a module, as rules and the engine see it.

    ``takes_out`` says whether operations can go that are no modules of their own.

    Plans change this graph only. What has come of them is then written into a module tree of the same make
    (`normfold.backends.torch.write`): ``changed`` holds the views with new constants, ``replaced`` the operations
    among them whose modules make way for others, ``spelled`` by which kind of norm those compute what they did,
    ``normalised`` the linear operations whose weights get a weight norm, ``followed`` the norms that are put behind
    operations, ``removals`` the norms that go.
    """

    takes_out = False
    tree_type = ModuleTree

    def __init__(self, trace: Trace, shared: Mapping[str, str] | None = None) -> None:
        """``shared`` names, for tensors of the module's state that are parts of another one's memory, that other."""
        self.trace = trace
        self.committed = False
        self.changed: dict[Op, View] = {}
        self.kept: tuple[StatisticsRecord, ...] | None = None
        self.removals: dict[Op, Removal] = {}
        self.replaced: set[Op] = set()
        self.spelled: dict[Op, Spelling | None] = {}
        self.normalised: set[Op] = set()
        self.followed: dict[Op, AffineOp] = {}
        self._ops = collapse(trace)
        self._tree = self.tree_type(trace, shared or {})
        self._views: dict[Op, View] = {}
        self._moved: dict[Value, Value] = {}
        self._names: dict[Value, str] = {}
        self._uses: dict[Value, list[tuple[Op, int]]] = {}
        for op in self._ops:
            for index, value in enumerate(value for value in op.inputs if value.tensor is None):
                self._uses.setdefault(value, []).append((op, index))
        found = (self.computed(op) for op in trace.computed)
        self._making = frozenset(step for one in found if one is not None for step in one.made)
        self._watch()

    def _watch(self) -> None:
        """Values that a hook sees count as seen from outside, but for those of a norm or linear operation itself."""
        for call in self.trace.calls:
            own = [item.kind in {*LINEAR, *NORMS} for item in call.items if isinstance(item, Op)]
            if has_hooks(call.module) and not (len(call.items) == 1 and own == [True]):
                for leaf in tree_leaves((call.arguments, call.result)):
                    if isinstance(leaf, Value):
                        leaf.kept = leaf.kept or f"is seen by a hook of {call.path or 'the module'!r}"

    def nodes(self) -> Sequence[Op]:
        """Every operation that is left."""
        return [op for op in self._ops if op not in self.removals]

    def sites(self) -> Sequence[Site]:
        """Every norm, in the order of the run."""
        found = [op for op in self.nodes() if op.kind in NORMS]
        paths = Counter(op.call.path for op in found)
        return [
            Site(
                name=op.call.path if op.call.path and paths[op.call.path] == 1 else op.name,
                norm=op.call.kind if paths[op.call.path] == 1 else op.kind,
                nodes=(op,),
                shape=op.outputs[0].shape,
                output=op.outputs[0].name,
                health=() if (stored := running_norm(op)) is None else findings(stored),
            )
            for op in found
        ]

    def view(self, node: Node) -> View:
        """``node`` as a view, with the constants that plans have given it."""
        op = _op(node)
        if op not in self._views:
            self._views[op] = lift(self._tree, op)
        view = self._views[op]
        inputs = tuple(self._now(_value(value)) for value in view.inputs)
        return view if inputs == view.inputs else replace(view, inputs=inputs)

    def _now(self, value: Value) -> Value:
        """What stands in the place of ``value`` since the norm that made it is gone."""
        while value in self._moved:
            value = self._moved[value]
        return value

    def computes_in(self) -> frozenset[torch.dtype]:
        """The floating-point types of what the changed operations make, and of all that is made of that."""
        touched = {step for op in (*self.changed, *self.removals) for step in (op, *op.arguments.get("steps", ()))}
        made: set[Value] = set()
        for op in self.trace.ops:
            if op in touched or not made.isdisjoint(op.inputs):
                made.update(op.outputs)
        return frozenset(value.dtype for value in made if value.dtype.is_floating_point)

    def producer(self, value: AnyValue) -> Op | None:
        """The operation that makes ``value``."""
        return _value(value).op

    def consumers(self, value: AnyValue) -> Sequence[tuple[Op, int]]:
        """The operations that read ``value``."""
        return self._uses.get(_value(value), [])

    def constant(self, _value: AnyValue) -> None:
        """None: what an operation reads as data is seen by views only."""

    def computed(self, op: Op) -> Computed | None:
        """How a module that stores the weight of ``op`` does the same, where its own one computes it at each call."""
        found = self.trace.computed.get(op)
        return found if isinstance(found, Computed) else None

    def normalised_by(self, node: Node) -> Sequence[Op]:
        """The operations by which the module of ``node`` computes its weight."""
        op = _op(node)
        found = self.computed(op)
        replaced = any(other.call.module is op.call.module for other in self.replaced)
        return () if found is None or replaced else found.made

    def escapes(self, value: AnyValue) -> Refusal | None:
        """Why ``value`` is seen from outside the run, or used otherwise in another one."""
        native = _value(value)
        if native.kept is not None:
            return Refusal(NOT_OUTPUT, f"{self.label(native)} {native.kept}")
        return None if native.parted is None else Refusal(FIXED_PATH, f"{self.label(native)} {native.parted}")

    def same_scope(self, _first: Node, _second: Node) -> bool:
        """A run has one scope."""
        return True

    def shape(self, value: AnyValue) -> tuple[int, ...]:
        """The dimensions of ``value`` in this run."""
        return _value(value).shape

    def label(self, thing: Node | AnyValue) -> str:
        """An operation's module and its path, a value's name."""
        if isinstance(thing, Op):
            return self._tree.label(thing)
        value = _value(thing)
        return repr(value.name) if value.op is None else f"the output of {self._tree.label(value.op)}"

    def name(self, node: Node) -> str:
        """The path of the module that ``node`` stands in, or the operation's own name where it has company."""
        op = _op(node)
        return op.call.path if op.call.path and self._tree.speaks_for_module(op) else op.name

    def value_name(self, value: AnyValue) -> str:
        """The name of ``value`` as it is now."""
        native = _value(value)
        return self._names.get(native, native.name)

    def values(self) -> frozenset[str]:
        """Names of all values that operations make."""
        return frozenset(self.value_name(output) for op in self.nodes() for output in op.outputs)

    def origins(self) -> dict[str, str]:
        """The name that each value had in the run, by its name now."""
        made = (output for op in self.nodes() for output in op.outputs)
        read = (value for value in self._uses if value.op is None)
        return {self.value_name(value): value.name for value in (*made, *read)}

    def records(self) -> Sequence[StatisticsRecord] | None:
        """Those that the module was given as an attribute."""
        return carried(self.trace.module)

    def keep(self, records: Sequence[StatisticsRecord]) -> None:
        """Note ``records`` for the module that the plans are written into."""
        self.kept = tuple(records)

    def unable(self, plan: Plan) -> Refusal | None:
        """What ``plan`` asks of the module tree that it cannot express."""
        edits = sorted(plan.edits, key=lambda edit: ORDER.index(type(edit)))
        refusals = (no for asked in (self._unable, self._fixed) for edit in edits if (no := asked(edit)) is not None)
        return next(refusals, None)

    def copied(self, _plan: Plan) -> int:
        """None: a parameter that others read is never changed."""
        return 0

    def _fixed(self, edit: Edit) -> Refusal | None:
        """Why ``edit`` might be wrong, or lead there, in a run that takes another way."""
        op = _touched(edit)
        steps = () if op is None else (op, *op.arguments.get("steps", ()))
        because = next((self.trace.fixed[step] for step in steps if step in self.trace.fixed), None)
        if because is not None and op is not None:
            return Refusal(FIXED_PATH, f"{self.label(op)} {because}")
        if op in self.trace.looked_at:
            because = "is looked at: without its module, the code around it does something else"
            return Refusal(NOT_LOOKED_AT, f"{self.label(op)} {because}")
        return None

    def _unable(self, edit: Edit) -> Refusal | None:
        match edit:
            case Insert(view) if view.statistics is not None:
                return self._unfollowed(view)
            case Insert() | SetConstant() | Move():
                return _needs_structure(ASKED[type(edit)])
            case Remove(node) if not self.takes_out and _op(node) not in self._making:
                return _needs_structure("operations would have to be taken out")
            case SetView(view):
                return self._unwritable(view)
            case Replace(view) | Respell(view):
                return self._irreplaceable(_op(view.node), view, edit.by if isinstance(edit, Respell) else None)
            case Bypass(node, value):
                return self._stuck(_op(node)) or self._overwritten(_op(node), self._now(_value(value)))
        return None

    def _unfollowed(self, view: AffineOp) -> Refusal | None:
        """Why no norm with stored statistics can stand behind the module that makes what ``view`` reads."""
        value = self._now(_value(view.inputs[0]))
        op = value.op
        if op is None or not op.call.path or op.call.result is not value:
            return _needs_structure(f"a norm would have to stand behind {self.label(value)}, which no module returns")
        return _behind(op, view).refusal(self.label(op))

    def following(self, op: Op) -> Making:
        """How the norm behind ``op`` is made."""
        return _behind(op, self.followed[op])

    def _unwritable(self, view: View) -> Refusal | None:
        """Why the constants of ``view`` have no place in the tree."""
        if not isinstance(view, AffineOp | Embedding | Linear | Norm | Recurrent):
            return _needs_structure(f"{self.label(view.node)} would need other constants")
        if isinstance(view, Linear) and view.bias is None and _op(view.node).arguments["bias"] is not None:
            return _needs_structure(f"the bias of {self.label(view.node)} would have to be taken out")
        return self._differing(_op(view.node), view) if isinstance(view, Linear) else None

    def _differing(self, op: Op, view: Linear) -> Refusal | None:
        """Why ``op`` cannot have other constants than it has now, where its module computes the weight."""
        calls, before = self._tree.calls[id(op.call.module)], self.view(op)
        if self.computed(op) is None or calls == 1 or not isinstance(before, Linear):
            return None
        if view.weight is before.weight and view.bias is before.bias:
            return None
        return Refusal(CALLED_ONCE, f"{self.label(op)} is called {calls} times with the same weight")

    def _irreplaceable(self, op: Op, view: View, by: Spelling | None = None) -> Refusal | None:
        """Why another module cannot stand where that of ``op`` is."""
        try:
            self._tree.removal(op)
        except NotLifted as reason:
            return reason.refusal
        if by == "weight" and isinstance(view, Linear):
            return self._unwritable(view) or unnormalisable(op.call.module, view, self.label(op))
        making = self.making(op, view, by)
        return irreplaceable(op.call.module, view, self.label(op)) if making is None else making.refusal(self.label(op))

    def children(self, op: Op) -> tuple[str, ...]:
        """What the module of ``op`` calls behind it."""
        return () if isinstance(self.changed.get(op), Linear) else self._tree.removal(op).children

    def making(self, op: Op, view: View, by: Spelling | None) -> Making | None:
        """How the module is made whose constants come with it; None for one that only gets other constants."""
        alike = isinstance(op.call.module, tuple(NORM_MODULES.values())) and isinstance(view, Norm)
        # An RMSNorm of torch's has no bias.
        alike = alike and not (isinstance(view, Norm) and view.kind == "rms" and view.holds_shift)
        return None if isinstance(view, Linear) or (by is None and alike) else Making(op, view, by)

    def _stuck(self, op: Op) -> Refusal | None:
        """Why ``op`` cannot be taken out of the tree."""
        if op.kind not in NORMS:
            return _needs_structure(f"{self.label(op)} would have to be taken out of its module's own forward")
        try:
            self._tree.removal(op)
        except NotLifted as reason:
            return reason.refusal
        return None

    def _overwritten(self, op: Op, before: Value) -> Refusal | None:
        """Why ``before`` cannot take the place of what ``op`` makes, where either is changed in place."""
        after = op.outputs[0]
        overwritten = before.memory.written > op.index or after.memory.written > op.index
        if not overwritten or (before.memory.values[0].op is not None and self._read_once(before)):
            return None
        because = f"the values around {self.label(op)} are changed in place afterwards, and {self.label(before)} is "
        return Refusal(NOT_OVERWRITTEN, because + "also read elsewhere")

    def _read_once(self, value: Value) -> bool:
        """Whether each of the values that share the memory of ``value`` has one reader."""
        sharing = [other for other in value.memory.values if other not in self._moved]
        return all(len(self.consumers(other)) <= 1 and self.escapes(other) is None for other in sharing)

    def commit(self, plan: Plan) -> dict[AnyValue, str]:
        """Carry out ``plan`` on this graph."""
        self.committed = True
        names: dict[AnyValue, str] = {}
        for value in (_value(change.value) for change in plan.changed):
            names[value] = self._names[value] = f"{self.value_name(value)}_folded"
        for edit in plan.edits:
            match edit:
                case SetView(view) | Replace(view) | Respell(view):
                    self._change(_op(view.node), edit)
                case Bypass(node, before, same):
                    self._bypass(_op(node), self._now(_value(before)), same=same)
                case Remove(node) if _op(node) not in self._making:  # those go with their module
                    self._leave(_op(node))
                case Insert(view) if (op := self._now(_value(edit.value)).op) is not None:
                    self.followed[op] = view
                case Insert() | Move() | SetConstant():
                    raise TypeError(f"a run of a module has no place for {edit}")
        return {value: name for value, name in names.items() if self.value_name(value) == name}

    def _change(self, op: Op, edit: SetView | Replace | Respell) -> None:
        by = edit.by if isinstance(edit, Respell) else None
        made = None if isinstance(edit, SetView) else self.making(op, edit.view, by)
        self._views[op] = self.changed[op] = _with_room(edit.view, self.view(op))
        if not isinstance(edit, SetView) or self.computed(op) is not None:
            self.replaced.add(op)
        if made is not None:
            self.spelled[op] = by
        if by == "weight":
            self.normalised.add(op)

    def _leave(self, op: Op) -> None:
        """Take ``op`` out: it reads nothing any more."""
        self.removals[op] = self._tree.removal(op)
        for value in {self._now(value) for value in op.inputs}:
            self._uses[value] = [use for use in self._uses.get(value, []) if use[0] is not op]

    def _bypass(self, op: Op, before: Value, *, same: bool) -> None:
        after = op.outputs[0]
        self._leave(op)
        self._uses[before] = [*self._uses.get(before, []), *self._uses.pop(after, [])]
        self._moved[after] = before
        before.kept, before.parted = before.kept or after.kept, before.parted or after.parted
        if same:
            self._names[before] = self.value_name(after)
        before.memory.written = max(before.memory.written, after.memory.written)
        for value in after.memory.values if after.memory is not before.memory else ():
            value.memory = before.memory
            before.memory.values.append(value)


def _with_room(view: View, before: View) -> View:
    """``view``; the scale and shift of a norm that has given them on keep the shapes that they are stored in."""
    if not isinstance(view, Norm) or not isinstance(before, Norm) or view.tail is None or before.tail is None:
        return view
    scale, shift = (
        np.broadcast_to(constant, before.tail.scale.shape) for constant in (view.tail.scale, view.tail.shift)
    )
    return replace(view, tail=Affine(scale, shift))


def _behind(op: Op, view: AffineOp) -> Making:
    """How a norm with stored statistics is made that reads what ``op`` makes."""
    return Making(op, view, "frozen" if view.op.startswith("Frozen") else "batch", behind=True)


def _needs_structure(what: str) -> Refusal:
    because = f"{what}, which a module tree has no place for; normfold.fold_program and normfold.export go further"
    return Refusal(NEEDS_STRUCTURE, because)


def _touched(edit: Edit) -> Op | None:
    """The operation that ``edit`` changes or takes out."""
    match edit:
        case SetView(view) | Replace(view) | Respell(view):
            return _op(view.node)
        case Bypass(node) | Remove(node) | Move(node):
            return _op(node)
    return None


def _op(node: Node) -> Op:
    if not isinstance(node, Op):
        raise TypeError(f"not an operation of a run: {node!r}")
    return node


def _value(value: AnyValue) -> Value:
    if not isinstance(value, Value):
        raise TypeError(f"not a value of a run: {value!r}")
    return value
