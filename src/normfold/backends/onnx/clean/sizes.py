"""What shape arithmetic comes to, element by element: a number, a dimension of some value, or unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.clean.editor import DEFAULT_DOMAIN, Editor
from normfold.backends.onnx.clean.operands import axes_of, listed, slice_bounds
from normfold.core.algebra.moves import Dim

MOST: Final = 64
"""Elements of a value up to which they are followed."""
INTEGERS: Final = frozenset({ir.DataType.INT32, ir.DataType.INT64})
LONGEST: Final = 1 << 12
"""Nodes that a size is followed back through."""
KEEPING: Final = frozenset(
    {
        "Abs", "Cast", "Clip", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log",
        "LogSoftmax", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Tanh",
    }
)  # fmt: skip
"""Operators whose output has the shape of their only input."""
BATCHED: Final = frozenset(
    {"AveragePool", "BatchNormalization", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"}
)
"""Operators whose output has the first size of their input."""
INT32: Final = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True)
class Along:
    """The size of ``value`` along an axis, not known before the model runs."""

    value: ir.Value
    axis: int


Element = int | Along | None


@dataclass(frozen=True, slots=True)
class Elements:
    """A scalar or a list of integers, in the type they are kept in."""

    of: tuple[Element, ...]
    scalar: bool
    dtype: ir.DataType

    @property
    def tensor(self) -> ir.TensorProtocol | None:
        """The constant, where every element is a number."""
        numbers = [element for element in self.of if isinstance(element, int)]
        if len(numbers) != len(self.of):
            return None
        array = np.asarray(numbers, dtype=self.dtype.numpy())
        return ir.Tensor(array.reshape(()) if self.scalar else array, dtype=self.dtype)


@dataclass
class Sizes:
    """Follows sizes through a graph, one node after the other in topological order."""

    editor: Editor
    shape: Callable[[ir.Value], tuple[Dim, ...] | None]
    known: dict[ir.Value, Elements] = field(default_factory=dict)

    def of(self, value: ir.Value | None) -> Elements | None:
        """What is known of the elements of ``value``."""
        if value is None:
            return None
        if value in self.known:
            return self.known[value]
        tensor = self.editor.tensor(value)
        if tensor is None or tensor.dtype not in INTEGERS or len(tensor.shape) > 1 or tensor.size > MOST:
            return None
        numbers = tuple(int(number) for number in np.ravel(tensor.numpy()))
        return Elements(numbers, not len(tensor.shape), tensor.dtype)

    def source(self, value: ir.Value, axis: int) -> Along:
        """Where the size of ``value`` along an axis comes from: two that come from one place are the same."""
        for _ in range(LONGEST):
            node = value.producer()
            if node is None or node.domain not in DEFAULT_DOMAIN or value is not node.outputs[0]:
                break
            step = self._back(node, axis)
            if step is None:
                break
            value, axis = step
        return Along(value, axis)

    def _back(self, node: ir.Node, axis: int) -> tuple[ir.Value, int] | None:
        """The input of ``node`` that has the size of its first output along an axis, and where."""
        data = node.inputs[0] if node.inputs else None
        if data is None:
            return None
        if node.op_type in KEEPING or (axis == 0 and node.op_type in BATCHED):
            return data, axis
        if node.op_type == "Flatten" and axis == 0 and node.attributes.get_int("axis", 1) == 1:
            return data, 0
        if node.op_type == "Gemm" and axis == 0 and not node.attributes.get_int("transA", 0):
            return data, 0
        if node.op_type == "Transpose":
            order = node.attributes.get_ints("perm", ())
            return (data, order[axis]) if axis < len(order) else None
        return self._before_reshape(node, data, axis) if node.op_type == "Reshape" else None

    def _before_reshape(self, node: ir.Node, data: ir.Value, axis: int) -> tuple[ir.Value, int] | None:
        target, dims = listed(self.editor, node, 1, "shape"), self.shape(data)
        if target is None or axis >= len(target) or node.attributes.get_int("allowzero", 0) != 0:
            return None
        if target[axis] == 0:
            return data, axis
        others = [size for k, size in enumerate(target) if k != axis]
        unknown = [k for k, size in enumerate(dims or ()) if not isinstance(size, int)]
        known = prod(size for size in dims or () if isinstance(size, int))
        # The one size that is to be found is the one that is not known, where the rest is as much before as after.
        if target[axis] == -1 and len(unknown) == 1 and 0 not in others and known == prod(others):
            return data, unknown[0]
        return None

    def follow(self, node: ir.Node) -> Elements | None:
        """What is known of what ``node`` makes, from now on to be looked up."""
        if node.domain not in DEFAULT_DOMAIN or len(node.outputs) != 1 or node.op_type not in STEPS:
            return None
        try:
            found = STEPS[node.op_type](self, node)
        except (IndexError, ValueError, TypeError):
            return None  # what does not fit its operator computes nothing
        if found is not None and len(found.of) <= MOST:
            self.known[node.outputs[0]] = found
            return found
        return None


def _shape(sizes: Sizes, node: ir.Node) -> Elements | None:
    value = node.inputs[0]
    dims = None if value is None else sizes.shape(value)
    if value is None or dims is None:
        return None
    elements = tuple(size if isinstance(size, int) else sizes.source(value, axis) for axis, size in enumerate(dims))
    picked = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", len(dims)))
    return Elements(elements[picked], scalar=False, dtype=ir.DataType.INT64)


def _size(sizes: Sizes, node: ir.Node) -> Elements | None:
    value = node.inputs[0]
    dims = None if value is None else sizes.shape(value)
    numbers = [size for size in dims or () if isinstance(size, int)]
    if dims is None or len(numbers) != len(dims):
        return None
    return Elements((prod(numbers),), scalar=True, dtype=ir.DataType.INT64)


def _cast(sizes: Sizes, node: ir.Node) -> Elements | None:
    source, target = sizes.of(node.inputs[0]), ir.DataType(node.attributes.get_int("to"))
    if source is None or target not in INTEGERS:
        return None
    if target == ir.DataType.INT32 and any(
        isinstance(number, int) and not INT32.min <= number <= INT32.max for number in source.of
    ):
        return None
    return Elements(source.of, source.scalar, target)


def _gather(sizes: Sizes, node: ir.Node) -> Elements | None:
    source, indices = sizes.of(node.inputs[0]), sizes.of(node.inputs[1])
    if source is None or indices is None or source.scalar or node.attributes.get_int("axis", 0) not in (0, -1):
        return None
    if not all(isinstance(k, int) and -len(source.of) <= k < len(source.of) for k in indices.of):
        return None
    picked = tuple(source.of[k] for k in indices.of if isinstance(k, int))
    return Elements(picked, indices.scalar, source.dtype)


def _slice(sizes: Sizes, node: ir.Node) -> Elements | None:
    source, found = sizes.of(node.inputs[0]), slice_bounds(sizes.editor, node)
    if source is None or source.scalar or found is None or len(found) != 1 or found[0][0] not in (0, -1):
        return None
    _, start, end, step = found[0]
    if step <= 0:
        return None
    return Elements(source.of[start:end:step], scalar=False, dtype=source.dtype)


def _concat(sizes: Sizes, node: ir.Node) -> Elements | None:
    parts = [sizes.of(value) for value in node.inputs]
    found = [part for part in parts if part is not None and not part.scalar]
    if (
        len(found) != len(parts)
        or len({part.dtype for part in found}) != 1
        or node.attributes.get_int("axis") not in (0, -1)
    ):
        return None
    return Elements(tuple(one for part in found for one in part.of), scalar=False, dtype=found[0].dtype)


def _raised(sizes: Sizes, node: ir.Node) -> Elements | None:
    source, axes = sizes.of(node.inputs[0]), axes_of(sizes.editor, node)
    if source is None or not source.scalar or axes not in ([0], [-1]):
        return None
    return Elements(source.of, scalar=False, dtype=source.dtype)


def _lowered(sizes: Sizes, node: ir.Node) -> Elements | None:
    source, axes = sizes.of(node.inputs[0]), axes_of(sizes.editor, node)
    bare = len(node.inputs) < 2 and "axes" not in node.attributes
    if source is None or source.scalar or len(source.of) != 1 or not (bare or axes in ([0], [-1])):
        return None
    return Elements(source.of, scalar=True, dtype=source.dtype)


def _reshaped(sizes: Sizes, node: ir.Node) -> Elements | None:
    source, target = sizes.of(node.inputs[0]), sizes.editor.integers(node.inputs[1])
    if source is None or target not in ([], [-1], [len(source.of)]) or (target == [] and len(source.of) != 1):
        return None
    return Elements(source.of, scalar=target == [], dtype=source.dtype)


def _same(sizes: Sizes, node: ir.Node) -> Elements | None:
    return sizes.of(node.inputs[0])


def _arithmetic(sizes: Sizes, node: ir.Node) -> Elements | None:
    left, right = sizes.of(node.inputs[0]), sizes.of(node.inputs[1])
    if left is None or right is None or left.dtype != right.dtype or len(node.inputs) != 2:
        return None
    if len(left.of) != len(right.of) and 1 not in (len(left.of), len(right.of)):
        return None
    count = max(len(left.of), len(right.of)) if left.of and right.of else 0
    pairs = [(left.of[k % len(left.of)], right.of[k % len(right.of)]) for k in range(count)]
    results = tuple(_calculated(node.op_type, *pair, left.dtype) for pair in pairs)
    return Elements(results, left.scalar and right.scalar, left.dtype)


def _calculated(op: str, left: Element, right: Element, dtype: ir.DataType) -> Element:
    """The result of integer arithmetic, where both are numbers and it does not overflow."""
    if op in ("Add", "Mul", "Sub", "Div") and right == {"Add": 0, "Sub": 0}.get(op, 1):
        return left
    if not isinstance(left, int) or not isinstance(right, int) or (op == "Div" and not right):
        return None
    result = {
        "Add": lambda: left + right,
        "Sub": lambda: left - right,
        "Mul": lambda: left * right,
        "Div": lambda: abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1),
    }[op]()
    limits = np.iinfo(dtype.numpy())
    return result if limits.min <= result <= limits.max else None


STEPS: Final[dict[str, Callable[[Sizes, ir.Node], Elements | None]]] = {
    "Shape": _shape,
    "Size": _size,
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _raised,
    "Squeeze": _lowered,
    "Reshape": _reshaped,
    "Identity": _same,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
}
