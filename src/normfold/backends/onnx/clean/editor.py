"""How a graph is edited without a value changing its meaning: whatever keeps its name keeps its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

DEFAULT_DOMAIN = frozenset({"", "ai.onnx"})


@dataclass
class Editor:
    """Replaces values by others of the same content, and remembers where the content of a name that goes is found."""

    overridable: Callable[[ir.Value], bool]
    moved: dict[str, str] = field(default_factory=dict)
    """Names that are gone, and the value that holds the same."""

    def tensor(self, value: ir.Value | None) -> ir.TensorProtocol | None:
        """The constant behind ``value``: an initializer that no caller can override, or a Constant that stays."""
        if value is None:
            return None
        if value.is_initializer() and value.const_value is not None:
            return None if self.overridable(value) else value.const_value
        node = value.producer()
        if node is not None and node.op_type == "Constant" and node.domain in DEFAULT_DOMAIN:
            return ir.convenience.get_const_tensor(value)
        return None

    def integers(self, value: ir.Value | None) -> list[int] | None:
        """The elements of a constant of few integers."""
        tensor = self.tensor(value)
        if tensor is None or tensor.dtype not in (ir.DataType.INT32, ir.DataType.INT64) or tensor.size > 64:
            return None
        return [int(number) for number in np.ravel(tensor.numpy())]

    def replace(self, node: ir.Node, same: ir.Value) -> bool:
        """Take out ``node``, whose only output holds what ``same`` does; False where that cannot be.

        An output of the graph keeps its name and its declared shape: ``same`` takes them over, unless it is an input,
        a constant, another output, or not of this graph.
        """
        old, graph = node.outputs[0], node.graph
        if graph is None or same is old:
            return False
        if old.is_graph_output():
            if same.producer() is None or same.graph is not graph or same.is_graph_output():
                return False
            self._rename(same, old)
        else:
            same.shape = old.shape if same.shape is None else same.shape
            same.type = old.type if same.type is None else same.type
            if old.name and same.name:
                self.moved[old.name] = same.name
        old.replace_all_uses_with(same, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        return True

    def _rename(self, same: ir.Value, output: ir.Value) -> None:
        """Give ``same`` the name of the graph's ``output``, whose declaration holds for it, too."""
        name, output.name = output.name, None
        if same.name and name:
            self.moved[same.name] = name
        same.name, same.shape = name, output.shape if output.shape is not None else same.shape
        same.type = output.type if output.type is not None else same.type

    def to_constant(self, node: ir.Node, tensor: ir.TensorProtocol) -> bool:
        """Make the only output of ``node`` a constant of the same name; not an output of its graph."""
        old, graph = node.outputs[0], node.graph
        if not isinstance(graph, ir.Graph) or old.is_graph_output() or not old.name:
            return False
        value = ir.Value(
            name=old.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        old.replace_all_uses_with(value)
        graph.remove(node, safe=True)
        tensor.name = old.name
        old.name = None
        graph.register_initializer(value)
        return True

    def new_constant(self, node: ir.Node, slot: int, tensor: ir.TensorProtocol, name: str) -> None:
        """Let ``node`` read a new constant at ``slot``."""
        graph = node.graph
        if not isinstance(graph, ir.Graph):
            raise TypeError("a function body has no initializers")
        tensor.name = name
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(value)
        node.replace_input_with(slot, value)
