"""A `torch.fx` graph of a whole module behind the same protocol: here operations can go that are no modules.

``torch.export`` writes down the operations that the dispatcher sees, one node each, so a run of its graph is a `Trace`
whose operations are the graph's nodes, in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Final

import torch
from torch import nn
from torch.fx import GraphModule, Node

from normfold.backends.torch.carried import carried, carry
from normfold.backends.torch.graph import TorchGraph
from normfold.backends.torch.stored import shared_memory
from normfold.backends.torch.tracer import Call, Op, Trace, Value
from normfold.backends.torch.tree import ModuleTree, Removal
from normfold.backends.torch.write import write_constants
from normfold.core.plan import Insert, Move, Plan, Replace, Respell
from normfold.core.premises import NEEDS_STRUCTURE
from normfold.core.views import Linear
from normfold.errors import UsageError
from normfold.records import Refusal, StatisticsRecord

LAYOUTS: Final = frozenset({"contiguous", "clone"})
"""Operations that change how values lie in memory, and nothing else."""
ANONYMOUS: Final = (nn.Module, GraphModule)
"""Classes that say nothing of what their modules do."""


class _Nodes(ModuleTree):
    """The nodes of a graph: each can go and get arguments, whatever module it comes from."""

    gives_biases = True

    def removal(self, op: Op) -> Removal:
        """Nothing is left in the place of ``op``."""
        return Removal(op.call.module, ())

    def _is_watched(self, module: nn.Module) -> bool:
        """A program's own hooks look at its inputs alone."""
        return not isinstance(module, GraphModule) and super()._is_watched(module)


class ProgramGraph(TorchGraph):
    """One run of an exported program."""

    takes_out = True
    tree_type = _Nodes

    def __init__(self, trace: Trace, tree: nn.Module) -> None:
        """``trace`` is of a `GraphModule` that `prepare` made; ``tree`` is the module that it was exported from.

        Raises:
            UsageError: ``not-exportable`` where the run does not follow the graph.
        """
        program = trace.module
        if not isinstance(program, GraphModule):
            raise TypeError(f"not a graph: {type(program).__name__}")
        self._source = tree
        self.nodes_of = _aligned(trace, program)
        self.rewired: list[tuple[Op, Value]] = []
        _place(self.nodes_of, tree)
        super().__init__(trace, shared_memory(program))
        # One that stands for several is where the last of them is.
        self.nodes_of |= {
            op: self.nodes_of[op.arguments["steps"][-1]] for op in self.nodes() if "steps" in op.arguments
        }

    def origins(self) -> dict[str, str]:
        """The name of the node that makes each value, by the value's name now."""
        return {
            self.value_name(value): self.nodes_of[op].name + (f".{k}" if k else "")
            for op in self.nodes()
            if op in self.nodes_of
            for k, value in enumerate(op.outputs)
        }

    def records(self) -> Sequence[StatisticsRecord] | None:
        """Those that the module was given that the program was exported from."""
        return carried(self._source)

    def unable(self, plan: Plan) -> Refusal | None:
        """What ``plan`` asks of the program that is not done here."""
        if any(isinstance(edit, Insert | Move | Replace | Respell) for edit in plan.edits):
            what = "operations would have to be put in, or in other places, or become others"
            because = f"{what}; normfold.export does that in ONNX models"
            return Refusal(NEEDS_STRUCTURE, because)
        return super().unable(plan)

    def _stuck(self, op: Op) -> Refusal | None:
        """What stands in the way of taking ``op`` out: nothing, unless it lays values out for a view of them."""
        if op.kind not in LAYOUTS:
            return None
        return Refusal(NEEDS_STRUCTURE, f"{self.label(op)} lays its values out in memory as what reads them needs it")

    def _bypass(self, op: Op, before: Value, *, same: bool) -> None:
        self.rewired.append((op, before))
        super()._bypass(op, before, same=same)


def prepare(program: GraphModule) -> GraphModule:
    """Turn operations that change a tensor in place into those that make a new one, where nobody can tell."""
    order = {node: k for k, node in enumerate(program.graph.nodes)}
    for node in program.graph.nodes:
        plain = _plain_target(node)
        if plain is not None and _is_private(node, order):
            node.target = plain
    program.recompile()
    return program


def rewrite(graph: ProgramGraph, program: GraphModule) -> None:
    """Give ``program``, the one that ran or a copy, the constants of ``graph``, and take out what has gone."""
    named = {node.name: node for node in program.graph.nodes}
    write_constants(graph, program, dict(_given_biases(graph, program, named)))
    gone = [named[graph.nodes_of[op].name] for op in graph.removals]
    for op, before in graph.rewired:
        node = named[graph.nodes_of[op].name]
        node.replace_all_uses_with(_node_of(graph, before, node, named))
    for node in sorted(gone, key=list(program.graph.nodes).index, reverse=True):
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph.lint()
    program.recompile()
    _drop_unread(program)
    carry(program, graph.kept)


def _given_biases(graph: ProgramGraph, program: GraphModule, named: dict[str, Node]) -> Iterator[tuple[Op, str]]:
    """Give each linear operation that needs a bias, and has none, one of zeros, and its name."""
    for op, view in graph.changed.items():
        if op in graph.removals or not isinstance(view, Linear):
            continue
        if view.bias is not None and op.arguments["bias"] is None:
            name = _added_bias(program, op.arguments["weight"].names[0], view.weight.out_channels)
            _read_bias(program, named[graph.nodes_of[op].name], name)
            yield op, name


def _added_bias(program: GraphModule, weight_name: str, channels: int) -> str:
    """The name of a new bias of zeros in the state of ``program``, beside a weight and of the same make."""
    path, _, stored_as = weight_name.rpartition(".")
    owner = program.get_submodule(path)
    weight: torch.Tensor = getattr(owner, stored_as)
    own = next(name for k in count() if getattr(owner, name := f"bias_{k}" if k else "bias", None) is None)
    bias = weight.detach().new_zeros(channels)
    if isinstance(weight, nn.Parameter):
        owner.register_parameter(own, nn.Parameter(bias, requires_grad=weight.requires_grad))
    else:
        owner.register_buffer(own, bias)
    return f"{path}.{own}" if path else own


def _read_bias(program: GraphModule, node: Node, name: str) -> None:
    """Let ``node``, a linear operation, read the stored ``name`` as its bias."""
    with program.graph.inserting_before(node):
        read = program.graph.get_attr(name)
    place = [argument.name for argument in node.target._schema.arguments].index("bias")  # type: ignore[union-attr]  # noqa: SLF001
    if place < len(node.args):
        node.update_arg(place, read)
    else:
        node.update_kwarg("bias", read)


def _node_of(graph: ProgramGraph, value: Value, reader: Node, named: dict[str, Node]) -> Node:
    """The node that makes ``value``: an operation, or the input of ``program`` that ``reader`` has read."""
    if value.op is not None:
        return named[graph.nodes_of[value.op].name]
    (source,) = (node for node in reader.all_input_nodes if node.op == "placeholder")
    return source


def _aligned(trace: Trace, program: GraphModule) -> dict[Op, Node]:
    """The node of each operation."""
    nodes = [node for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]  # noqa: SLF001
    kinds = [_kind(node.target) for node in nodes]
    ops = sorted((op for op in (*trace.ops, *trace.idle) if op.kind != "alias"), key=lambda op: op.index)
    if kinds != [op.kind for op in ops]:
        raise UsageError("not-exportable", "The exported program runs other operations than it lists.")
    return dict(zip(ops, nodes, strict=True))


def _kind(target: Any) -> str:
    """The name of an operation as a `Trace` gives it."""
    kind = str(target._schema.name).removeprefix("aten::")  # noqa: SLF001
    changes = any(one.alias_info is not None and one.alias_info.is_write for one in target._schema.arguments)  # noqa: SLF001
    return kind.removesuffix("_") if changes and not kind.endswith("__") else kind


def _place(nodes_of: dict[Op, Node], tree: nn.Module) -> None:
    """Let each operation stand in the module of ``tree`` that it was exported from, with the name that it has there."""
    counts: Counter[str] = Counter()
    known = dict(tree.named_modules())
    calls: dict[str, Call] = {}
    for op, node in nodes_of.items():
        stack = node.meta.get("nn_module_stack") or {"": ("", None)}
        key, own = next((key, path) for key, (path, _) in reversed(stack.items()) if path in known)
        # Of a module's second call, the key ends in @1.
        again = key.rpartition("@")[2] if "@" in key else ""
        path = f"{own}@{int(again) + 1}" if own and again.isdigit() else own
        call = calls.setdefault(
            path, Call(known[own], path, op.call, made_of=_class_name(known[own], stack[key][1], op))
        )
        call.items.append(op)
        op.call = call
        name = f"{path}:{op.kind}" if path else op.kind
        counts[name] += 1
        op.name = name if counts[name] == 1 else f"{name}@{counts[name]}"
        for k, value in enumerate(op.outputs):
            value.name = op.name if not k else f"{op.name}.{k}"


def _class_name(module: nn.Module, listed: Any, op: Op) -> str:
    """The class of ``module``, or the one that the program lists for it; the operator's name where both are lost."""
    name = type(module).__name__
    if type(module) in ANONYMOUS:
        name = getattr(listed, "__name__", str(listed)).rpartition(".")[2]
    return op.kind if name in {one.__name__ for one in ANONYMOUS} else name


def _plain_target(node: Node) -> Any:
    """The operation that makes a new tensor where that of ``node`` changes its first; ``None`` for all others."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.name.endswith("_"):  # noqa: SLF001
        return None
    packet = getattr(torch.ops.aten, target._schema.name.removeprefix("aten::")[:-1], None)  # noqa: SLF001
    overload = getattr(packet, target._overloadname, None)  # noqa: SLF001
    return None if overload is None or overload._schema.is_mutable else overload  # noqa: SLF001


def _is_private(node: Node, order: dict[Node, int]) -> bool:
    """Whether nobody sees that ``node`` changes its first argument: no alias of it lives, nobody reads it later."""
    changed = node.args[0]
    if not isinstance(changed, Node) or not _makes_new(changed):
        return False
    return all(reader is node or (order[reader] < order[node] and _makes_new(reader)) for reader in changed.users)


def _makes_new(node: Node) -> bool:
    """Whether the result of ``node`` shares no memory with what it reads."""
    if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001
        return False
    return all(one.alias_info is None for one in node.target._schema.returns)  # noqa: SLF001


def _drop_unread(program: GraphModule) -> None:
    """Take tensors out of the state that no node reads any more."""
    read = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    for name in list(_state(program)):
        if name not in read:
            path, _, own = name.rpartition(".")
            delattr(program.get_submodule(path), own)


def _state(program: GraphModule) -> Iterator[str]:
    yield from (name for name, _ in program.named_parameters(remove_duplicate=False))
    yield from (name for name, _ in program.named_buffers(remove_duplicate=False))
