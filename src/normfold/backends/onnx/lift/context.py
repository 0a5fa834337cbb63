"""What lifting needs to know of the model around a node, and how it says no."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from normfold.backends.onnx.reading.constants import FLOATS, OVERRIDABLE, Constants
from normfold.core.algebra import Window
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim
from normfold.core.premises import CONSTANT, FLOATING_POINT, NOT_OVERRIDABLE, STATIC_RESHAPE
from normfold.core.views import NotLifted, Opaque
from normfold.records import Refusal


@dataclass(frozen=True)
class Context:
    """The model's constants, shapes and opset."""

    constants: Constants
    shape: Callable[[ir.Value], tuple[Dim, ...] | None]
    opset: int
    label: Callable[[ir.Node | ir.Value], str]

    def domain(self, node: ir.Node) -> str:
        """The node's domain, with the default domain's two spellings as one."""
        return "" if node.domain == "ai.onnx" else node.domain

    def tensor(self, node: ir.Node, index: int, role: str) -> ir.TensorProtocol:
        """The constant floating tensor that is input ``index`` of ``node``."""
        value = node.inputs[index]
        found = f"{role} is missing" if value is None else self.constants.find(value)
        if isinstance(found, str):
            premise = NOT_OVERRIDABLE if found.endswith(OVERRIDABLE) else CONSTANT
            raise NotLifted(premise, f"{role} of {self.label(node)} is not constant: {found}")
        if found.dtype not in FLOATS:
            raise NotLifted(FLOATING_POINT, f"{role} of {self.label(node)} is {found.dtype}, not a floating type")
        return found

    def optional(self, node: ir.Node, index: int, role: str) -> ir.TensorProtocol | None:
        """Like `tensor`, ``None`` where the input is left out."""
        if len(node.inputs) <= index or node.inputs[index] is None:
            return None
        return self.tensor(node, index, role)

    def constant(self, node: ir.Node, index: int) -> Array | None:
        """Input ``index`` in float64 where it is a constant, else ``None``."""
        return self.constants.array(node.inputs[index]) if index < len(node.inputs) else None

    def rank(self, value: ir.Value) -> int | None:
        """Number of dimensions of ``value``, where known."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The type of ``value``; where the model does not state it, that of what it is made from, if they share it."""
        while value.dtype is None:
            known = self.constants.find(value)
            if not isinstance(known, str):
                return known.dtype
            node = value.producer()
            if node is not None and node.op_type == "Cast" and not self.domain(node):
                return ir.DataType(node.attributes.get_int("to", 0))
            source = None if node is None else self._of_same_type(node, value.index() or 0)
            if source is None:
                return None
            value = source
        return value.dtype

    def _of_same_type(self, node: ir.Node, output: int) -> ir.Value | None:
        """An input of ``node`` whose type the operator's specification says is that of its output."""
        if not onnx.defs.has(node.op_type, self.domain(node)):
            return None
        schema = onnx.defs.get_schema(node.op_type, self.opset, self.domain(node))
        kind = schema.outputs[min(output, len(schema.outputs) - 1)].type_str
        pairs = zip(node.inputs, schema.inputs, strict=False)
        return next((value for value, formal in pairs if value is not None and formal.type_str == kind), None)

    def integers(self, node: ir.Node, attribute: str, index: int) -> list[int] | None:
        """Integers that older opsets keep in ``attribute`` and newer ones in constant input ``index``."""
        if attribute in node.attributes:
            return list(node.attributes.get_ints(attribute, ()))
        if index >= len(node.inputs) or node.inputs[index] is None:
            return None
        values = self.constant(node, index)
        if values is None:
            raise NotLifted(STATIC_RESHAPE, f"the {attribute} of {self.label(node)} are not known before it runs")
        return [int(k) for k in values.reshape(-1)]


def data(node: ir.Node, index: int = 0) -> ir.Value:
    """Input ``index``, which the operator requires."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise NotLifted(CONSTANT, f"input {index} of {node.op_type} is missing")
    return value


def window(node: ir.Node, kernel: tuple[int, ...]) -> Window | None:
    """Where a convolution or pool looks; ``None`` where that depends on the input's size."""
    ones = [1] * len(kernel)
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    if auto_pad.startswith("SAME"):
        return None
    pads = [0] * 2 * len(kernel) if auto_pad == "VALID" else node.attributes.get_ints("pads", [0] * 2 * len(kernel))
    return Window(
        kernel=tuple(kernel),
        strides=tuple(node.attributes.get_ints("strides", ones)),
        dilations=tuple(node.attributes.get_ints("dilations", ones)),
        begins=tuple(pads[: len(kernel)]),
        ends=tuple(pads[len(kernel) :]),
    )


def all_equal(values: Sequence[int], wanted: int) -> bool:
    """Whether every value is ``wanted``."""
    return all(value == wanted for value in values)


def opaque(node: ir.Node, *refusals: Refusal) -> Opaque:
    """``node`` as a barrier."""
    return Opaque(
        node=node,
        op=node.op_type,
        inputs=tuple(v for v in node.inputs if v is not None),
        outputs=tuple(node.outputs),
        refusals=refusals,
    )
