"""The only code that changes an ONNX graph: new constants, nodes taken out, nodes put in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift import blocks, recurrent
from normfold.backends.onnx.lift.linear import bias_vector, gemm_bias
from normfold.backends.onnx.lift.norms import tail_slots
from normfold.backends.onnx.reading.constants import Constants, ExactTensor, TableTensor, WeightTensor, exact
from normfold.backends.onnx.reading.shapes import Shapes
from normfold.backends.onnx.write import gemm
from normfold.backends.onnx.write.quantized import QuantizedWriter
from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim
from normfold.core.laws.blocks import rescale_blocks
from normfold.core.laws.collapse import norm_constants
from normfold.core.views import (
    AffineOp,
    BlockLinear,
    Clip,
    Embedding,
    Linear,
    Norm,
    Pad,
    QuantizedLinear,
    Recurrent,
    View,
)

Dims = tuple[Dim, ...] | None
"""Those of a value, as far as they are known."""


@dataclass(frozen=True)
class Writer:
    """Writes into one model. ``fresh`` turns a wanted name of a value or node into one that is free."""

    model: ir.Model
    constants: Constants
    opset: int
    shapes: Shapes
    fresh: Callable[[str], str]
    newest: int
    """The opset whose operators norms may be written in."""

    def view(self, view: View) -> None:
        """Write the constants of a changed ``view`` into its node."""
        if isinstance(view, Linear):
            self._linear(view)
        elif isinstance(view, QuantizedLinear | BlockLinear):
            self._quantized(view)
        elif isinstance(view, Embedding):
            self._table(view)
        elif isinstance(view, Recurrent):
            self._recurrent(view)
        elif isinstance(view, AffineOp) and _native(view).op_type == "BatchNormalization":
            self._batch_normalization(view)
        elif isinstance(view, AffineOp):
            self._arithmetic(view)
        elif isinstance(view, Norm):
            self._tail(view)
        elif isinstance(view, Clip):
            self._bounds(view)
        elif isinstance(view, Pad) and view.value is not None:
            self._scalar(view, 2, "value", view.value)
        else:
            raise TypeError(f"{type(view).__name__} has no constants to write")

    def replace(self, view: View) -> None:
        """Make the node of ``view`` the operator of ``view``, which reads the same, with its constants."""
        node = _native(view)
        if isinstance(view, Norm) and not view.holds_shift and len(tail_slots(node)) > 1:
            self._drop_bias(node)
        elif isinstance(view, Linear) and position(node, view.inputs[0]):
            raise TypeError("a Gemm has its weight behind its data")
        node.op_type = operator_of(view)
        if isinstance(view, Norm) and view.epsilon is not None:
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", view.epsilon)
        self.view(view)

    def _linear(self, view: Linear) -> None:
        node = _native(view)
        slot = 1 if node.op_type in ("Conv", "ConvTranspose") else 1 - position(node, view.inputs[0])
        old = self._tensor(node, slot)
        name = _operand(node, slot).name or "weight"
        shape = tuple(old.shape.numpy())
        if node.op_type == "Conv":  # a merged one may have other channels
            shape = (view.weight.out_channels, view.weight.in_per_group, *view.weight.taps)
        self.set_constant(node, slot, WeightTensor(view.weight, old.dtype, shape), name)
        if node.op_type == "Gemm":
            for attribute in ("alpha", "beta"):
                node.attributes.pop(attribute, None)
        if view.bias is None and node.op_type == "Gemm" and self.opset < 11:
            view = replace(view, bias=np.zeros(()))  # older ones must have a bias
        if view.bias is None and len(node.inputs) > 2:
            self._drop_bias(node)
        elif view.bias is not None:
            bias = bias_vector(view) if node.op_type != "Gemm" else gemm_bias(view)
            self.set_constant(node, 2, ExactTensor(np.ascontiguousarray(bias), old.dtype), _bias_name(name))

    def _drop_bias(self, node: ir.Node) -> None:
        old = node.inputs[2]
        node.resize_inputs(2)
        if old is not None:
            sweep(old)

    def _quantized(self, view: QuantizedLinear | BlockLinear) -> None:
        """The scales and the bias; codes in blocks stay as they are stored."""
        if isinstance(view, QuantizedLinear):
            QuantizedWriter(self.constants, self.set_constant, self.fresh).write(view)
            return
        node, weight = _native(view), view.linear.weight
        old = self._tensor(node, blocks.SCALES)
        scales = rescale_blocks(view.scales, view.size, weight.rows, weight.columns)
        if scales is None:
            raise TypeError("the scales of a block differ")
        tensor = ExactTensor(scales.reshape(old.shape.numpy()), old.dtype)
        self.set_constant(node, blocks.SCALES, tensor, _operand(node, blocks.SCALES).name or "scales")
        if view.linear.bias is not None:
            bias = ExactTensor(np.ascontiguousarray(bias_vector(view.linear)), self._tensor(node, blocks.BIAS).dtype)
            self.set_constant(node, blocks.BIAS, bias, _operand(node, blocks.BIAS).name or "bias")

    def _table(self, view: Embedding) -> None:
        node = _native(view)
        tensor = TableTensor(view.table, self._tensor(node, 0).dtype)
        self.set_constant(node, 0, tensor, _operand(node, 0).name or "table")

    def _recurrent(self, view: Recurrent) -> None:
        """The weight, and the input half of the bias; the other half, which belongs to the state, stays."""
        node, (weight,), (bias,) = _native(view), view.weights, view.biases
        old = self._tensor(node, recurrent.WEIGHT)
        name = _operand(node, recurrent.WEIGHT).name or "weight"
        shape = (weight.groups, weight.out_per_group)
        self.set_constant(node, recurrent.WEIGHT, WeightTensor(weight, old.dtype, (*shape, weight.in_per_group)), name)
        if bias is not None:
            given = len(node.inputs) > recurrent.BIAS and node.inputs[recurrent.BIAS] is not None
            rest = exact(self._tensor(node, recurrent.BIAS))[:, shape[1] :] if given else np.zeros(shape)
            halves = ExactTensor(np.concatenate([bias.reshape(shape), rest], axis=1), old.dtype)
            self.set_constant(node, recurrent.BIAS, halves, _bias_name(name))

    def _arithmetic(self, view: AffineOp) -> None:
        node, affine = _native(view), view.affine
        constant = {"Mul": affine.scale, "Add": affine.shift, "Sub": -affine.shift}[node.op_type]
        slot = 1 - position(node, view.inputs[0])
        name = _operand(node, slot).name or "constant"
        self.set_constant(node, slot, ExactTensor(constant, self._tensor(node, slot).dtype), name)
        # A size that the input does not tell is that of the constant, unless that is one: so inference says later.
        output, rank = node.outputs[0], len(self.shapes.of(node.outputs[0]) or ())
        if rank >= constant.ndim:
            own = (size if size > 1 else None for size in constant.shape)
            self.shapes.tell_more(output, (*[None] * (rank - constant.ndim), *own))

    def _batch_normalization(self, view: AffineOp) -> None:
        """Keep the statistics, and give the scale and bias that make up the new map.

        Where those do not fit their type, the statistics become mean 0 and deviation 1, with which they do.
        """
        node = _native(view)
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        mean, variance = (exact(self._tensor(node, slot)) for slot in (3, 4))
        constants = dict(enumerate(norm_constants(view.affine, mean, variance, epsilon), start=1))
        if any(float(np.abs(values).max(initial=0.0)) > view.largest for values in constants.values()):
            zero, unit = np.zeros(mean.shape), np.full(mean.shape, max(1 - epsilon, 0.0))
            constants = dict(enumerate((*norm_constants(view.affine, zero, unit, epsilon), zero, unit), start=1))
        for slot, values in constants.items():
            name = _operand(node, slot).name or "constant"
            self.set_constant(node, slot, ExactTensor(values, self._tensor(node, slot).dtype), name)

    def _tail(self, view: Norm) -> None:
        """Scale and bias of a norm, in the shapes that they have."""
        node, tail = _native(view), view.tail
        if tail is None:
            raise TypeError(f"the tail of {node.op_type} was not read")
        slots = tail_slots(node)
        old = self._tensor(node, slots[0])
        shape = tuple(old.shape.numpy())
        for slot, values in zip(slots, (tail.scale, tail.shift), strict=False):
            full = np.broadcast_to(values.reshape(-1) if len(shape) == 1 else values, shape)
            name = _operand(node, slot).name or "constant"
            self.set_constant(node, slot, ExactTensor(np.ascontiguousarray(full), old.dtype), name)

    def _bounds(self, view: Clip) -> None:
        if view.uniform:
            self._scalar(view, 1, "min", float(view.low))
            self._scalar(view, 2, "max", float(view.high))
            return
        node = _native(view)
        slot = 1 - position(node, view.inputs[0])
        tensor = ExactTensor(view.low if view.holds_low else view.high, self._tensor(node, slot).dtype)
        self.set_constant(node, slot, tensor, _operand(node, slot).name or "bound")

    def _scalar(self, view: View, slot: int, attribute: str, number: float) -> None:
        """A bound or a padding number, which opsets before 11 keep in an attribute."""
        node = _native(view)
        if self.opset < 11:
            node.attributes[attribute] = ir.AttrFloat32(attribute, number)
            return
        if slot >= len(node.inputs) or node.inputs[slot] is None:
            if not np.isfinite(number):
                return
            dtype = self._dtype(_operand(node, 0))
        else:
            dtype = self._tensor(node, slot).dtype
        name = f"{node.name or node.outputs[0].name}_{attribute}"
        self.set_constant(node, slot, ExactTensor(np.asarray(number), dtype), name)

    def _tensor(self, node: ir.Node, slot: int) -> ir.TensorProtocol:
        return self.constants.again(_operand(node, slot))

    def set_constant(self, node: ir.Node, slot: int, tensor: ir.TensorProtocol, name: str) -> None:
        """Make ``tensor`` what ``node`` reads at ``slot``; a shared constant is copied, a private one replaced."""
        old = node.inputs[slot] if slot < len(node.inputs) else None
        if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
            tensor.name = old.name
            old.const_value = tensor
            old.shape, old.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            self.constants.forget(old)
            return
        if slot >= len(node.inputs):
            node.resize_inputs(slot + 1)
        node.replace_input_with(slot, self.constant(node, tensor, self.fresh(name)))
        if old is not None:
            sweep(old)

    def constant(self, user: ir.Node, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """A new initializer of the graph that ``user`` stands in."""
        if not isinstance(user.graph, ir.Graph):
            raise TypeError("a function body has no initializers")
        return add_constant(self.model, user.graph, tensor, name)

    def insert(self, value: ir.Value, affine: Affine) -> None:
        """Put a Mul and an Add by constants between ``value`` and all who read it, as far as they say anything."""
        if not affine.scales and self._into_gemm(value, affine.shift):
            return
        for op, operand, needed in (("Mul", affine.scale, affine.scales), ("Add", affine.shift, affine.shifts)):
            if needed:
                value = self._insert_one(value, op, operand)

    def insert_before(self, reader: ir.Node, slot: int, affine: Affine) -> None:
        """Put a Mul and an Add by constants where ``reader`` alone reads at ``slot``, as far as they say anything."""
        if reader.graph is None:
            raise TypeError("the reader stands in no graph")
        for op, operand, needed in (("Mul", affine.scale, affine.scales), ("Add", affine.shift, affine.shifts)):
            if not needed:
                continue
            value = _operand(reader, slot)
            name = self.fresh(f"{value.name or 'value'}_{op.lower()}")
            held = ExactTensor(operand, self._tensor(reader, 1).dtype)
            constant = self.constant(reader, held, self.fresh(f"{name}_constant"))
            output = ir.Value(name=name, shape=value.shape, type=value.type)
            self.shapes.tell(output, self.shapes.of(value))
            label = self.fresh(f"{reader.name or name}_{op.lower()}")
            node = ir.Node("", op, [value, constant], outputs=[output], name=label)
            reader.graph.insert_before(reader, node)
            reader.replace_input_with(slot, output)

    def _into_gemm(self, value: ir.Value, shift: Array) -> bool:
        """Give the MatMul that makes ``value`` the shift as a bias, where it can become a Gemm."""
        node = value.producer()
        if node is None or node.op_type != "MatMul" or shift.ndim > 1:
            return False
        weight = self.constants.find(_operand(node, 1))
        if (
            isinstance(weight, str)
            or len(weight.shape) != 2
            or not gemm.flatten_before(node, self.shapes, self._replaced, self.fresh)
        ):
            return False
        node.op_type = "Gemm"
        bias = np.broadcast_to(shift, tuple(weight.shape.numpy())[1:])
        name = _bias_name(_operand(node, 1).name or "weight")
        self.set_constant(node, 2, ExactTensor(np.ascontiguousarray(bias), weight.dtype), name)
        return True

    def _replaced(self, node: ir.Node, slot: int, integers: Sequence[int]) -> None:
        """Make ``integers`` what ``node`` reads at ``slot``."""
        name = _operand(node, slot).name or "shape"
        self.set_constant(node, slot, ir.tensor(np.asarray(integers, dtype=np.int64)), name)

    def _insert_one(self, value: ir.Value, op: str, operand: Array) -> ir.Value:
        before = value.producer()
        if before is None or before.graph is None:
            raise TypeError("an insertion stands after a node")
        name = value.name or "value"
        output = ir.Value(shape=value.shape, type=value.type)
        self.shapes.tell(output, self.shapes.of(value))
        # Types may have to be inferred, which takes a model that is whole.
        held = ExactTensor(operand, self._dtype(value))
        value.replace_all_uses_with(output, replace_graph_outputs=True)
        constant = self.constant(before, held, self.fresh(f"{name}_{'scale' if op == 'Mul' else 'shift'}"))
        label = self.fresh(f"{before.name or name}_{op.lower()}")
        node = ir.Node("", op, [value, constant], outputs=[output], name=label)
        before.graph.insert_after(before, node)
        value.name = self.fresh(f"{name}_before_{op.lower()}")
        output.name = name
        return output

    def _dtype(self, value: ir.Value) -> ir.DataType:
        """The type of ``value``; where the model states none that it can have, that of a constant of its producer."""
        known = self.shapes.dtype(value)
        if known is not None and known.is_floating_point():
            return known
        producer = value.producer()
        tensors = (self.constants.find(v) for v in (producer.inputs if producer else ()) if v is not None)
        return next(tensor.dtype for tensor in tensors if not isinstance(tensor, str))


def operator_of(view: View) -> str:
    """The operator that one which is replaced becomes; empty where none is written."""
    if isinstance(view, Norm):
        return {"layer": "LayerNormalization", "rms": "RMSNormalization"}.get(view.kind, "")
    return "Gemm" if isinstance(view, Linear) and view.window is None else ""


def add_constant(model: ir.Model, graph: ir.Graph, tensor: ir.TensorProtocol, name: str) -> ir.Value:
    """A new initializer of ``graph``, which belongs to ``model``."""
    value = ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    tensor.name = name
    graph.register_initializer(value)
    if (model.ir_version or 4) < 4 and graph is model.graph:
        graph.inputs.append(value)  # IR versions before 4 want every initializer listed
    return value


def bypass(node: ir.Node, slot: int, *, same: bool) -> None:
    """Take ``node`` out: whoever read its output reads its data input, the one at ``slot``.

    Where the input then holds the ``same`` as the output did, it takes its name, so that a name that both models have
    means the same values in both. An output of the graph always keeps its name.
    """
    source, output = _operand(node, slot), node.outputs[0]
    name, escaped = output.name, output.is_graph_output()
    if output.shape is not None and (same or source.shape is None):
        source.shape = output.shape
    source.type = source.type if source.type is not None else output.type
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    operands = [v for v in node.inputs if v is not None and v is not source]
    if node.graph is not None:
        node.graph.remove(node, safe=True)
    for operand in operands:
        sweep(operand)
    if same or escaped:
        source.name = name


def move(node: ir.Node, slot: int, behind: ir.Node, shapes: Shapes, fresh: Callable[[str], str]) -> None:
    """Let ``node``, whose data input is at ``slot`` and whose elements ``behind`` alone reads, change places with it.

    ``x -> node -> behind -> y`` becomes ``x -> behind -> node -> y``; ``y`` keeps its name and its readers. Who reads
    the shape between the two finds it at ``x``.
    """
    between, after = node.outputs[0], behind.outputs[0]
    x, graph = _operand(node, slot), node.graph
    if graph is None:
        raise TypeError("the node stands in no graph")
    pooled = _without(shapes.of(x), shapes.of(between), shapes.of(after))
    shapes.tell(between, shapes.of(after))
    between.replace_all_uses_with(x)
    after.replace_all_uses_with(between, replace_graph_outputs=True)
    node.replace_input_with(slot, after)
    graph.remove(node)
    graph.insert_after(behind, node)
    between.shape, between.type = after.shape, after.type
    after.shape = after.shape if pooled == shapes.of(after) else None
    shapes.tell(after, pooled)
    between.name, after.name = after.name, fresh(f"{after.name}_before_{node.op_type.lower()}")


def _without(x: Dims, made: Dims, after: Dims) -> Dims:
    """The dimensions ``after`` something that took those ``made`` of ``x``, were it to take those of ``x`` instead."""
    if x is None or made is None or after is None or not len(x) == len(made) == len(after):
        return None
    return tuple(dim if old == new else old for old, new, dim in zip(x, made, after, strict=True))


def sweep(value: ir.Value) -> None:
    """Remove what made ``value`` if nobody reads it any more, and then what made that."""
    pending = [value]
    while pending:
        unread = pending.pop()
        node = unread.producer()
        if unread.uses() or unread.is_graph_output():
            continue
        if node is None:
            _drop_initializer(unread)
        elif node.graph is not None and not any(output.uses() or output.is_graph_output() for output in node.outputs):
            pending += [operand for operand in node.inputs if operand is not None]
            node.graph.remove(node, safe=True)


def _drop_initializer(value: ir.Value) -> None:
    graph = value.graph
    if graph is None or not value.is_initializer() or value.name is None:
        return
    graph.initializers.pop(value.name)
    if value.is_graph_input():
        graph.inputs.remove(value)


def _bias_name(weight: str) -> str:
    return f"{weight.removesuffix('.weight')}.bias" if weight.endswith(".weight") else f"{weight}_bias"


def _native(view: View) -> ir.Node:
    if not isinstance(view.node, ir.Node):
        raise TypeError(f"not an ONNX node: {view.node!r}")
    return view.node


def _operand(node: ir.Node, slot: int) -> ir.Value:
    value = node.inputs[slot]
    if value is None:
        raise ValueError(f"{node.op_type} has no input {slot}")
    return value


def position(node: ir.Node, value: object) -> int:
    """Index of ``value`` among the inputs of ``node``."""
    return next(k for k, operand in enumerate(node.inputs) if operand is value)
