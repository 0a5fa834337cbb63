"""What each operation on codes is on numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.dequantize.dequantizer import Dequantizer, Handler
from normfold.backends.onnx.dequantize.steps import Steps, operand, refused, steps_of, tensor_of
from normfold.backends.onnx.lift.blocks import unpacked_blocks

TO_FIRST: Final = (0, 3, 1, 2)
TO_LAST: Final = (0, 2, 3, 1)
WINDOW: Final = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "ceil_mode", "count_include_pad")


def _quantize(work: Dequantizer, node: ir.Node) -> None:
    """QuantizeLinear: what it reads, with the activation that its range stands for."""
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    number = operand(node, 0)
    if number is None:
        raise refused(node, "it reads nothing")
    work.quantized(node, number, 1, 2, steps_of(node, 1, 2, axis=axis, block=block))


def _dequantize(work: Dequantizer, node: ir.Node) -> None:
    """DequantizeLinear: the numbers themselves."""
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    codes, output = operand(node, 0), node.outputs[0]
    if codes is None or (codes not in work.number and tensor_of(codes) is None):
        return  # codes that come from outside
    steps = steps_of(node, 1, 2, axis=axis, block=block)
    _hand_over(work, node, work.numbers(node, 0, steps), output)


def _dynamic(work: Dequantizer, node: ir.Node) -> None:
    """DynamicQuantizeLinear: what it reads. Its scale and zero point are known at run time alone."""
    number = operand(node, 0)
    if number is None:
        raise refused(node, "it reads nothing")
    if work.simulated:
        copied = work.copied(node)
        number = work.insert(node, "DequantizeLinear", list(copied.outputs), f"{number.name}_rounded")
    work.number[node.outputs[0]] = number


def _hand_over(work: Dequantizer, node: ir.Node, number: ir.Value, output: ir.Value) -> None:
    """Whoever read ``output`` reads ``number``; an output of the graph keeps its name."""
    if output.is_graph_output():
        number = work.insert(node, "Identity", [number], f"{output.name}_handed")
        number.name, output.name = output.name, None
        number.shape, number.type = output.shape, output.type
    elif number.shape is None:
        number.shape = output.shape
    output.replace_all_uses_with(number, replace_graph_outputs=True)


def _bias(work: Dequantizer, node: ir.Node, slot: int, scales: Sequence[Steps | None]) -> ir.Value | None:
    """A bias in steps of both scales' product, as numbers."""
    value = operand(node, slot)
    if value is None:
        return None
    held = tensor_of(value)
    if held is None or any(one is None for one in scales):
        raise refused(node, "its bias or a scale is computed")
    unit = np.ones((), np.float64)
    for one in scales:
        unit = unit * (np.ones(()) if one is None else one.scale.reshape(-1).astype(np.float64))
    kind = next(one.scale.dtype for one in scales if one is not None)
    numbers = (held.numpy().astype(np.float64).reshape(-1) * unit.reshape(-1)).astype(kind)
    return work.constant(ir.Tensor(numbers.reshape(held.shape.numpy())), f"{value.name}_numbers")


def _done(work: Dequantizer, node: ir.Node, number: ir.Value, scale: int) -> None:
    """``number`` is what the codes that ``node`` makes stand for; their scale is its input ``scale``."""
    work.quantized(node, number, scale, scale + 1, steps_of(node, scale, scale + 1))


def _convolution(work: Dequantizer, node: ir.Node) -> None:
    """QLinearConv, of ONNX Runtime's domain with its channels last, too."""
    x, w = steps_of(node, 1, 2), steps_of(node, 4, 5, axis=0)
    last = node.attributes.get_int("channels_last", 0) == 1
    data = _moved(work, node, work.numbers(node, 0, x), TO_FIRST if last else None)
    inputs = [data, work.numbers(node, 3, w), _bias(work, node, 8, (x, w))]
    made = work.insert(node, "Conv", inputs, f"{node.outputs[0].name}_numbers", **_kept(node, WINDOW))
    _done(work, node, _moved(work, node, made, TO_LAST if last else None), 6)


def _moved(work: Dequantizer, node: ir.Node, value: ir.Value, order: tuple[int, ...] | None) -> ir.Value:
    if order is None:
        return value
    return work.insert(node, "Transpose", [value], f"{value.name}_moved", perm=list(order))


def _kept(node: ir.Node, names: Sequence[str]) -> dict[str, Any]:
    """Those attributes of ``node``."""
    return {name: node.attributes[name].value for name in names if name in node.attributes}


def _product(work: Dequantizer, node: ir.Node) -> None:
    """QLinearMatMul."""
    a, b = steps_of(node, 1, 2, axis=-2), steps_of(node, 4, 5, axis=-1)
    inputs: list[ir.Value | None] = [work.numbers(node, 0, a), work.numbers(node, 3, b)]
    _done(work, node, work.insert(node, "MatMul", inputs, f"{node.outputs[0].name}_numbers"), 6)


def _gemm(work: Dequantizer, node: ir.Node) -> None:
    """QGemm: with or without an output that is quantised."""
    transposed = node.attributes.get_int("transB", 0) == 1
    a, b = steps_of(node, 1, 2), steps_of(node, 4, 5, axis=0 if transposed else 1)
    alpha = node.attributes.get_float("alpha", 1.0)
    bias = _bias(work, node, 6, (a, b))
    given: dict[str, Any] = {**_kept(node, ("transA", "transB")), "alpha": alpha, "beta": alpha}
    inputs = [work.numbers(node, 0, a), work.numbers(node, 3, b), bias]
    made = work.insert(node, "Gemm", inputs[: 2 if bias is None else 3], f"{node.outputs[0].name}_numbers", **given)
    if operand(node, 7) is None:
        _hand_over(work, node, made, node.outputs[0])
    else:
        _done(work, node, made, 7)


def _to_float(work: Dequantizer, node: ir.Node) -> None:
    """MatMulIntegerToFloat and DynamicQuantizeMatMul: a product with a bias, whose output is floating point."""
    dynamic = node.op_type == "DynamicQuantizeMatMul"
    a = None if dynamic else steps_of(node, 2, 4, axis=-2)
    scale, zero = (2, 3) if dynamic else (3, 5)
    b = steps_of(node, scale, zero, axis=-1)
    first = operand(node, 0) if dynamic else work.numbers(node, 0, a)
    made = work.insert(node, "MatMul", [first, work.numbers(node, 1, b)], f"{node.outputs[0].name}_product")
    bias = operand(node, 4 if dynamic else 6)
    if bias is not None:
        made = work.insert(node, "Add", [made, bias], f"{node.outputs[0].name}_sum")
    _hand_over(work, node, made, node.outputs[0])


def _integers(work: Dequantizer, node: ir.Node) -> None:
    """MatMulInteger and ConvInteger of numbers that are quantised as they come."""
    data, codes = operand(node, 0), tensor_of(operand(node, 1))
    zero = tensor_of(operand(node, 3)) if operand(node, 3) is not None else None
    if data is None or data not in work.number or codes is None or (operand(node, 3) is not None and zero is None):
        raise refused(node, "it does not multiply codes of numbers by constant ones")
    axis = -1 if node.op_type == "MatMulInteger" else 0
    zeros = np.zeros((), np.int64) if zero is None else zero.numpy().astype(np.int64)
    ones = np.ones(zeros.size if zeros.size > 1 else (), np.float32)
    weight = Steps(ones, zeros, codes.dtype, axis).numbers(codes)
    work.products[node.outputs[0]] = (work.number[data], weight, "MatMul" if axis else "Conv")


def scaled(work: Dequantizer, node: ir.Node) -> None:
    """What follows a sum of integers: a Cast to numbers, and a Mul by the scales of both operands."""
    held = next(value for value in node.inputs if value in work.products)
    if node.op_type == "Cast":
        work.products[node.outputs[0]] = work.products[held]
        return
    factor = next((value for value in node.inputs if value is not held), None)
    scale = None if factor is None or node.op_type != "Mul" else _constant_part(factor)
    if scale is None:
        raise refused(node, "it reads a sum of integers that it does not scale")
    data, weight, op = work.products[held]
    per = scale.reshape(-1) if op == "MatMul" else scale.reshape(-1, *[1] * (len(weight.shape) - 1))
    numbers = (weight.numpy().astype(np.float64) * per.astype(np.float64)).astype(scale.dtype)
    maker = _maker(node, "ConvInteger") if op == "Conv" else None
    attributes = {} if maker is None else _kept(maker, WINDOW)
    name = f"{node.outputs[0].name}_numbers"
    made = work.insert(node, op, [data, work.constant(ir.Tensor(numbers), f"{name}_weight")], name, **attributes)
    _hand_over(work, node, made, node.outputs[0])


def _constant_part(value: ir.Value) -> np.ndarray[Any, Any] | None:
    """The scale of the weight in a product of it and the scale of numbers that are quantised as they come."""
    node = value.producer()
    if node is None or node.op_type != "Mul":
        return None
    constants = [tensor for tensor in map(tensor_of, node.inputs) if tensor is not None]
    others = [one for one in node.inputs if one is not None and tensor_of(one) is None]
    makers = [one.producer() for one in others]
    if len(constants) != 1 or any(one is None or one.op_type != "DynamicQuantizeLinear" for one in makers):
        return None
    return constants[0].numpy()


def _maker(node: ir.Node, op: str) -> ir.Node | None:
    """The operation ``op`` that a chain of casts leads back to."""
    for value in node.inputs:
        above = None if value is None else value.producer()
        if above is not None and above.op_type == op:
            return above
        if above is not None and above.op_type == "Cast":
            return _maker(above, op)
    return None


def _pair(op: str) -> Handler:
    """QLinearAdd and QLinearMul."""

    def handler(work: Dequantizer, node: ir.Node) -> None:
        a, b = steps_of(node, 1, 2), steps_of(node, 4, 5)
        inputs: list[ir.Value | None] = [work.numbers(node, 0, a), work.numbers(node, 3, b)]
        _done(work, node, work.insert(node, op, inputs, f"{node.outputs[0].name}_numbers"), 6)

    return handler


def _single(op: str, kept: Sequence[str] = ()) -> Handler:
    """Operations of one operand, its scale and zero point, and those of the result."""

    def handler(work: Dequantizer, node: ir.Node) -> None:
        x = steps_of(node, 1, 2)
        last = node.attributes.get_int("channels_last", 0) == 1
        data = _moved(work, node, work.numbers(node, 0, x), TO_FIRST if last else None)
        made = work.insert(node, op, [data], f"{node.outputs[0].name}_numbers", **_kept(node, kept))
        _done(work, node, _moved(work, node, made, TO_LAST if last else None), 3)

    return handler


def _concat(work: Dequantizer, node: ir.Node) -> None:
    """QLinearConcat: each part has a scale of its own."""
    parts = [work.numbers(node, slot, steps_of(node, slot + 1, slot + 2)) for slot in range(2, len(node.inputs), 3)]
    made = work.insert(node, "Concat", [*parts], f"{node.outputs[0].name}_numbers", **_kept(node, ("axis",)))
    _done(work, node, made, 0)


def _where(work: Dequantizer, node: ir.Node) -> None:
    """QLinearWhere."""
    x, y = (work.numbers(node, slot, steps_of(node, slot + 1, slot + 2)) for slot in (1, 4))
    made = work.insert(node, "Where", [operand(node, 0), x, y], f"{node.outputs[0].name}_numbers")
    _done(work, node, made, 7)


def _pool(work: Dequantizer, node: ir.Node) -> None:
    """NhwcMaxPool, which hands on the codes of what it reads."""
    value = operand(node, 0)
    steps = None if value is None else work.steps.get(value)
    data = _moved(work, node, work.numbers(node, 0, steps), TO_FIRST)
    made = work.insert(node, "MaxPool", [data], f"{node.outputs[0].name}_numbers", **_kept(node, WINDOW))
    work.stands(node.outputs[0], _moved(work, node, made, TO_LAST), steps)


def _blocks(work: Dequantizer, node: ir.Node) -> None:
    """MatMulNBits: a product with what the blocks of codes stand for."""
    weight = unpacked_blocks(node, tensor_of)
    scales = tensor_of(operand(node, 2))
    if weight is None or scales is None:
        raise refused(node, "its codes, scales or their order are not constant")
    name = node.outputs[0].name
    held = work.constant(ir.Tensor(np.ascontiguousarray(weight.T).astype(scales.dtype.numpy())), f"{name}_weight")
    made = work.insert(node, "MatMul", [operand(node, 0), held], f"{name}_product")
    bias = operand(node, 5)
    if bias is not None:
        made = work.insert(node, "Add", [made, bias], f"{name}_sum")
    _hand_over(work, node, made, node.outputs[0])


MICROSOFT: Final = "com.microsoft"
BOTH: Final[Mapping[str, Handler]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "QLinearConv": _convolution,
    "QLinearMatMul": _product,
}
"""Operators that ONNX and ONNX Runtime both have."""
OPERATORS: Final[Mapping[tuple[str, str], Handler]] = {
    **{(domain, op): handler for op, handler in BOTH.items() for domain in ("", MICROSOFT)},
    ("", "DynamicQuantizeLinear"): _dynamic,
    ("", "MatMulInteger"): _integers,
    ("", "ConvInteger"): _integers,
    (MICROSOFT, "QGemm"): _gemm,
    (MICROSOFT, "MatMulIntegerToFloat"): _to_float,
    (MICROSOFT, "DynamicQuantizeMatMul"): _to_float,
    (MICROSOFT, "MatMulNBits"): _blocks,
    (MICROSOFT, "QLinearAdd"): _pair("Add"),
    (MICROSOFT, "QLinearMul"): _pair("Mul"),
    (MICROSOFT, "QLinearSigmoid"): _single("Sigmoid"),
    (MICROSOFT, "QLinearLeakyRelu"): _single("LeakyRelu", ("alpha",)),
    (MICROSOFT, "QLinearSoftmax"): _single("Softmax", ("axis",)),
    (MICROSOFT, "QLinearAveragePool"): _single("AveragePool", WINDOW),
    (MICROSOFT, "QLinearGlobalAveragePool"): _single("GlobalAveragePool"),
    (MICROSOFT, "QLinearConcat"): _concat,
    (MICROSOFT, "QLinearWhere"): _where,
    (MICROSOFT, "NhwcMaxPool"): _pool,
}
"""By domain and operator."""


def dequantize(model: ir.Model, *, simulated: bool = False) -> None:
    """Make ``model``, in place, the network in floating point that it stands for.

    With ``simulated`` its quantisers stay, each followed by its inverse: it then computes what it computed before, but
    in floating point between them.

    Raises:
        ModelFileError: ``cannot-dequantize``, an operation on codes has no such form here.
    """
    Dequantizer(model, OPERATORS, scaled, simulated=simulated).run()
