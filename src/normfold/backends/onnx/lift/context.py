"""What lifting needs to know of the model around a node, and how it says no."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from normfold.backends.onnx.reading.constants import FLOATS, OVERRIDABLE, Constants
from normfold.core.algebra import Window
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim
from normfold.core.premises import CONSTANT, FLOATING_POINT, NOT_OVERRIDABLE, STATIC_RESHAPE, WELL_FORMED
from normfold.core.views import NotLifted, Opaque
from normfold.records import Refusal

INDICES = frozenset({ir.DataType.INT32, ir.DataType.INT64})
"""Types of axes, sizes and positions."""
WINDOW: Mapping[str, int] = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 1, "pads": 2}
"""The lists by which convolutions and pools say where they look, with their entries per axis."""


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
        value = node.inputs[index] if index < len(node.inputs) else None
        found = f"{role} is missing" if value is None else self.constants.find(value)
        if isinstance(found, str):
            premise = NOT_OVERRIDABLE if found.endswith(OVERRIDABLE) else CONSTANT
            raise NotLifted(premise, f"{role} of {self.label(node)} is not constant: {found}")
        if found.dtype not in FLOATS:
            raise NotLifted(FLOATING_POINT, f"{role} of {self.label(node)} is {found.dtype}, not a floating type")
        if not found.size:
            raise NotLifted(WELL_FORMED, f"{role} of {self.label(node)} has no elements")
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
        found = self.constants.find(data(node, index))
        if isinstance(found, str):
            raise NotLifted(STATIC_RESHAPE, f"the {attribute} of {self.label(node)} are not known before it runs")
        if found.dtype not in INDICES:
            raise NotLifted(WELL_FORMED, f"the {attribute} of {self.label(node)} are {found.dtype}, not integers")
        return [int(k) for k in found.numpy().reshape(-1)]

    def require(self, node: ir.Node, what: str, *, fits: bool) -> None:
        """Refuse to lift ``node`` unless ``what`` of it ``fits`` the rest of it, or its input."""
        if not fits:
            raise NotLifted(WELL_FORMED, f"{what} of {self.label(node)} does not fit its other constants or its input")

    def axes(self, node: ir.Node, axes: Iterable[int], rank: int) -> list[int]:
        """``axes`` of ``node`` counted from the end, each of them one of ``rank``."""
        chosen = list(axes)
        for axis in chosen:
            self.require(node, f"axis {axis}", fits=-rank <= axis < rank)
        negative = [axis % rank - rank for axis in chosen]
        self.require(node, f"the list of axes {chosen}", fits=len(set(negative)) == len(negative))
        return negative

    def same_size(self, node: ir.Node, value: ir.Value, axis: int, size: int) -> None:
        """Refuse to lift ``node`` where ``value`` is known not to have ``size`` elements along ``axis``."""
        shape = self.shape(value)
        if shape is not None:
            (axis,) = self.axes(node, (axis,), len(shape))
            self.require(node, f"the size {size}", fits=not isinstance(shape[axis], int) or shape[axis] == size)

    def within(self, node: ir.Node, value: ir.Value, constant: tuple[int, ...]) -> None:
        """Refuse to lift ``node`` where a constant of that shape is known to enlarge ``value`` or not to broadcast."""
        shape = self.shape(value)
        if shape is not None:
            pairs = zip(constant[::-1], shape[::-1], strict=False)
            fits = all(not isinstance(have, int) or size in (1, have) for size, have in pairs)
            self.require(node, f"the shape {list(constant)}", fits=fits and len(constant) <= len(shape))


def data(node: ir.Node, index: int = 0) -> ir.Value:
    """Input ``index``, which the operator requires."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise NotLifted(CONSTANT, f"input {index} of {node.op_type} is missing")
    return value


def check_window(context: Context, node: ir.Node, kernel: Sequence[int]) -> None:
    """Refuse to lift a convolution or pool with an attribute that is not one for each axis of ``kernel``."""
    lists = {name: list(node.attributes.get_ints(name, ())) for name in WINDOW if name in node.attributes}
    for name, values in lists.items():
        context.require(node, f"the length of {name}", fits=len(values) == WINDOW[name] * len(kernel))
    for name in {"kernel_shape", "strides", "dilations"} & lists.keys():
        context.require(node, f"an entry of {name}", fits=all(value > 0 for value in lists[name]))
    context.require(node, "the kernel_shape", fits=lists.get("kernel_shape", [*kernel]) == [*kernel])
    shape = context.shape(data(node))
    context.require(node, "the number of axes", fits=shape is None or len(shape) == len(kernel) + 2)


def window(node: ir.Node, kernel: tuple[int, ...]) -> Window | None:
    """Where a convolution or pool that `check_window` passed looks; ``None`` where the input's size decides."""
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
