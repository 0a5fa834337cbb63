"""Norms that an exporter wrote as several elementary operations.

LayerNorm and RMSNorm are recognised by ``x / sqrt(mean(square) + epsilon)``, GroupNorm by an
InstanceNormalization between two reshapes; the multiplication and addition by constants that follow belong to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from normfold.backends.onnx.tensors import Constants


@dataclass(frozen=True)
class Decomposition:
    """One recognised norm: its kind, its nodes in topological order, the node it is named after.

    ``tail`` are those of its nodes that multiply and add constants. Runtimes recognise the whole pattern and run it
    as one kernel, which a norm without its tail would lose.
    """

    norm: str
    nodes: tuple[ir.Node, ...]
    named: ir.Node
    tail: tuple[ir.Node, ...] = ()


def find_decompositions(nodes: Iterable[ir.Node], constants: Constants) -> Iterator[Decomposition]:
    """Every decomposed norm among ``nodes``, which are in topological order."""
    order = {node: k for k, node in enumerate(nodes)}
    for node in order:
        found: Decomposition | None = None
        if node.op_type == "Sqrt" or (node.op_type == "Pow" and _is(constants, node.inputs[1], 0.5)):
            found = _by_deviation(node, constants)
        elif node.op_type == "InstanceNormalization":
            found = _group_norm(node, constants)
        if found is not None:
            nodes = tuple(sorted(set(found.nodes), key=order.__getitem__))
            yield Decomposition(found.norm, nodes, found.named, found.tail)


def _is(constants: Constants, value: ir.Value | None, number: float) -> bool:
    array = constants.array(value)
    return array is not None and array.size == 1 and float(array.reshape(())) == number


def _by_deviation(root: ir.Node, constants: Constants) -> Decomposition | None:
    """``x / sqrt(mean(x^2) + e)`` (RMSNorm), with ``x - mean(x)`` for ``x`` (LayerNorm)."""
    plus = _made_by(root.inputs[0], "Add")
    if plus is None:
        return None
    mean = next((m for m in (_made_by(v, "ReduceMean") for v in plus.inputs) if m is not None), None)
    square = None if mean is None else _made_by(mean.inputs[0], "Pow", "Mul")
    if mean is None or square is None or not _squares(square, constants):
        return None
    x = square.inputs[0]
    divided = _divided(root, x, constants)
    if x is None or divided is None:
        return None
    nodes = [square, mean, plus, root, *divided]
    centred = _made_by(x, "Sub")
    norm = "RMSNormalization"
    if centred is not None:
        centre = _made_by(centred.inputs[1], "ReduceMean")
        if centre is not None and centre.inputs[0] is centred.inputs[0]:
            nodes += [centre, centred]
            norm = "LayerNormalization"
    tail = tuple(_tail(divided[-1], constants))
    return Decomposition(f"{norm} (decomposed)", (*nodes, *tail), divided[-1], tail)


def _squares(node: ir.Node, constants: Constants) -> bool:
    return node.inputs[0] is node.inputs[1] if node.op_type == "Mul" else _is(constants, node.inputs[1], 2)


def _divided(root: ir.Node, x: ir.Value | None, constants: Constants) -> list[ir.Node] | None:
    """The division of ``x``, or of a constant that ``x`` is multiplied by, by ``root``: Div, or Reciprocal and Mul."""
    for reader, index in root.outputs[0].uses():
        if reader.op_type == "Div" and index == 1 and _divides(reader.inputs[0], x, constants):
            return [reader]
        if reader.op_type == "Reciprocal":
            for product, slot in reader.outputs[0].uses():
                if product.op_type == "Mul" and _divides(product.inputs[1 - slot], x, constants):
                    return [reader, product]
    return None


def _divides(value: ir.Value | None, x: ir.Value | None, constants: Constants) -> bool:
    """Whether ``value`` is ``x``, the same difference made once more, or a constant."""
    if value is x or constants.array(value) is not None:
        return True
    first, second = _made_by(value, "Sub"), _made_by(x, "Sub")
    return first is not None and second is not None and first.inputs == second.inputs


def _group_norm(node: ir.Node, constants: Constants) -> Decomposition | None:
    before = _made_by(node.inputs[0], "Reshape")
    after = _only_reader(node.outputs[0])
    if before is None or after is None or after.op_type != "Reshape":
        return None
    tail = tuple(_tail(after, constants))
    return Decomposition("GroupNormalization (decomposed)", (before, node, after, *tail), node, tail)


def _tail(node: ir.Node, constants: Constants) -> Iterator[ir.Node]:
    """The multiplication and the addition by constants right after ``node``."""
    for op in ("Mul", "Add"):
        reader = _only_reader(node.outputs[0])
        if reader is None or reader.op_type != op:
            continue
        other = reader.inputs[1] if reader.inputs[0] is node.outputs[0] else reader.inputs[0]
        if constants.array(other) is None:
            return
        yield reader
        node = reader


def _made_by(value: ir.Value | None, *operators: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in operators else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0][0] if len(uses) == 1 and not value.is_graph_output() else None
