"""Nodes whose output is one of their inputs, bit for bit, and pairs of nodes that one can stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.clean.editor import Editor
from normfold.backends.onnx.clean.operands import axes_of, given, listed, slice_bounds
from normfold.backends.onnx.clean.sizes import Along, Element, Sizes
from normfold.backends.onnx.reading.constants import NO_REALS
from normfold.backends.onnx.reading.inference import Inference
from normfold.backends.onnx.reading.shapes import Shapes
from normfold.core.algebra.moves import Dim

END: Final = 2**31 - 1
"""From which on the end of a slice is the end of the axis."""
RESHAPES: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that keep the order of the elements; a Transpose may."""


@dataclass
class Late:
    """Shapes and types of values, inferred when they are first asked for."""

    model: ir.Model
    inference: Inference

    @cached_property
    def _shapes(self) -> Shapes:
        return Shapes(self.model, dict, self.inference)

    def of(self, value: ir.Value) -> tuple[Dim, ...] | None:
        """The dimensions of ``value``, as far as they are known."""
        return self._shapes.of(value)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The type of the elements of ``value``, where it is known."""
        return self._shapes.dtype(value)


@dataclass(frozen=True, slots=True)
class Around:
    """What is known around a node."""

    editor: Editor
    sizes: Sizes
    opset: int
    constants: bool
    """Whether new ones may come in."""
    shapes: Late
    fresh: Callable[[str], str]

    def rank(self, value: ir.Value) -> int | None:
        """The number of dimensions of ``value``."""
        shape = self.shapes.of(value)
        return None if shape is None else len(shape)


def same_input(around: Around, node: ir.Node) -> ir.Value | None:
    """The input of ``node`` that its only output is a copy of, if it is one of any."""
    rule = COPIES.get(node.op_type)
    # What else a Dropout makes may be read.
    if rule is None or not node.inputs or node.inputs[0] is None or any(out.uses() for out in node.outputs[1:]):
        return None
    if any(output.is_graph_output() for output in node.outputs[1:]):
        return None
    return rule(around, node, node.inputs[0])


def _identity(_: Around, __: ir.Node, value: ir.Value) -> ir.Value | None:
    return value


def _dropout(around: Around, node: ir.Node, value: ir.Value) -> ir.Value | None:
    if around.opset < 7:
        return value if node.attributes.get_int("is_test", 0) else None
    if any(given(node, slot) and around.editor.tensor(node.inputs[slot]) is None for slot in (1, 2)):
        return None
    mode = around.editor.tensor(node.inputs[2]) if given(node, 2) else None
    return value if mode is None or not mode.numpy().any() else None


def _cast(around: Around, node: ir.Node, value: ir.Value) -> ir.Value | None:
    return value if around.shapes.dtype(value) == node.attributes.get_int("to") else None


def _transpose(_: Around, node: ir.Node, value: ir.Value) -> ir.Value | None:
    order = node.attributes.get_ints("perm", ())
    return value if order and list(order) == list(range(len(order))) else None


def _reshape(around: Around, node: ir.Node, value: ir.Value) -> ir.Value | None:
    target = listed(around.editor, node, 1, "shape")
    shape = around.shapes.of(value)
    if target is None or shape is None or len(target) != len(shape):
        return None
    copied = node.attributes.get_int("allowzero", 0) == 0
    differ = [k for k, size in enumerate(target) if size != shape[k] and not (size == 0 and copied)]
    # One size that is to be found has to be the one that there is.
    return value if not differ or (len(differ) == 1 and target[differ[0]] == -1) else None


def _flatten(around: Around, node: ir.Node, value: ir.Value) -> ir.Value | None:
    return value if around.rank(value) == 2 and node.attributes.get_int("axis", 1) in (1, -1) else None


def _concat(_: Around, node: ir.Node, value: ir.Value) -> ir.Value | None:
    return value if len(node.inputs) == 1 else None


def _slice(around: Around, node: ir.Node, value: ir.Value) -> ir.Value | None:
    bounds, shape = slice_bounds(around.editor, node), around.shapes.of(value)
    if bounds is None:
        return None
    for axis, start, end, step in bounds:
        size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        if start or step != 1 or end < (size if isinstance(size, int) else END):
            return None
    return value


def _pad(around: Around, node: ir.Node, value: ir.Value) -> ir.Value | None:
    pads = listed(around.editor, node, 1, "pads")
    return value if pads is not None and not any(pads) else None


def _expand(around: Around, node: ir.Node, value: ir.Value) -> ir.Value | None:
    target, shape = around.editor.integers(node.inputs[1]), around.shapes.of(value)
    if target is None or shape is None or len(target) > len(shape):
        return None
    own = shape[len(shape) - len(target) :]
    return value if all(size in (1, mine) for size, mine in zip(target, own, strict=True)) else None


def _neutral(number: int, *, signed: bool) -> Callable[[Around, ir.Node, ir.Value], ir.Value | None]:
    """Arithmetic with a ``number`` that changes nothing; of floats, where not even the sign of a zero does."""

    def rule(around: Around, node: ir.Node, _: ir.Value) -> ir.Value | None:
        for slot in (1, 0) if node.op_type in ("Add", "Mul") else (1,):
            value, tensor = node.inputs[1 - slot], around.editor.tensor(node.inputs[slot])
            if value is None or tensor is None or tensor.size != 1 or len(tensor.shape) > (around.rank(value) or 0):
                continue
            if tensor.dtype in NO_REALS or not (tensor.dtype.is_integer() or signed):
                continue
            if float(tensor.numpy().reshape(-1)[0]) == number:
                return value
        return None

    return rule


COPIES: Final[dict[str, Callable[[Around, ir.Node, ir.Value], ir.Value | None]]] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Concat": _concat,
    "Slice": _slice,
    "Pad": _pad,
    "Expand": _expand,
    "Mul": _neutral(1, signed=True),
    "Div": _neutral(1, signed=True),
    "Add": _neutral(0, signed=False),
    "Sub": _neutral(0, signed=False),
}


def undone(around: Around, node: ir.Node) -> ir.Value | None:
    """What ``node`` makes again of what the node before it has changed: Squeeze after Unsqueeze, and the reverse."""
    before = _before(node)
    if before is None or {before.op_type, node.op_type} != {"Squeeze", "Unsqueeze"}:
        return None
    first, second = axes_of(around.editor, before), axes_of(around.editor, node)
    # Both lists are counted in the same value: the one between the two, or the one around them.
    return before.inputs[0] if first is not None and second is not None and sorted(first) == sorted(second) else None


def joined(around: Around, node: ir.Node) -> bool:
    """Let ``node`` do what the node before it does for it alone, too; that one is then dead."""
    if node.op_type == "Concat":
        parts = [value.producer() for value in node.inputs if value is not None]
        return any(
            one is not None and one.op_type == "Concat" and _alone(node, one) and _concatenated_once(around, node, one)
            for one in parts
        )
    before = _before(node)
    if before is None or not _alone(node, before):
        return False
    if before.op_type == node.op_type == "Transpose":
        return _transposed_once(node, before)
    if node.op_type == "Reshape" and before.op_type in RESHAPES:
        return _reshaped_once(around, node, before)
    if before.op_type == "Reshape" and node.op_type in ("Squeeze", "Unsqueeze"):
        return around.constants and _one_reshape(around, node, before)
    if before.op_type == node.op_type == "Slice" and around.opset >= 10:
        return around.constants and _sliced_once(around, node, before)
    return False


def _alone(node: ir.Node, before: ir.Node) -> bool:
    """Whether ``node`` alone reads ``before``, which stands in the same graph."""
    output = before.outputs[0]
    return len(output.uses()) == 1 and not output.is_graph_output() and before.graph is node.graph


def _before(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0] if node.inputs else None
    before = None if value is None else value.producer()
    return before if before is not None and before.domain in ("", "ai.onnx") and len(before.outputs) == 1 else None


def _transposed_once(node: ir.Node, before: ir.Node) -> bool:
    first, second = before.attributes.get_ints("perm", ()), node.attributes.get_ints("perm", ())
    if not first or not second or len(first) != len(second):
        return False
    node.attributes["perm"] = ir.AttrInt64s("perm", [first[k] for k in second])
    node.replace_input_with(0, before.inputs[0])
    return True


def _reshaped_once(around: Around, node: ir.Node, before: ir.Node) -> bool:
    target, data, between = listed(around.editor, node, 1, "shape"), before.inputs[0], before.outputs[0]
    if target is None or data is None or node.attributes.get_int("allowzero", 0) != 0:
        return False
    if before.op_type == "Transpose" and not _moves_only_ones(around, before):
        return False
    if 0 in target:
        # A zero copies a size of what it reads: that has to be a number, or the same in what is read from now on.
        dims, rank = around.shapes.of(between), around.rank(data)
        copied = [_copied(around, dims, (data, rank), (between, axis)) for axis, size in enumerate(target) if size == 0]
        if None in copied:
            return False
        numbers = iter(copied)
        told_target = [next(numbers) if size == 0 else size for size in target]
        if told_target != target and not _retarget(around, node, [size for size in told_target if size is not None]):
            return False
    node.replace_input_with(0, data)
    return True


def _copied(
    around: Around, dims: tuple[Dim, ...] | None, data: tuple[ir.Value, int | None], between: tuple[ir.Value, int]
) -> int | None:
    """What a zero that copies the size of ``between`` becomes where ``data`` is read: a number, or a zero again."""
    axis, (value, rank) = between[1], data
    size = None if dims is None or axis >= len(dims) else dims[axis]
    if isinstance(size, int) and size:
        return size
    same = rank is not None and axis < rank and around.sizes.source(*between) == around.sizes.source(value, axis)
    return 0 if same else None


def _moves_only_ones(around: Around, node: ir.Node) -> bool:
    """Whether a Transpose moves axes of size one only, so that the elements stay in order."""
    order, dims = node.attributes.get_ints("perm", ()), around.shapes.of(node.inputs[0]) if node.inputs[0] else None
    if dims is None or len(order) != len(dims):
        return False
    wide = [axis for axis in order if dims[axis] != 1]
    return wide == sorted(wide)


def _retarget(around: Around, node: ir.Node, target: Sequence[int]) -> bool:
    """Let a Reshape read another constant shape."""
    if not around.constants or not node.outputs[0].name or len(node.inputs) < 2:
        return False
    tensor = ir.tensor(np.asarray(target, dtype=np.int64))
    around.editor.new_constant(node, 1, tensor, around.fresh(f"{node.outputs[0].name}_shape"))
    return True


def _one_reshape(around: Around, node: ir.Node, before: ir.Node) -> bool:
    """Make a Squeeze or an Unsqueeze behind a Reshape the Reshape to what it gives."""
    target, axes = listed(around.editor, before, 1, "shape"), axes_of(around.editor, node)
    if target is None or not axes or around.opset < 5 or before.attributes.get_int("allowzero", 0) != 0:
        return False
    rank = len(target) + (len(axes) if node.op_type == "Unsqueeze" else 0)
    places = sorted({axis % rank for axis in axes if -rank <= axis < rank})
    if len(places) != len(axes):
        return False
    if node.op_type == "Squeeze" and any(target[place] != 1 for place in places):
        return False
    # A zero copies the size at its own place, which must not change.
    if 0 in target and max(axis for axis, size in enumerate(target) if size == 0) >= places[0]:
        return False
    shape = [size for axis, size in enumerate(target) if node.op_type == "Unsqueeze" or axis not in places]
    for place in places if node.op_type == "Unsqueeze" else ():
        shape.insert(place, 1)
    node.resize_inputs(2)
    if not _retarget(around, node, shape):
        return False
    node.op_type = "Reshape"
    node.attributes.clear()
    node.replace_input_with(0, before.inputs[0])
    return True


def _concatenated_once(around: Around, node: ir.Node, before: ir.Node) -> bool:
    """Let a Concat read what the Concat that it reads joins along the same axis."""
    rank = around.rank(node.outputs[0])
    axes = [one.attributes.get_int("axis", 1) for one in (before, node)]
    if axes[0] != axes[1] and (rank is None or axes[0] % rank != axes[1] % rank):
        return False
    inputs = [part for value in node.inputs for part in (before.inputs if value is before.outputs[0] else (value,))]
    node.resize_inputs(len(inputs))
    for slot, value in enumerate(inputs):
        node.replace_input_with(slot, value)
    return True


def _sliced_once(around: Around, node: ir.Node, before: ir.Node) -> bool:
    first, second = slice_bounds(around.editor, before), slice_bounds(around.editor, node)
    rank = around.rank(node.outputs[0]) or around.rank(before.outputs[0])
    if first is None or second is None or rank is None or not node.outputs[0].name:
        return False
    both = [(axis % rank, *rest) for axis, *rest in (*first, *second)]
    if len({bounds[0] for bounds in both}) != len(both):
        return False
    node.replace_input_with(0, before.inputs[0])
    node.resize_inputs(5)
    lists = (("starts", 1), ("ends", 2), ("axes", 0), ("steps", 3))
    for slot, (name, place) in enumerate(lists, start=1):
        tensor = ir.tensor(np.asarray([bounds[place] for bounds in both], dtype=np.int64))
        around.editor.new_constant(node, slot, tensor, around.fresh(f"{node.outputs[0].name}_{name}"))
    return True


def told(around: Around, node: ir.Node) -> bool:
    """Make the computed shape that a Reshape or an Expand reads a constant, where it finds out the rest itself."""
    if node.op_type not in ("Reshape", "Expand") or not given(node, 1) or _told_already(around, node):
        return False
    found, data = around.sizes.of(node.inputs[1]), node.inputs[0]
    if found is None or found.scalar or data is None or found.dtype != ir.DataType.INT64 or not node.outputs[0].name:
        return False
    stated = node.outputs[0].shape
    if node.op_type == "Reshape" and stated is not None and len(stated) != len(found.of):
        return False  # what is declared is wrong, which only comes out where the shape is a constant
    if node.op_type == "Expand":
        target = _expanded_to(around.sizes, found.of, data, around.rank(data))
    else:
        target = None if node.attributes.get_int("allowzero", 0) else _reshaped_to(around.sizes, found.of, data)
    if target is None:
        return False
    tensor = ir.tensor(np.asarray(target, dtype=np.int64))
    around.editor.new_constant(node, 1, tensor, around.fresh(f"{node.outputs[0].name}_shape"))
    return True


def regrouped(around: Around, node: ir.Node) -> bool:
    """Make a Gather that takes every element of an axis once, in order, the Reshape to the shape of its indices."""
    if node.op_type != "Gather" or around.opset < 5 or not node.outputs[0].name or node.inputs[0] is None:
        return False
    indices, shape = around.editor.tensor(node.inputs[1]), around.shapes.of(node.inputs[0])
    if indices is None or not shape or indices.dtype not in (ir.DataType.INT32, ir.DataType.INT64):
        return False
    axis = node.attributes.get_int("axis", 0)
    size = shape[axis] if -len(shape) <= axis < len(shape) else None
    places = indices.numpy()
    if not isinstance(size, int) or not size or places.size != size:
        return False
    order = np.arange(size)
    if not np.isin(places.reshape(-1) - order, (0, -size)).all():
        return False
    axis %= len(shape)
    target = (*shape[:axis], *places.shape, *shape[axis + 1 :])
    sizes = [dim if isinstance(dim, int) else -1 for dim in target]
    if sizes.count(-1) > 1 or 0 in sizes:
        return False
    around.editor.new_constant(
        node, 1, ir.tensor(np.asarray(sizes, dtype=np.int64)), around.fresh(f"{node.outputs[0].name}_shape")
    )
    node.op_type = "Reshape"
    node.attributes.clear()
    return True


def _told_already(around: Around, node: ir.Node) -> bool:
    return around.editor.tensor(node.inputs[1]) is not None


def _reshaped_to(sizes_of: Sizes, sizes: Sequence[Element], data: ir.Value) -> list[int] | None:
    """``sizes`` with 0 for what is copied from ``data``, or -1 for one size that is not known.

    A size that is left open can only be found where no other one is zero: none is left open beside a copied one that
    was not before.
    """
    if 0 in sizes:
        return None
    unknown = [size for size in sizes if not isinstance(size, int)]
    copied = [
        0 if isinstance(size, Along) and size == sizes_of.source(data, axis) else size
        for axis, size in enumerate(sizes)
    ]
    if all(isinstance(size, int) for size in copied):
        return [size for size in copied if isinstance(size, int)]
    return [size if isinstance(size, int) else -1 for size in sizes] if len(unknown) == 1 and -1 not in sizes else None


def _expanded_to(sizes_of: Sizes, sizes: Sequence[Element], data: ir.Value, rank: int | None) -> list[int] | None:
    """``sizes`` with 1 for what ``data`` has anyhow."""
    if rank is None:
        return None
    target = []
    for k, size in enumerate(sizes):
        axis = k + rank - len(sizes)
        if isinstance(size, Along) and axis >= 0 and size == sizes_of.source(data, axis):
            target.append(1)
        elif isinstance(size, int):
            target.append(size)
        else:
            return None
    return target
