"""A plan with operators of ONNX Runtime's own: bytes from end to end, channels last wherever a kernel wants them so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.integers.emitter import (
    MICROSOFT,
    Emitter,
    enlarged,
    interleaved,
    selected,
    sliced,
    widened,
    window_attributes,
)
from normfold.core.algebra import Window
from normfold.core.integers import steps
from normfold.core.integers.plan import Plan
from normfold.core.integers.ranges import Codes
from normfold.core.integers.steps import Linear, Step

UNIT_WINDOW: Final = Window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))


class ContribEmitter(Emitter):
    """Every value with codes is held as it is, with its channels last, or both, each made when it is first read."""

    def __init__(self, model: ir.Model, plan: Plan) -> None:
        super().__init__(model, plan)
        self._plain: dict[str, ir.Value] = {}
        self._last: dict[str, ir.Value] = {}

    def integer(self, step: Step) -> None:
        """Write ``step`` with integer operators."""
        INTEGER[type(step)](self, step)

    def dequantized(self, value: str) -> ir.Value:
        """``value`` in floating point, in the order of the model."""
        return self.node("DequantizeLinear", [self.plain(value), *self.step_of(value)])

    def step_of(self, value: str) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point of the codes of ``value``."""
        return self.scale_and_zero(self.codes_of(value))

    def scale_and_zero(self, codes: Codes, factor: float = 1.0) -> tuple[ir.Value, ir.Value]:
        """Both as scalars; the scale times ``factor``."""
        scale = self.constant(np.asarray(codes.scale * factor, np.float32), "scale")
        return scale, self.constant(np.asarray(codes.zero, np.uint8), "zero")

    def plain(self, value: str) -> ir.Value:
        """The codes of ``value`` in the order of the model."""
        if value not in self._plain:
            if value in self._last:
                rank = self.rank(value)
                self._plain[value] = self.node(
                    "Transpose", [self._last[value]], {"perm": [0, rank - 1, *range(1, rank - 1)]}
                )
            else:
                self._plain[value] = self.node("QuantizeLinear", [self.float_of(value), *self.step_of(value)])
        return self._plain[value]

    def last(self, value: str) -> ir.Value:
        """The codes of ``value`` with the channels behind all other axes."""
        if value not in self._last:
            rank = self.rank(value)
            self._last[value] = self.node("Transpose", [self.plain(value)], {"perm": [0, *range(2, rank), 1]})
        return self._last[value]

    def is_last(self, value: str) -> bool:
        """Whether ``value`` is there with its channels last."""
        return value in self._last

    def is_plain(self, value: str) -> bool:
        """Whether ``value`` is there in the order of the model."""
        return value in self._plain

    def rank(self, value: str) -> int:
        """Number of axes, known of all values with codes."""
        return len(self.plan.network.shapes[value] or ())

    def put_plain(self, value: str, made: ir.Value) -> None:
        """``made`` are the codes of ``value`` in the order of the model."""
        self._plain[value] = made

    def put_last(self, value: str, made: ir.Value) -> None:
        """``made`` are the codes of ``value`` with the channels last."""
        self._last[value] = made

    def microsoft(self, operator: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        """A node of ONNX Runtime's own."""
        return self.node(operator, inputs, attributes, domain=MICROSOFT)


def _linear(emitter: ContribEmitter, step: Linear) -> None:
    if step.window is not None:
        emitter.put_last(step.output, _cut_off(emitter, step, _convolution(emitter, step, step.window)))
    elif step.output not in emitter.plan.codes:
        emitter.give(step.output, _product_to_float(emitter, step))
    else:
        _product(emitter, step)


def _convolution(emitter: ContribEmitter, step: Linear, window: Window) -> ir.Value:
    source = step.inputs[0]
    return emitter.microsoft(
        "QLinearConv",
        [
            emitter.last(source),
            *emitter.step_of(source),
            *_weight(emitter, step, emitter.plan.weights[step].codes),
            *emitter.step_of(step.output),
            _bias(emitter, step),
        ],
        **window_attributes(window, step.groups),
        channels_last=1,
    )


def _weight(emitter: ContribEmitter, step: Linear, codes: Any) -> tuple[ir.Value, ir.Value, ir.Value]:
    scale = emitter.plan.weights[step].scale
    zero = np.zeros(scale.shape, np.int8)
    return (
        emitter.constant(codes, "weight"),
        emitter.constant(scale, "weight_scale"),
        emitter.constant(zero, "weight_zero"),
    )


def _bias(emitter: ContribEmitter, step: Linear) -> ir.Value:
    return emitter.constant(emitter.plan.weights[step].bias, "bias")


def _product_to_float(emitter: ContribEmitter, step: Linear) -> ir.Value:
    """A product whose result is read in floating point only."""
    source = step.inputs[0]
    coded = emitter.plan.weights[step]
    weight = _weight(emitter, step, np.ascontiguousarray(coded.codes.T))
    x = emitter.plain(source)
    if emitter.rank(source) == 2:
        inputs = [x, *emitter.step_of(source), *weight, _bias(emitter, step)]
        return emitter.microsoft("QGemm", inputs)
    scale = emitter.codes_of(source).scale * coded.scale.astype(np.float64)
    bias = emitter.constant((coded.bias * scale).astype(np.float32), "bias")
    inputs = [x, weight[0], emitter.step_of(source)[0], weight[1], emitter.step_of(source)[1], weight[2], bias]
    return emitter.microsoft("MatMulIntegerToFloat", inputs)


def _product(emitter: ContribEmitter, step: Linear) -> None:
    """A product as a 1x1 convolution over rows: its bias is free there."""
    source = step.inputs[0]
    rank = emitter.rank(source)
    coded = emitter.plan.weights[step]
    x = emitter.plain(source)
    columns = coded.codes.shape[1]
    codes = coded.codes.reshape(*coded.codes.shape, 1, 1)
    rows = x if rank == 4 else emitter.reshaped(x, [1, -1, 1, columns])
    made = emitter.microsoft(
        "QLinearConv",
        [
            rows,
            *emitter.step_of(source),
            *_weight(emitter, step, codes),
            *emitter.step_of(step.output),
            _bias(emitter, step),
        ],
        **window_attributes(UNIT_WINDOW, 1),
        channels_last=1,
    )
    if rank != 4:
        made = emitter.unrolled(made, source, x, coded.codes.shape[0])
    emitter.put_plain(step.output, _cut_off(emitter, step, made))


def _sum(emitter: ContribEmitter, step: steps.Sum) -> None:
    _elementwise(emitter, step, "QLinearAdd")


def _gate(emitter: ContribEmitter, step: steps.Product) -> None:
    _elementwise(emitter, step, "QLinearMul")


def _elementwise(emitter: ContribEmitter, step: steps.Clamped, operator: str) -> None:
    last = any(emitter.is_last(value) for value in step.inputs) and emitter.rank(step.output) > 2
    read, put = (emitter.last, emitter.put_last) if last else (emitter.plain, emitter.put_plain)
    operands = [one for value in step.inputs for one in (read(value), *emitter.step_of(value))]
    made = emitter.microsoft(operator, [*operands, *emitter.step_of(step.output)])
    put(step.output, _cut_off(emitter, step, made))


def _cut_off(emitter: ContribEmitter, step: steps.Clamped, made: ir.Value) -> ir.Value:
    """``made`` within the bounds of ``step``, where its codes reach further."""
    codes = emitter.codes_of(step.output)
    low, high = (int(codes.code(np.asarray(bound))) for bound in (step.low, step.high))
    return _bounded(emitter, made, np.asarray(low, np.uint8), np.asarray(high, np.uint8))


def _bounded(emitter: ContribEmitter, value: ir.Value, low: Any, high: Any) -> ir.Value:
    if (low > 0).any():
        value = emitter.node("Max", [value, emitter.constant(low, "low")])
    if (high < 255).any():
        value = emitter.node("Min", [value, emitter.constant(high, "high")])
    return value


def _channel_clamp(emitter: ContribEmitter, step: steps.ChannelClamp) -> None:
    source = step.inputs[0]
    codes = emitter.codes_of(step.output)
    low, high = codes.code(step.low), codes.code(step.high)
    rank = emitter.rank(source)
    uniform = low.size == 1
    if uniform:
        low, high = low.reshape(()), high.reshape(())
    if rank > 2 and (emitter.is_last(source) or not emitter.is_plain(source)) and (uniform or step.axis == 1 - rank):
        emitter.put_last(step.output, _bounded(emitter, emitter.last(source), low, high))
        return
    tail = [] if uniform else [1] * (-1 - step.axis)
    bounds = [bound.reshape([*bound.shape, *tail]) for bound in (low, high)]
    emitter.put_plain(step.output, _bounded(emitter, emitter.plain(source), *bounds))


def _max_pool(emitter: ContribEmitter, step: steps.MaxPool) -> None:
    attributes = window_attributes(step.window) | {"ceil_mode": int(step.ceil)}
    emitter.put_last(step.output, emitter.microsoft("NhwcMaxPool", [emitter.last(step.inputs[0])], **attributes))


def _average_pool(emitter: ContribEmitter, step: steps.AveragePool) -> None:
    attributes = window_attributes(step.window)
    del attributes["dilations"]
    source = step.inputs[0]
    inputs = [emitter.last(source), *emitter.step_of(source), *emitter.step_of(step.output)]
    emitter.put_last(step.output, emitter.microsoft("QLinearAveragePool", inputs, **attributes, channels_last=1))


def _global_mean(emitter: ContribEmitter, step: steps.GlobalMean) -> None:
    source = step.inputs[0]
    inputs = [emitter.last(source), *emitter.step_of(source), *emitter.step_of(step.output)]
    made = emitter.microsoft("QLinearGlobalAveragePool", inputs, channels_last=1)
    if step.keeps:
        emitter.put_last(step.output, made)
    else:
        emitter.put_plain(step.output, emitter.node("Flatten", [made]))


def _concat(emitter: ContribEmitter, step: steps.Concat) -> None:
    rank = emitter.rank(step.output)
    if rank > 2 and any(emitter.is_last(value) for value in step.inputs):
        axis = -1 if step.axis == 1 - rank else step.axis - 1 if step.axis > 1 - rank else 0
        emitter.put_last(step.output, emitter.node("Concat", [emitter.last(v) for v in step.inputs], {"axis": axis}))
        return
    emitter.put_plain(step.output, emitter.node("Concat", [emitter.plain(v) for v in step.inputs], {"axis": step.axis}))


def _interleave(emitter: ContribEmitter, step: steps.Interleave) -> None:
    phases = [emitter.last(value) for value in step.inputs]
    emitter.put_last(step.output, interleaved(emitter, step, phases, last=True))


def _moving(emitter: ContribEmitter, step: steps.Moving) -> None:
    source, order = step.inputs[0], step.permutation
    rank = len(order or ())
    if order and order == (0, *range(2, rank), 1):
        emitter.put_plain(step.output, emitter.last(source))
    elif order and order == (0, rank - 1, *range(1, rank - 1)):
        emitter.put_last(step.output, emitter.plain(source))
    else:
        emitter.put_plain(step.output, emitter.like(step, emitter.plain(source)))


def _slice(emitter: ContribEmitter, step: steps.Slice) -> None:
    source = step.inputs[0]
    rank = emitter.rank(source)
    if not emitter.is_last(source):
        emitter.put_plain(step.output, sliced(emitter, step, emitter.plain(source), step.axis))
        return
    axis = -1 if step.axis == 1 - rank else step.axis - 1 if step.axis > 1 - rank else 0
    emitter.put_last(step.output, sliced(emitter, step, emitter.last(source), axis))


def _select(emitter: ContribEmitter, step: steps.Select) -> None:
    """Among channels, a convolution with a weight of one for each result: several times as quick as picking bytes."""
    source = step.inputs[0]
    rank = emitter.rank(source)
    if rank != 4 or step.axis != 1 - rank:
        emitter.put_plain(step.output, selected(emitter, step, emitter.plain(source), step.axis))
        return
    size = emitter.plan.network.channels(source, step.axis) or max(step.index) + 1
    weight = np.zeros((len(step.index), size, 1, 1), np.int8)
    weight[np.arange(len(step.index)), list(step.index)] = 1
    unit = emitter.constant(np.ones(len(step.index), np.float32), "unit")
    zero = emitter.constant(np.zeros(len(step.index), np.int8), "weight_zero")
    inputs = [emitter.last(source), *emitter.step_of(source), emitter.constant(weight, "weight"), unit, zero]
    made = emitter.microsoft(
        "QLinearConv", [*inputs, *emitter.step_of(step.output)], **window_attributes(UNIT_WINDOW, 1), channels_last=1
    )
    emitter.put_last(step.output, made)


def _widen(emitter: ContribEmitter, step: steps.Widen) -> None:
    source = step.inputs[0]
    rank, zero = emitter.rank(source), emitter.step_of(source)[1]
    if emitter.is_last(source):
        emitter.put_last(step.output, widened(emitter, step, emitter.last(source), zero, rank - 1))
    else:
        # Where the channels are not last yet, whole planes are copied, which is ten times faster.
        emitter.put_plain(step.output, widened(emitter, step, emitter.plain(source), zero))


def _enlarge(emitter: ContribEmitter, step: steps.Enlarge) -> None:
    """Rows picked twice take an eighth of the time of a Resize that has its channels last."""
    source = step.inputs[0]
    sizes = (emitter.plan.network.shapes[source] or ())[2:]
    made = emitter.last(source)
    if not all(isinstance(size, int) for size in sizes):
        emitter.put_last(step.output, enlarged(emitter, made, (1, *step.factors, 1)))
        return
    for axis, (size, factor) in enumerate(zip(sizes, step.factors, strict=True), 1):
        if factor > 1:
            index = np.repeat(np.arange(int(str(size)), dtype=np.int64), factor)
            made = emitter.node("Gather", [made, emitter.constant(index, "index")], {"axis": axis})
    emitter.put_last(step.output, made)


def _affine(emitter: ContribEmitter, step: steps.Affine) -> None:
    """One map for all channels: an addition of a constant to codes that stand for multiples."""
    source = step.inputs[0]
    last = emitter.is_last(source)
    x = emitter.last(source) if last else emitter.plain(source)
    shift = float(step.shift)
    constant = Codes(abs(shift) or 1.0, int(shift < 0))
    one = emitter.constant(np.asarray(int(shift > 0), np.uint8), "one")
    scaled = emitter.scale_and_zero(emitter.codes_of(source), float(step.scale))
    operands = [x, *scaled, one, *emitter.scale_and_zero(constant), *emitter.step_of(step.output)]
    made = _cut_off(emitter, step, emitter.microsoft("QLinearAdd", operands))
    (emitter.put_last if last else emitter.put_plain)(step.output, made)


def _sigmoid(emitter: ContribEmitter, step: steps.Sigmoid) -> None:
    source = step.inputs[0]
    last = emitter.is_last(source)
    scale = emitter.scale_and_zero(emitter.codes_of(source), step.factor)
    x = emitter.last(source) if last else emitter.plain(source)
    made = emitter.microsoft("QLinearSigmoid", [x, *scale, *emitter.step_of(step.output)])
    (emitter.put_last if last else emitter.put_plain)(step.output, made)


def _leaky(emitter: ContribEmitter, step: steps.Leaky) -> None:
    source = step.inputs[0]
    last = emitter.is_last(source)
    x = emitter.last(source) if last else emitter.plain(source)
    inputs = [x, *emitter.step_of(source), *emitter.step_of(step.output)]
    made = emitter.microsoft("QLinearLeakyRelu", inputs, alpha=step.slope)
    (emitter.put_last if last else emitter.put_plain)(step.output, made)


INTEGER: Final[Mapping[type[Step], Callable[[ContribEmitter, Any], None]]] = {
    Linear: _linear,
    steps.Sum: _sum,
    steps.Product: _gate,
    steps.ChannelClamp: _channel_clamp,
    steps.MaxPool: _max_pool,
    steps.AveragePool: _average_pool,
    steps.GlobalMean: _global_mean,
    steps.Concat: _concat,
    steps.Interleave: _interleave,
    steps.Slice: _slice,
    steps.Select: _select,
    steps.Widen: _widen,
    steps.Enlarge: _enlarge,
    steps.Affine: _affine,
    steps.Moving: _moving,
    steps.Sigmoid: _sigmoid,
    steps.Leaky: _leaky,
}
"""How each kind of step is written with integer operators."""
