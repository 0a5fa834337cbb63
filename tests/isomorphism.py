"""Whether two ONNX graphs are one up to names, and the weights one up to a few units in the last place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

ULPS = 4


def differences(first: ir.Model, second: ir.Model) -> list[str]:
    """What differs between two models whose outputs come in the same order; nothing where they are one."""
    return list(_Pairing().graphs(first.graph, second.graph))


class _Pairing:
    """The values of two graphs that have been found to be one."""

    def __init__(self) -> None:
        self.same: dict[ir.Value, ir.Value] = {}

    def graphs(self, first: ir.Graph, second: ir.Graph) -> Iterator[str]:
        if len(list(first.all_nodes())) != len(list(second.all_nodes())):
            yield f"{[n.op_type for n in first.all_nodes()]} against {[n.op_type for n in second.all_nodes()]}"
        self.same.update(zip(first.inputs, second.inputs, strict=True))
        for one, other in zip(first.outputs, second.outputs, strict=True):
            yield from self.values(one, other)

    def values(self, first: ir.Value | None, second: ir.Value | None) -> Iterator[str]:
        if first is None or second is None:
            if first is not second:
                yield f"{first} against {second}"
            return
        if first in self.same:
            if self.same[first] is not second:
                yield f"{first.name} stands for two values"
            return
        self.same[first] = second
        one, other = first.producer(), second.producer()
        if first.const_value is not None and second.const_value is not None:
            yield from arrays(first.name or "", first.const_value.numpy(), second.const_value.numpy())
        elif one is None or other is None:
            if first.name != second.name:
                yield f"{first.name} against {second.name}"
        elif first.index() != second.index():
            yield f"output {first.index()} of {one.op_type} against {second.index()}"
        else:
            yield from self.nodes(one, other)

    def nodes(self, first: ir.Node, second: ir.Node) -> Iterator[str]:
        if (first.domain, first.op_type, len(first.inputs)) != (second.domain, second.op_type, len(second.inputs)):
            yield f"{first.op_type} {first.name!r} against {second.op_type} {second.name!r}"
            return
        for one, other in zip(first.inputs, second.inputs, strict=True):
            yield from self.values(one, other)
        if first.attributes.keys() != second.attributes.keys():
            yield f"attributes of {first.name!r}"
            return
        for key, attribute in first.attributes.items():
            yield from self.attributes(f"{key} of {first.name!r}", attribute, second.attributes[key])

    def attributes(self, name: str, first: ir.Attr, second: ir.Attr) -> Iterator[str]:
        if first.type == ir.AttributeType.GRAPH:
            yield from self.graphs(first.as_graph(), second.as_graph())
        elif first.type == ir.AttributeType.TENSOR:
            yield from arrays(name, first.as_tensor().numpy(), second.as_tensor().numpy())
        elif first.value != second.value:
            yield f"{name}: {first.value} against {second.value}"


def arrays(name: str, first: np.ndarray, second: np.ndarray) -> Iterator[str]:
    """Whether two constants differ by more than a few units in the last place of the larger one."""
    if first.shape != second.shape or first.dtype != second.dtype:
        yield f"{name}: {first.dtype}{first.shape} against {second.dtype}{second.shape}"
    elif not np.issubdtype(first.dtype, np.floating):
        if not np.array_equal(first, second):
            yield f"{name} differs"
    else:
        allowed = ULPS * np.spacing(np.maximum(np.abs(first), np.abs(second)))
        if not (np.abs(first - second) <= allowed).all():
            yield f"{name} differs by {float((np.abs(first - second) / allowed).max() * ULPS):.3g} ULP"
