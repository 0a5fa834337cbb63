"""Writes a changed `QuantizedLinear`: scales, mirrored codes and the bias, behind DequantizeLinear nodes of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.lift.linear import bias_vector, gemm_bias
from normfold.backends.onnx.lift.quantized import dequantized
from normfold.backends.onnx.reading.constants import Constants, ExactTensor
from normfold.core.algebra.affine import Array
from normfold.core.laws.quantized import bias_step, mirror, rescale
from normfold.core.views import QuantizedLinear


@dataclass(frozen=True)
class QuantizedWriter:
    """``store`` makes a tensor what a node reads at a slot, and ``fresh`` turns a wanted value name into a free one."""

    constants: Constants
    store: Callable[[ir.Node, int, ir.TensorProtocol, str], None]
    fresh: Callable[[str], str]

    def write(self, view: QuantizedLinear) -> None:
        """Write the scales that the codes of ``view`` have not taken yet, and its bias."""
        node, rows = view.node, view.linear.weight.rows
        factors = np.ones_like(view.codes.scale) if rows is None else view.codes.along_axis(rows)
        if not isinstance(node, ir.Node) or factors is None:
            raise TypeError("not an ONNX node that the fold was proven for")
        scale = rescale(view.codes, factors)
        dequantizer = self._own(node, 1 if node.inputs[0] is view.inputs[0] else 0)
        dtype = self._tensor(dequantizer, 1).dtype
        self._write_codes(view, dequantizer, factors)
        self._write_scales(view, dequantizer, scale)
        if node.op_type == "Gemm":
            for attribute in ("alpha", "beta"):
                node.attributes.pop(attribute, None)
        if view.linear.bias is not None:
            self._write_bias(view, dequantizer, scale, dtype)

    def _own(self, node: ir.Node, slot: int) -> ir.Node:
        """The DequantizeLinear that makes input ``slot`` for ``node`` alone, past operations that only move it."""
        dequantizer, moves = dequantized(node.inputs[slot])
        if dequantizer is None:
            raise TypeError("not a dequantised operand")
        made = [one.outputs[0] for one in (dequantizer, *moves)]
        if all(len(value.uses()) == 1 and not value.is_graph_output() for value in made):
            return dequantizer
        own = self._dequantizer_before(node, slot, dequantizer, dequantizer.inputs)
        for move in moves:
            self._move_before(node, slot, move)
        return own

    def _move_before(self, node: ir.Node, slot: int, like: ir.Node) -> None:
        """Another ``like``, which moves what ``node`` reads at ``slot`` for it alone."""
        operand, old = node.inputs[slot], like.outputs[0]
        if node.graph is None:
            raise TypeError("the node stands in no graph")
        output = ir.Value(name=self.fresh(f"{old.name}_moved"), shape=old.shape, type=old.type)
        inputs = [operand, *like.inputs[1:]]
        made = ir.Node(like.domain, like.op_type, inputs, like.attributes.values(), outputs=[output], name=output.name)
        node.graph.insert_before(node, made)
        node.replace_input_with(slot, output)

    def _dequantizer_before(
        self, node: ir.Node, slot: int, like: ir.Node, inputs: Sequence[ir.Value | None]
    ) -> ir.Node:
        """A DequantizeLinear of ``inputs`` for input ``slot`` of ``node``, with the attributes of ``like``."""
        operand = node.inputs[slot]
        if node.graph is None or operand is None:
            raise TypeError("the node stands in no graph")
        name = self.fresh(f"{operand.name}_dequantized")
        shape = operand.shape if inputs != like.inputs else like.outputs[0].shape
        output = ir.Value(name=name, shape=shape, type=like.outputs[0].type)
        made = ir.Node(like.domain, like.op_type, inputs, like.attributes.values(), outputs=[output], name=name)
        node.graph.insert_before(node, made)
        node.replace_input_with(slot, output)
        return made

    def _write_codes(self, view: QuantizedLinear, dequantizer: ir.Node, factors: Array) -> None:
        """Only where a code changes, or where the codes are not stored as such: a kept payload is kept to the bit."""
        codes, stored = dequantizer.inputs[0], self._tensor(dequantizer, 0)
        if bool((factors > 0).all()) and codes is not None and codes.producer() is None:
            return
        mirrored = np.moveaxis(mirror(view.codes, factors), 0, view.codes.axis)
        tensor = ir.Tensor(np.ascontiguousarray(mirrored).astype(stored.dtype.numpy()), dtype=stored.dtype)
        self.store(dequantizer, 0, tensor, _name(dequantizer, 0))

    def _write_scales(self, view: QuantizedLinear, dequantizer: ir.Node, scale: Array) -> None:
        old = self._tensor(dequantizer, 1)
        shape = tuple(old.shape.numpy())
        if view.codes.single and not _uniform(scale):
            shape = scale.shape
            dequantizer.attributes["axis"] = ir.AttrInt64("axis", view.codes.axis)
            if len(dequantizer.inputs) > 2 and dequantizer.inputs[2] is not None:
                kind = self._tensor(dequantizer, 2).dtype
                zero_points = ir.Tensor(view.codes.zero_point.astype(kind.numpy()), dtype=kind)
                self.store(dequantizer, 2, zero_points, _name(dequantizer, 2))
        values = scale if shape == scale.shape else scale[:1].reshape(shape)
        self.store(dequantizer, 1, ExactTensor(values, old.dtype), _name(dequantizer, 1))

    def _write_bias(self, view: QuantizedLinear, like: ir.Node, scale: Array, dtype: ir.DataType) -> None:
        node = view.linear.node
        if not isinstance(node, ir.Node):
            raise TypeError(f"not an ONNX node: {node!r}")
        name = f"{_name(like, 0)}_bias"
        bias = gemm_bias(view.linear) if node.op_type == "Gemm" else bias_vector(view.linear)
        if view.unit is None:
            self.store(node, 2, ExactTensor(np.ascontiguousarray(bias), dtype), name)
            return
        step = bias_step(view.unit, scale, view.linear.weight.out_channels)
        self.store(node, 2, ExactTensor(np.broadcast_to(bias, step.shape) / step, ir.DataType.INT32), name)
        dequantizer = self._dequantizer_before(node, 2, like, (node.inputs[2],))
        dequantizer.attributes.pop("axis", None)
        if not _uniform(step):
            dequantizer.attributes["axis"] = ir.AttrInt64("axis", 0)
        steps = step[:1].reshape(()) if _uniform(step) else step
        self.store(dequantizer, 1, ExactTensor(steps, dtype), f"{name}_scale")

    def _tensor(self, node: ir.Node, slot: int) -> ir.TensorProtocol:
        value = node.inputs[slot]
        found = f"{node.op_type} has no input {slot}" if value is None else self.constants.find(value)
        if isinstance(found, str):
            raise TypeError(found)
        return found


def _uniform(vector: Array) -> bool:
    return bool((vector == vector[:1]).all())


def _name(node: ir.Node, slot: int) -> str:
    value = node.inputs[slot]
    return (value.name if value is not None else None) or "codes"
