"""Constants that are computed from constants by several nodes, stored where that does not grow the file.

A weight whose gates an exporter reorders is cut into slices and joined again: each slice alone would double it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import onnx_ir as ir

from normfold.backends.onnx.clean.computing import computed
from normfold.backends.onnx.clean.editor import Editor

NODE: Final = 64
"""Bytes that a node takes in a file, about."""
LEAST_BUDGET: Final = 1 << 27
"""Bytes that are computed in any model."""
COPIES: Final = 4
"""How many times the bytes of its stored constants besides."""


@dataclass
class Cones:
    """The nodes of a model that only constants reach, with what they make."""

    editor: Editor
    functions: frozenset[ir.OperatorIdentifier]
    made: dict[ir.Value, ir.TensorProtocol] = field(default_factory=dict)
    spent: int = 0

    def store(self, model: ir.Model, spare: int) -> tuple[bool, int]:
        """Store what other nodes read of it; whether there was anything, and what is left of ``spare`` bytes."""
        stored_bytes = sum(
            value.const_value.nbytes
            for graph in model.graphs()
            for value in graph.initializers.values()
            if value.const_value is not None
        )
        for node in model.graph.all_nodes():
            if self.spent <= LEAST_BUDGET + COPIES * stored_bytes:
                self._follow(node)
        stored = False
        for nodes in self._parts():
            read = [node for node in nodes if any(use.outputs[0] not in self.made for use, _ in node.outputs[0].uses())]
            growth = sum(self.made[node.outputs[0]].nbytes for node in read) - self._freed(nodes) - NODE * len(nodes)
            if growth <= spare and read:
                done = [self.editor.to_constant(node, self.made[node.outputs[0]]) for node in read]
                stored |= any(done)
                spare -= max(growth, 0)
        return stored, spare

    def _follow(self, node: ir.Node) -> None:
        """Compute what ``node`` makes, where all that it reads is known."""
        outside = node.op_type == "Constant" or node.op_identifier() in self.functions or not node.inputs
        if outside or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            return
        read = [self._known(value) for value in node.inputs]
        found = None if any(tensor is None for tensor in read) else computed(node, read)
        if found is not None:
            self.made[node.outputs[0]] = found
            self.spent += found.nbytes

    def _known(self, value: ir.Value | None) -> ir.TensorProtocol | None:
        return self.made[value] if value in self.made else self.editor.tensor(value)

    def _parts(self) -> list[list[ir.Node]]:
        """The nodes, those together that read each other or the same constants."""
        group: dict[ir.Value, ir.Value] = {}

        def root(value: ir.Value) -> ir.Value:
            while group.setdefault(value, value) is not value:
                group[value] = group[group[value]]
                value = group[value]
            return value

        makers = [node for value in self.made if (node := value.producer()) is not None]
        for node in makers:
            for value in node.inputs:
                if value is not None:
                    group[root(value)] = root(node.outputs[0])
        parts: dict[ir.Value, list[ir.Node]] = {}
        for node in makers:
            parts.setdefault(root(node.outputs[0]), []).append(node)
        return list(parts.values())

    def _freed(self, nodes: list[ir.Node]) -> int:
        """Bytes of the stored constants that nobody but ``nodes`` reads."""
        inside = set(nodes)
        values = {value for node in nodes for value in node.inputs if value is not None and value not in self.made}
        sole = [value for value in values if all(user in inside for user, _ in value.uses())]
        return sum(tensor.nbytes for value in sole if (tensor := self.editor.tensor(value)) is not None)
