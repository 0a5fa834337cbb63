"""A quantised model as the network in floating point that it was made of.

Weights are exactly what their codes stand for. Quantisers of activations go: rounding is not part of the network. A
quantiser does one thing that is: where its first code stands for zero it cuts off what is below, and tools take out the
activation that did the same before it. So a Relu comes back where nothing else makes values of at least zero, or a Clip
from 0 to 6 where the codes end at 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.clean.dead import remove_dead
from normfold.backends.onnx.dequantize.steps import Steps, operand, refused, tensor_of
from normfold.backends.onnx.reading.names import Names
from normfold.backends.onnx.write.commit import add_constant

SIX: Final = 6.0
NEAR: Final = 1e-4
"""Relative distance within which the last code of a quantiser stands for six."""
NOT_BELOW_ZERO: Final = frozenset(
    {"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Exp", "Abs", "ReduceL2", "Softplus", "Sqrt", "QLinearSigmoid"}
)
"""Operators that make nothing below zero."""
KEEPING: Final = frozenset(
    {
        "AveragePool",
        "Concat",
        "DepthToSpace",
        "Flatten",
        "Gather",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "ReduceMean",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that make nothing below zero of what is not."""
ON_CODES: Final = KEEPING | {"Max", "Min", "Clip", "Pad", "Resize", "Expand", "Tile", "Upsample"}
"""Operators that mean the same on codes as on numbers."""
PAIR: Final = ("QuantizeLinear", "DequantizeLinear")
Handler = Callable[["Dequantizer", ir.Node], None]
"""Rewrites one node."""


class Dequantizer:
    """Rewrites one model, node by node in topological order.

    ``number`` has for every value of codes the one of numbers that takes its place, and ``steps`` what the codes stand
    for. ``handlers`` are by domain and operator; ``scaled`` is for what reads sums of integers. A simulation keeps the
    quantisers: it computes what ``model`` computes, in floating point.
    """

    def __init__(
        self,
        model: ir.Model,
        handlers: Mapping[tuple[str, str], Handler],
        scaled: Handler,
        *,
        simulated: bool = False,
    ) -> None:
        self.model = model
        self.number: dict[ir.Value, ir.Value] = {}
        self.steps: dict[ir.Value, Steps] = {}
        self.products: dict[ir.Value, tuple[ir.Value, ir.Tensor[Any], str]] = {}
        """Sums of integers: the numbers that were multiplied, by what, and the name of the operator."""
        self._names = Names(model)
        self._handlers = handlers
        self._scaled = scaled
        self.simulated = simulated

    def run(self) -> None:
        """Rewrite all nodes of the main graph."""
        graph = self.model.graph
        for node in list(graph):
            handler = self._handlers.get((node.domain.removeprefix("ai.onnx"), node.op_type))
            if handler is not None:
                handler(self, node)
            elif any(value in self.products for value in node.inputs):
                self._scaled(self, node)
            elif any(value in self.number for value in node.inputs):
                self.on_codes(node)
            elif node.domain == "com.microsoft" and node.op_type.startswith(("Q", "DynamicQuantize")):
                raise refused(node, "there is no such operation in floating point here")
        self._outputs()
        remove_dead(graph)
        for node in () if self.simulated else graph.all_nodes():
            at_the_border = node.op_type in PAIR and node.graph is graph
            if (node.domain.removeprefix("ai.onnx"), node.op_type) in self._handlers and not at_the_border:
                where = "it stands in the body of another operation" if node.graph is not graph else "codes are read"
                raise refused(node, where)

    def numbers(self, node: ir.Node, slot: int, steps: Steps | None) -> ir.Value:
        """The numbers that input ``slot`` of ``node``, codes with ``steps``, stands for."""
        value = operand(node, slot)
        if value is None:
            raise refused(node, f"it has no input {slot}")
        if value in self.number:
            return self.number[value]
        held = tensor_of(value)
        if steps is None:
            raise refused(node, "its scales are computed")
        if held is not None:
            return self.constant(steps.numbers(held), f"{value.name}_numbers")
        # What comes in as codes has to be made numbers at run time.
        scale = self.constant(ir.Tensor(steps.scale), f"{value.name}_scale")
        zero = self.constant(ir.Tensor(steps.zero.astype(steps.dtype.numpy()), dtype=steps.dtype), f"{value.name}_zero")
        attributes = {} if steps.single else {"axis": steps.axis}
        made = self.insert(node, "DequantizeLinear", [value, scale, zero], f"{value.name}_numbers", **attributes)
        self.number[value] = made
        return made

    def constant(self, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """A new initializer."""
        return add_constant(self.model, self.model.graph, tensor, self._names.fresh(name))

    def insert(self, before: ir.Node, op: str, inputs: list[ir.Value | None], name: str, **attributes: Any) -> ir.Value:
        """The value that a new node makes."""
        output = ir.Value(name=self._names.fresh(name))
        given = {key: value for key, value in attributes.items() if value is not None}
        made = ir.node(op, inputs, attributes=given, outputs=[output], name=self._names.fresh(f"{name}_{op}"))
        self.model.graph.insert_before(before, made)
        return output

    def stands(self, codes: ir.Value, number: ir.Value, steps: Steps | None) -> None:
        """Note that ``number`` takes the place of ``codes``."""
        self.number[codes] = number
        if steps is not None:
            self.steps[codes] = steps
        if number.shape is None:
            number.shape = codes.shape

    def quantized(self, node: ir.Node, number: ir.Value, scale: int, zero: int, steps: Steps | None) -> None:
        """Note that ``number`` takes the place of the codes of ``node``; ``scale`` and ``zero`` are inputs of it."""
        codes = node.outputs[0]
        number = self.restrained(node, number, steps)
        if self.simulated:
            inputs = [operand(node, scale), operand(node, zero)]
            axis = node.attributes.get_int("axis", 1) if node.op_type == "QuantizeLinear" else None
            between = self.insert(node, "QuantizeLinear", [number, *inputs], f"{codes.name}_codes", axis=axis)
            number = self.insert(node, "DequantizeLinear", [between, *inputs], f"{codes.name}_numbers", axis=axis)
            for made in (between, number):
                made_by = made.producer()
                if made_by is not None and node.op_type == "QuantizeLinear":
                    made_by.domain = node.domain  # which has 16 bits in any opset
        self.stands(codes, number, steps)

    def restrained(self, node: ir.Node, number: ir.Value, steps: Steps | None) -> ir.Value:
        """``number``, with the activation that the quantiser ``node`` has in its ``steps``."""
        stored = tensor_of(number) is not None or number.is_graph_input()
        if steps is None or not steps.starts_at_zero or stored or _above_zero(number):
            return number
        if abs(steps.high / SIX - 1) < NEAR:
            bounds = [self.constant(ir.Tensor(np.asarray(end, steps.scale.dtype)), "bound") for end in (0.0, SIX)]
            return self.insert(node, "Clip", [number, *bounds], f"{number.name}_clipped")
        return self.insert(node, "Relu", [number], f"{number.name}_activated")

    def on_codes(self, node: ir.Node) -> None:
        """A node that means the same on numbers: it reads those, and its other codes become numbers, too."""
        known = [value for value in node.inputs if value is not None and value in self.number]
        if node.op_type not in ON_CODES or not known:
            raise refused(node, "it reads codes")
        steps = self.steps.get(known[0])
        if steps is not None and not steps.single:
            raise refused(node, "its codes have a scale for each channel")
        kind = None if steps is None else steps.dtype
        made = self.copied(node)
        for slot, value in enumerate(node.inputs):
            held = tensor_of(value)
            if value in self.number or (held is not None and held.dtype == kind and _is_data(node, slot)):
                made.replace_input_with(slot, self.numbers(node, slot, steps))
        if made.op_type == "Pad" and operand(made, 2) is None and steps is not None:
            self._pad_with(made, steps)
        for codes, number in zip(node.outputs, made.outputs, strict=True):
            self.stands(codes, number, steps)

    def copied(self, node: ir.Node) -> ir.Node:
        """A node like ``node`` in front of it, whose outputs are new values."""
        outputs = [ir.Value(name=self._names.fresh(f"{value.name}_numbers")) for value in node.outputs]
        name = self._names.fresh(f"{node.name or outputs[0].name}_numbers")
        made = ir.Node(node.domain, node.op_type, node.inputs, node.attributes.values(), outputs=outputs, name=name)
        self.model.graph.insert_before(node, made)
        return made

    def _pad_with(self, node: ir.Node, steps: Steps) -> None:
        """Where no number is given, codes of zero are put around."""
        first = steps.numbers(ir.Tensor(np.zeros((), np.int64)))
        node.resize_inputs(max(len(node.inputs), 3))
        node.replace_input_with(2, self.constant(first, f"{node.outputs[0].name}_around"))

    def _outputs(self) -> None:
        """Outputs of the graph that are codes stay codes."""
        graph = self.model.graph
        for index, output in enumerate(graph.outputs):
            number = self.number.get(output)
            if number is None:
                continue
            steps = self.steps.get(output)
            if steps is None:
                raise refused(output.producer() or graph[-1], "its codes are an output, and their scale is computed")
            scale = self.constant(ir.Tensor(steps.scale), f"{output.name}_scale")
            zeros = ir.Tensor(steps.zero.astype(steps.dtype.numpy()), dtype=steps.dtype)
            zero, name = self.constant(zeros, f"{output.name}_zero"), output.name
            output.name = self._names.fresh(f"{name}_numbers")
            codes = ir.Value(name=name, shape=output.shape, type=ir.TensorType(steps.dtype))
            attributes = {} if steps.single else {"axis": steps.axis}
            made = ir.node("QuantizeLinear", [number, scale, zero], attributes=attributes, outputs=[codes])
            made.name = self._names.fresh(f"{name}_QuantizeLinear")
            graph.append(made)
            graph.outputs[index] = codes


def _is_data(node: ir.Node, slot: int) -> bool:
    """Whether the input holds codes, not sizes or positions."""
    if node.op_type in ("Max", "Min", "Concat", "Clip"):
        return True
    return slot == 0 or (node.op_type == "Pad" and slot == 2)


def _above_zero(value: ir.Value) -> bool:
    """Whether nothing below zero is made."""
    pending, seen = [value], set[ir.Value]()
    while pending:
        node = (one := pending.pop()).producer()
        if one in seen:
            continue
        seen.add(one)
        if node is None:
            return False
        if node.op_type in NOT_BELOW_ZERO:
            continue
        if node.op_type == "Clip":
            low = tensor_of(operand(node, 1))
            if low is None or float(low.numpy().reshape(-1)[0]) < 0:
                return False
        elif node.op_type in KEEPING:
            wanted = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            pending += [above for above in wanted if above is not None]
        else:
            return False
    return True
