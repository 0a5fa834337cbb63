"""A plan written into a model: what all forms share.

Nodes that stay are left where they are; the others go, and what they made comes from new nodes, in floating point only
where a node that stays, or an output, reads it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from normfold.core.algebra import Window
from normfold.core.integers import steps
from normfold.core.integers.gelu import NAME
from normfold.core.integers.plan import Plan
from normfold.core.integers.ranges import Codes
from normfold.core.integers.steps import Floating, Linear, Step

MICROSOFT: Final = "com.microsoft"


class Emitter(ABC):
    """Writes ``plan`` into ``model``, a copy of the one that the plan's network was read from, and uses it up."""

    def __init__(self, model: ir.Model, plan: Plan) -> None:
        self.model, self.plan = model, plan
        graph = model.graph
        self._nodes = tuple(graph)
        self._originals = {
            value.name: value
            for value in (*graph.inputs, *(out for node in graph for out in node.outputs))
            if value.name
        }
        given = (*graph.inputs, *graph.initializers.values())
        self._floats: dict[str, ir.Value] = {value.name: value for value in given if value.name}
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], ir.Value] = {}
        self._names = {*self._originals, *graph.initializers, *(node.name for node in graph if node.name)}
        self._label = ""

    def write(self) -> ir.Model:
        """The model."""
        self.emit()
        return self.settle()

    def emit(self) -> None:
        """Write every step, beside the nodes that are there."""
        for value in (value for stays in self._staying() for value in (stays.output, *stays.more) if value):
            self._floats[value] = self._originals[value]
        for step in self.plan.network.steps:
            if isinstance(step, Floating):
                continue
            self._label = step.name
            if step in self.plan.integer:
                self.integer(step)
            else:
                self.give(step.output, self.floating(step))

    def settle(self) -> ir.Model:
        """The model with what was written in place of the nodes that go."""
        kept = {self._nodes[place] for step in self._staying() for place in step.nodes}
        old = [node for node in self._nodes if node not in kept]
        self._replace(kept)
        self.model.graph.remove(old, safe=False)
        for node in old:
            node.resize_inputs(0)
        self._sweep()
        self.model.graph.sort()
        return self.model

    def _staying(self) -> list[Floating]:
        return [step for step in self.plan.network.steps if isinstance(step, Floating)]

    def share(self, other: Emitter) -> None:
        """Write into the model of ``other``, with names and constants of which none is twice."""
        self._names, self._constants = other._names, other._constants

    @abstractmethod
    def integer(self, step: Step) -> None:
        """Write ``step``, which runs on codes."""

    @abstractmethod
    def dequantized(self, value: str) -> ir.Value:
        """``value``, of which there are codes, in floating point."""

    def give(self, value: str, made: ir.Value) -> None:
        """``made`` is ``value`` in floating point."""
        self._floats[value] = made

    def float_of(self, value: str) -> ir.Value:
        """``value`` in floating point."""
        if value not in self._floats:
            self._floats[value] = self.dequantized(value)
        return self._floats[value]

    def codes_of(self, value: str) -> Codes:
        """The codes of ``value``."""
        return self.plan.codes[value]

    def constant(self, array: NDArray[Any], name: str = "constant") -> ir.Value:
        """An initializer; equal ones are one."""
        # NumPy makes a scalar of a contiguous array with no axes.
        array = np.asarray(array, order="C")
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._constants:
            fresh = self._fresh(name)
            value = ir.Value(name=fresh, const_value=ir.tensor(array, name=fresh), shape=ir.Shape(array.shape))
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            self.model.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def node(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        name: str = "",
    ) -> ir.Value:
        """The output of a new node, called ``name`` or after the step that is being written."""
        made = ir.node(operator, list(inputs), attributes or {}, domain=domain)
        made.name = self._fresh(f"{self._label}/{operator}")
        made.outputs[0].name = self._fresh(name or f"{self._label}/{operator}_out")
        if domain:
            self.model.opset_imports.setdefault(domain, 1)
        self.model.graph.append(made)
        return made.outputs[0]

    def reshaped(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """``value`` in another shape."""
        return self.node("Reshape", [value, self.constant(np.array(shape, np.int64), "shape")])

    def unrolled(self, rows: ir.Value, source: str, given: ir.Value, channels: int) -> ir.Value:
        """``rows`` of ``channels`` in the leading axes of ``given``, which stands for ``source``."""
        leading = (self.plan.network.shapes[source] or ())[:-1]
        if sum(not isinstance(dim, int) for dim in leading) <= 1:
            return self.reshaped(rows, [*(dim if isinstance(dim, int) else -1 for dim in leading), channels])
        # A zero in the shape would stand for a size of the rows, and there is but one -1.
        places = self.constant(np.arange(len(leading), dtype=np.int64), "axes")
        sizes = self.node("Gather", [self.node("Shape", [given]), places], {"axis": 0})
        last = self.constant(np.array([channels], np.int64), "channels")
        return self.node("Reshape", [rows, self.node("Concat", [sizes, last], {"axis": 0})])

    def like(self, step: steps.Moving, data: ir.Value) -> ir.Value:
        """The native operation of ``step`` on ``data``."""
        native = self._nodes[step.nodes[0]]
        if native.op_type in ("Dropout", "Identity"):
            return self.node("Identity", [data])
        return self.node(native.op_type, [data, *native.inputs[1:]], dict(native.attributes), domain=native.domain)

    def floating(self, step: Step) -> ir.Value:
        """``step`` in floating point."""
        made: ir.Value = FLOATING[type(step)](self, step)
        return made

    def weight(self, step: Linear) -> tuple[ir.Value, ir.Value]:
        """The weight and bias of a step in floating point, as it is to be computed there."""
        return self.constant(step.weight.astype(np.float32), "weight"), self.constant(
            step.bias.astype(np.float32), "bias"
        )

    def clamped(self, step: steps.Clamped, value: ir.Value) -> ir.Value:
        """``value`` cut off as ``step`` says, in floating point."""
        return self.bounded(value, step.low, step.high)

    def bounded(self, value: ir.Value, low: float, high: float) -> ir.Value:
        """``value`` cut off below and above."""
        if low == 0.0 and high == math.inf:
            return self.node("Relu", [value])
        if low == -math.inf and high == math.inf:
            return value
        bounds = [
            None if math.isinf(one) else self.constant(np.asarray(one, np.float32), "bound") for one in (low, high)
        ]
        return self.node("Clip", [value, *bounds])

    def _fresh(self, name: str) -> str:
        found, count = name, 1
        while found in self._names:
            found, count = f"{name}_{count}", count + 1
        self._names.add(found)
        return found

    def _replace(self, kept: set[Any]) -> None:
        """Let what stays read, and hand out, what the new nodes make."""
        outputs = set(self.plan.network.outputs)
        for step in self.plan.network.steps:
            if isinstance(step, Floating):
                continue
            original = self._originals.get(step.output)
            if original is None:
                continue
            # A body inside a node that stays reads it, too: its nodes are no part of this graph.
            read = any(node in kept or node.graph is not self.model.graph for node, _ in original.uses())
            if not read and step.output not in outputs:
                continue
            self._label = step.name
            new = self.float_of(step.output)
            name, original.name = original.name, f"{original.name}/gone"
            if new.is_graph_input() or new.is_initializer() or new.is_graph_output():
                new = self.node("Identity", [new])
            new.name = name
            new.shape, new.type = original.shape, original.type
            original.replace_all_uses_with(new, replace_graph_outputs=True)

    def _sweep(self) -> None:
        """Take out initializers and new nodes that nobody reads."""
        graph = self.model.graph
        while True:
            idle = [node for node in graph if not any(out.uses() or out.is_graph_output() for out in node.outputs)]
            if not idle:
                break
            graph.remove(idle, safe=True)
        unread = [
            name for name, value in graph.initializers.items() if not value.uses() and not value.is_graph_output()
        ]
        for name in unread:
            if not graph.initializers[name].is_graph_input():
                graph.initializers.pop(name)


def window_attributes(window: Window, groups: int | None = None) -> dict[str, Any]:
    """Attributes of a convolution; of a pool without ``groups``."""
    shared: dict[str, Any] = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "pads": [*window.begins, *window.ends],
    }
    return shared if groups is None else shared | {"group": groups}


def _linear(emitter: Emitter, step: Linear) -> ir.Value:
    x = emitter.float_of(step.inputs[0])
    weight, bias = emitter.weight(step)
    if step.window is not None:
        made = emitter.node("Conv", [x, weight, bias], window_attributes(step.window, step.groups))
    elif emitter.plan.network.rank(step.inputs[0]) == 2:
        made = emitter.node("Gemm", [x, weight, bias], {"transB": 1})
    else:
        made = emitter.node("Add", [emitter.node("MatMul", [x, emitter.node("Transpose", [weight])]), bias])
    return emitter.clamped(step, made)


def _transposed(emitter: Emitter, step: steps.Transposed) -> ir.Value:
    attributes = window_attributes(step.window, step.groups)
    if any(step.surplus):
        attributes["output_padding"] = list(step.surplus)
    # [out, in/groups, *taps] is stored as [in, out/groups, *taps].
    rows, columns, *taps = step.weight.shape
    grouped = np.swapaxes(step.weight.reshape(step.groups, rows // step.groups, columns, *taps), 1, 2)
    weight = grouped.reshape(step.groups * columns, rows // step.groups, *taps)
    held = [emitter.constant(one.astype(np.float32), "weight") for one in (weight, step.bias)]
    return emitter.clamped(step, emitter.node("ConvTranspose", [emitter.float_of(step.inputs[0]), *held], attributes))


def _affine(emitter: Emitter, step: steps.Affine) -> ir.Value:
    tail = [1] * (-1 - step.axis) if step.axis is not None else []
    made = emitter.float_of(step.inputs[0])
    for operator, array, neutral in (("Mul", step.scale, 1.0), ("Add", step.shift, 0.0)):
        if (array != neutral).any():
            shape = [*array.shape, *tail] if array.ndim else []
            made = emitter.node(operator, [made, emitter.constant(array.reshape(shape).astype(np.float32))])
    return emitter.clamped(step, made)


def _binary(operator: str) -> Any:
    def write(emitter: Emitter, step: steps.Clamped) -> ir.Value:
        return emitter.clamped(step, emitter.node(operator, [emitter.float_of(value) for value in step.inputs]))

    return write


def _product(emitter: Emitter, step: steps.Product) -> ir.Value:
    """The product; of GELU, where it does not run on codes, what its sigmoid form stands for."""
    if step.operator != NAME or step in emitter.plan.integer:
        made: ir.Value = _binary("Mul")(emitter, step)
        return made
    x = emitter.float_of(step.inputs[0])
    root, one, half = (emitter.constant(np.asarray(number, np.float32)) for number in (math.sqrt(2.0), 1.0, 0.5))
    # In the order in which ONNX Runtime knows it for GELU.
    plus = emitter.node("Add", [emitter.node("Erf", [emitter.node("Div", [x, root])]), one])
    return emitter.clamped(step, emitter.node("Mul", [emitter.node("Mul", [x, plus]), half]))


def _sigmoid(emitter: Emitter, step: steps.Sigmoid) -> ir.Value:
    x = emitter.float_of(step.inputs[0])
    if step.factor != 1.0:
        x = emitter.node("Mul", [x, emitter.constant(np.asarray(step.factor, np.float32))])
    return emitter.node("Sigmoid", [x])


def _max_pool(emitter: Emitter, step: steps.MaxPool) -> ir.Value:
    attributes = window_attributes(step.window) | {"ceil_mode": int(step.ceil)}
    return emitter.node("MaxPool", [emitter.float_of(step.inputs[0])], attributes)


def _average_pool(emitter: Emitter, step: steps.AveragePool) -> ir.Value:
    attributes = window_attributes(step.window)
    del attributes["dilations"]
    return emitter.node("AveragePool", [emitter.float_of(step.inputs[0])], attributes)


def _global_mean(emitter: Emitter, step: steps.GlobalMean) -> ir.Value:
    pooled = emitter.node("GlobalAveragePool", [emitter.float_of(step.inputs[0])])
    return pooled if step.keeps else emitter.node("Flatten", [pooled])


def _concat(emitter: Emitter, step: steps.Concat) -> ir.Value:
    return emitter.node("Concat", [emitter.float_of(value) for value in step.inputs], {"axis": step.axis})


def _moving(emitter: Emitter, step: steps.Moving) -> ir.Value:
    return emitter.like(step, emitter.float_of(step.inputs[0]))


def _leaky(emitter: Emitter, step: steps.Leaky) -> ir.Value:
    return emitter.node("LeakyRelu", [emitter.float_of(step.inputs[0])], {"alpha": step.slope})


def _channel_clamp(emitter: Emitter, step: steps.ChannelClamp) -> ir.Value:
    if step.low.size == 1:
        return emitter.bounded(emitter.float_of(step.inputs[0]), float(step.low[0]), float(step.high[0]))
    made = emitter.float_of(step.inputs[0])
    for operator, bound in (("Max", step.low), ("Min", step.high)):
        if np.isfinite(bound).any():
            array = bound.astype(np.float32).reshape(-1, *[1] * (-1 - step.axis))
            made = emitter.node(operator, [made, emitter.constant(array)])
    return made


def _interleave(emitter: Emitter, step: steps.Interleave) -> ir.Value:
    return interleaved(emitter, step, [emitter.float_of(value) for value in step.inputs])


def interleaved(
    emitter: Emitter, step: steps.Interleave, phases: Sequence[ir.Value], *, last: bool = False
) -> ir.Value:
    """``phases``, whose channels come last or not, put between one another."""
    rank = len(step.strides)
    parts, places = list(step.strides), list(range(1, rank + 1))
    if last:
        joined = emitter.node("Concat", list(phases), {"axis": -1})
        split = [-1, *step.sizes, *parts, step.channels]
        order = [0, *(axis for k in range(rank) for axis in (1 + k, 1 + rank + k)), 1 + 2 * rank]
    else:
        joined = emitter.node("Concat", list(phases), {"axis": 1})
        split = [-1, *parts, step.channels, *step.sizes]
        order = [0, rank + 1, *(axis for k in range(rank) for axis in (rank + 2 + k, places[k]))]
    whole = [size * stride for size, stride in zip(step.sizes, step.strides, strict=True)]
    target = [-1, *whole, step.channels] if last else [-1, step.channels, *whole]
    spread = emitter.reshaped(joined, split)
    return emitter.reshaped(emitter.node("Transpose", [spread], {"perm": order}), target)


def _slice(emitter: Emitter, step: steps.Slice) -> ir.Value:
    return sliced(emitter, step, emitter.float_of(step.inputs[0]), step.axis)


def sliced(emitter: Emitter, step: steps.Slice, value: ir.Value, axis: int) -> ir.Value:
    """``value`` from start to stop along ``axis``."""
    ends = [emitter.constant(np.array([k], np.int64), "index") for k in (step.start, step.stop, axis)]
    return emitter.node("Slice", [value, *ends])


def _select(emitter: Emitter, step: steps.Select) -> ir.Value:
    return selected(emitter, step, emitter.float_of(step.inputs[0]), step.axis)


def selected(emitter: Emitter, step: steps.Select, value: ir.Value, axis: int) -> ir.Value:
    """Elements of ``value`` by index along ``axis``."""
    return emitter.node("Gather", [value, emitter.constant(np.array(step.index, np.int64), "index")], {"axis": axis})


def _widen(emitter: Emitter, step: steps.Widen) -> ir.Value:
    return widened(emitter, step, emitter.float_of(step.inputs[0]))


def widened(
    emitter: Emitter, step: steps.Widen, value: ir.Value, zero: ir.Value | None = None, axis: int = 1
) -> ir.Value:
    """``value`` with more channels along ``axis``, which are ``zero``."""
    rank = emitter.plan.network.rank(step.inputs[0]) or 0
    ends = [step.missing if k == axis else 0 for k in range(rank)]
    pads = emitter.constant(np.array([0] * rank + ends, np.int64), "pads")
    return emitter.node("Pad", [value, pads, *([] if zero is None else [zero])])


def _enlarge(emitter: Emitter, step: steps.Enlarge) -> ir.Value:
    return enlarged(emitter, emitter.float_of(step.inputs[0]), (1, 1, *step.factors))


def enlarged(emitter: Emitter, value: ir.Value, factors: Sequence[int]) -> ir.Value:
    """``value`` with each element repeated."""
    scales = emitter.constant(np.array(factors, np.float32), "scales")
    way = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return emitter.node("Resize", [value, None, scales], way)


FLOATING: Final[Mapping[type[Step], Any]] = {
    Linear: _linear,
    steps.Transposed: _transposed,
    steps.Affine: _affine,
    steps.Sum: _binary("Add"),
    steps.Product: _product,
    steps.Sigmoid: _sigmoid,
    steps.Leaky: _leaky,
    steps.MaxPool: _max_pool,
    steps.AveragePool: _average_pool,
    steps.GlobalMean: _global_mean,
    steps.Concat: _concat,
    steps.Interleave: _interleave,
    steps.Slice: _slice,
    steps.Select: _select,
    steps.Widen: _widen,
    steps.Enlarge: _enlarge,
    steps.Moving: _moving,
    steps.ChannelClamp: _channel_clamp,
}
"""How each kind of step is written in floating point."""
