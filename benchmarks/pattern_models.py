"""The patterns of the coverage page: small named models, each of which asks one question of a folding tool.

A pattern's body is ONNX text with two shorthands, separated by semicolons: ``BN[6](h)`` is a BatchNormalization
of ``h`` with random statistics of six channels (one in three scales negative; ``BN[6+]`` has positive scales only),
``BN[6, training_mode = 1](h)`` adds attributes. Every other name that nothing computes is a constant: a shape
stands for random numbers of either sign, an array for itself. All numbers depend on the names only.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Constant = tuple[int, ...] | Array

NORM: Final = re.compile(r"BN\[(?P<count>\d+)(?P<sign>\+?)(?P<more>[^\]]*)\]\((?P<x>\w+)\)")
ROLES: Final = ("scale", "bias", "mean", "var")

ORT, SIM, SLIM, SCRIPT, OPTIMIZER = "onnxruntime", "onnxsim", "onnxslim", "onnxscript", "onnxoptimizer"
AIMET, BREVITAS, TORCH = "aimet", "brevitas", "torch"
ONNX_TOOLS: Final = (ORT, SIM, SLIM, SCRIPT, OPTIMIZER)


@dataclass(frozen=True)
class Pattern:
    """One small model.

    Attributes:
        name: what the page calls it.
        body: its nodes.
        constants: shapes or values by name.
        inputs: as in ONNX text.
        outputs: likewise; of float by default.
        told: projects whose tests, or whose known mistakes, describe this wiring.
        counts: what ought to go: ``norms``, ``tails`` (scales and biases of other norms), ``constants`` (operations on
            constants), operator names; joined by ``+``.
        least: how many of those no tool can take out.
    """

    name: str
    body: str
    constants: Mapping[str, Constant] = field(default_factory=dict)
    inputs: str = "float[1, 4, 7, 7] x"
    outputs: str = "float[] y"
    told: tuple[str, ...] = ()
    counts: str = "norms"
    least: int = 0
    opset: int = 17
    statistics: type[np.generic] = np.float32

    def model(self) -> onnx.ModelProto:
        """Build it, with the shapes of its outputs inferred."""
        import onnx
        from onnx import numpy_helper, parser

        constants = {name: self.array(name, value) for name, value in self.constants.items()}
        text = NORM.sub(lambda found: self.norm(found, constants), self.body).replace(";", "\n")
        version = f'<ir_version: {8 if self.opset < 21 else 10}, opset_import: ["": {self.opset}, "com.microsoft": 1]>'
        proto = parser.parse_model(f"{version}\nnet ({self.inputs}) => ({self.outputs}) {{\n{text}\n}}")
        if "com.microsoft." not in self.body:
            del proto.opset_import[1:]
        proto.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
        inferred = onnx.shape_inference.infer_shapes(proto)
        for output, known in zip(proto.graph.output, inferred.graph.output, strict=True):
            output.CopyFrom(known)
        return proto

    def norm(self, found: re.Match[str], constants: dict[str, Array]) -> str:
        """The node that a shorthand stands for; its statistics go into ``constants``."""
        count, start = int(found["count"]), len(constants)
        names = [f"{role}_{start}" for role in ROLES]
        for role, name in zip(ROLES, names, strict=True):
            values = numbers(name, (count,))
            if role == "var" or found["sign"]:
                values = np.abs(values) if role in {"var", "scale"} else values
            elif role == "scale":
                values = np.abs(values) * np.where(np.arange(count) % 3 == 1, -1, 1)
            constants[name] = values.astype(self.statistics)
        attributes = ", ".join(["epsilon = 0.001", *filter(None, [found["more"].strip(", ")])])
        return f"BatchNormalization <{attributes}> ({found['x']}, {', '.join(names)})"

    @staticmethod
    def array(name: str, value: Constant) -> Array:
        """Turn a shape into random numbers; leave an array alone."""
        return numbers(name, value).astype(np.float32) if isinstance(value, tuple) else value


def numbers(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers of either sign whose magnitude is neither tiny nor large."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), *shape])
    return rng.uniform(0.25, 1.5, shape) * rng.choice([-1, 1], shape)


def ints(*values: int) -> Array:
    """Whole numbers, as shapes and axes are."""
    return np.array(values, np.int64)


def positive(*shape: int) -> Array:
    """Numbers above zero."""
    return np.abs(numbers("positive", shape)).astype(np.float32)


def codes(*shape: int) -> Array:
    """Symmetric int8 codes."""
    rng = np.random.default_rng([8, *shape])
    return rng.integers(-127, 128, shape).astype(np.int8)


def steps(count: int) -> Array:
    """Steps of quantised channels."""
    return np.linspace(0.01, 0.03, count, dtype=np.float32)


def half(*shape: int) -> Array:
    """Half-precision numbers."""
    return numbers("half", shape).astype(np.float16)


def scalar(value: float) -> Array:
    """One number without axes."""
    return np.array(value, np.float32)


SAME: Final = "pads = [1, 1, 1, 1]"
W: Final = {"w": (6, 4, 3, 3)}
ONE: Final = {"w": (6, 4, 1, 1)}
ROWS: Final = "float[5, 4] x"
TOKENS: Final = "float[2, 5, 4] x"
SIGNAL: Final = "float[2, 4, 5] x"
MATRIX: Final = {"w": (4, 6)}
CHANNEL: Final = (6, 1, 1)

PRODUCERS: Final = (
    Pattern("Conv -> BN", f"h = Conv <{SAME}> (x, w); y = BN[6](h)", W, told=(*ONNX_TOOLS, AIMET, BREVITAS)),
    Pattern("Conv with bias -> BN", f"h = Conv <{SAME}> (x, w, c); y = BN[6](h)", W | {"c": (6,)}, told=ONNX_TOOLS),
    Pattern("Conv with an empty bias -> BN", 'h = Conv (x, w, ""); y = BN[6](h)', W, told=(SCRIPT,)),
    Pattern(
        "Conv (1-D) -> BN",
        "h = Conv <pads = [1, 1]> (x, w); y = BN[6](h)",
        {"w": (6, 4, 3)},
        "float[1, 4, 9] x",
        told=(AIMET, BREVITAS),
    ),
    Pattern(
        "Conv (3-D) -> BN",
        "h = Conv (x, w); y = BN[6](h)",
        {"w": (6, 4, 2, 2, 2)},
        "float[1, 4, 4, 4, 4] x",
        told=(AIMET, BREVITAS),
    ),
    Pattern(
        "Conv (grouped) -> BN", f"h = Conv <group = 2, {SAME}> (x, w); y = BN[6](h)", {"w": (6, 2, 3, 3)}, told=(AIMET,)
    ),
    Pattern("Conv (depthwise) -> BN", f"h = Conv <group = 4, {SAME}> (x, w); y = BN[4](h)", {"w": (4, 1, 3, 3)}),
    Pattern(
        "ConvTranspose -> BN",
        "h = ConvTranspose <strides = [2, 2]> (x, w); y = BN[6](h)",
        {"w": (4, 6, 3, 3)},
        told=(ORT, SLIM, SCRIPT, AIMET, BREVITAS),
    ),
    Pattern(
        "ConvTranspose (grouped) -> BN",
        "h = ConvTranspose <group = 2> (x, w); y = BN[6](h)",
        {"w": (4, 3, 3, 3)},
        told=(AIMET, "coremltools"),
    ),
    Pattern(
        "Conv -> Mul per channel",
        f"h = Conv <{SAME}> (x, w, c); y = Mul(h, k)",
        W | {"c": (6,), "k": CHANNEL},
        told=(ORT, SIM, SLIM, OPTIMIZER),
    ),
    Pattern(
        "Conv -> Mul by a number",
        "h = Conv(x, w, c); y = Mul(h, k)",
        W | {"c": (6,), "k": scalar(0.5)},
        told=(ORT, SCRIPT),
        counts="Mul",
    ),
    Pattern(
        "Conv -> Add per channel",
        "h = Conv(x, w); y = Add(h, k)",
        W | {"k": CHANNEL},
        told=(ORT, SLIM, OPTIMIZER),
        counts="Add",
    ),
    Pattern(
        "Conv -> Mul -> Add per channel",
        "h = Conv(x, w); t = Mul(h, k); y = Add(t, d)",
        W | {"k": CHANNEL, "d": CHANNEL},
        told=(ORT, SLIM),
    ),
    Pattern(
        "Conv -> Sub -> Div -> Mul -> Add (a BN written out)",
        "h = Conv(x, w); c = Sub(h, m); q = Sqrt(v); n = Div(c, q); t = Mul(n, k); y = Add(t, d)",
        W | {"m": CHANNEL, "v": positive(6, 1, 1), "k": CHANNEL, "d": CHANNEL},
    ),
    Pattern("Conv -> Identity -> BN", "h = Conv(x, w); i = Identity(h); y = BN[6](i)", W, told=ONNX_TOOLS),
    Pattern("Conv -> Dropout -> BN", "h = Conv(x, w); i = Dropout(h); y = BN[6](i)", W),
    Pattern("Conv -> BN -> BN", "h = Conv(x, w); t = BN[6](h); y = BN[6](t)", W),
    Pattern(
        "Conv -> BN -> Mul -> Add",
        "h = Conv(x, w); n = BN[6](h); t = Mul(n, k); y = Add(t, d)",
        W | {"k": CHANNEL, "d": CHANNEL},
    ),
    Pattern(
        "Conv -> LayerScale -> Add of the input",
        f"h = Conv <{SAME}> (x, w); t = Mul(h, k); y = Add(t, x)",
        {"w": (4, 4, 3, 3), "k": (4, 1, 1)},
        told=(SLIM,),
    ),
    Pattern(
        "Conv -> BN, weight computed from constants",
        "w = Transpose <perm = [3, 2, 0, 1]> (w0); h = Conv(x, w); y = BN[6](h)",
        {"w0": (3, 3, 4, 6)},
    ),
    Pattern(
        "One weight in two Conv, each with its BN",
        "a = Conv(x, w); g = Conv(x, w); p = BN[6](a); q = BN[6](g); r = Relu(p); y = Mul(r, q)",
        W,
        told=(AIMET, BREVITAS, TORCH),
    ),
    Pattern(
        "Gemm -> BN",
        "h = Gemm <transB = 1> (x, w, c); y = BN[6](h)",
        {"w": (6, 4), "c": (6,)},
        ROWS,
        told=(ORT, SCRIPT, AIMET, BREVITAS),
    ),
    Pattern(
        "Gemm with alpha and beta -> BN",
        "h = Gemm <alpha = 0.5, beta = 2.0> (x, w, c); y = BN[6](h)",
        MATRIX | {"c": (6,)},
        ROWS,
        told=(SCRIPT,),
    ),
    Pattern("MatMul of matrices -> BN", "h = MatMul(x, w); y = BN[6](h)", MATRIX, ROWS, told=(ORT,)),
    Pattern(
        "MatMul -> Add -> BN", "h = MatMul(x, w); t = Add(h, c); y = BN[6](t)", MATRIX | {"c": (6,)}, ROWS, told=(SLIM,)
    ),
    Pattern(
        "MatMul -> Mul -> Add of tokens",
        "h = MatMul(x, w); t = Mul(h, k); y = Add(t, d)",
        MATRIX | {"k": (6,), "d": (6,)},
        TOKENS,
    ),
    Pattern(
        "MatMul -> Add -> LayerScale -> Add of the input",
        "h = MatMul(x, w); t = Add(h, c); s = Mul(t, k); y = Add(s, x)",
        {"w": (4, 4), "c": (4,), "k": (4,)},
        TOKENS,
    ),
    Pattern(
        "MatMul -> Transpose -> BN over its output axis",
        "h = MatMul(x, w); t = Transpose <perm = [0, 2, 1]> (h); y = BN[6](t)",
        MATRIX,
        TOKENS,
        told=(ORT,),
    ),
    Pattern(
        "MatMul -> Reshape -> BN over its output axis",
        "h = MatMul(x, w); t = Reshape(h, to); y = BN[6](t)",
        MATRIX | {"to": ints(10, 6)},
        TOKENS,
        told=(ORT,),
    ),
    Pattern(
        "MatMul with the constant first -> BN over its rows", "h = MatMul(w, x); y = BN[6](h)", {"w": (6, 5)}, TOKENS
    ),
    Pattern(
        "Conv -> BN in double precision",
        "h = Conv(x, w); y = BN[6](h)",
        {"w": numbers("w", (6, 4, 3, 3))},
        "double[1, 4, 7, 7] x",
        "double[] y",
        told=(OPTIMIZER,),
        statistics=np.float64,
    ),
    Pattern(
        "Conv -> BN in half precision",
        "h = Conv(x, w); y = BN[6](h)",
        {"w": half(6, 4, 1, 1)},
        "float16[1, 4, 7, 7] x",
        "float16[] y",
        statistics=np.float16,
    ),
    Pattern(
        "Conv in half precision -> BN with float32 statistics",
        "h = Conv(x, w); y = BN[6](h)",
        {"w": half(6, 4, 1, 1)},
        "float16[1, 4, 7, 7] x",
        "float16[] y",
        told=(SLIM, SCRIPT),
    ),
    Pattern(
        "Conv -> LayerScale of ones -> Add of the input",
        f"h = Conv <{SAME}> (x, w); t = Mul(h, k); y = Add(t, x)",
        {"w": (4, 4, 3, 3), "k": np.ones((4, 1, 1), np.float32)},
    ),
    Pattern(
        "Conv with other readers, all norms",
        "h = Conv(x, w); p = BN[6](h); q = BN[6](h); r = Relu(p); y = Mul(r, q)",
        W,
        told=(AIMET, "torchao"),
    ),
    Pattern(
        "Embedding -> Transpose -> BN",
        "i = Cast <to = 7> (x); e = Gather(t, i); s = Transpose <perm = [0, 2, 1]> (e); y = BN[4](s)",
        {"t": (9, 4)},
        "float[2, 5] x",
    ),
)
"""Into the linear operation before the norm."""

START: Final = "r = Sigmoid(x); "
BACK: Final = {"w": (3, 4, 3, 3)}
CONSUMERS: Final = (
    Pattern("BN -> Conv without padding", START + "n = BN[4](r); y = Conv(n, w)", BACK, told=(AIMET,)),
    Pattern(
        "Conv -> Relu -> BN -> Conv without padding",
        "h = Conv(x, v, c); r = Relu(h); n = BN[6](r); y = Conv(n, w)",
        {"v": (6, 4, 3, 3), "c": (6,), "w": (3, 6, 3, 3)},
        told=(AIMET,),
    ),
    Pattern(
        "BN -> Conv (grouped), strided, dilated",
        START + "n = BN[4](r); y = Conv <group = 2, strides = [2, 1], dilations = [1, 2]> (n, w)",
        {"w": (6, 2, 3, 3)},
        told=(AIMET,),
    ),
    Pattern("BN -> Conv (depthwise)", START + "n = BN[4](r); y = Conv <group = 4> (n, w)", {"w": (4, 1, 3, 3)}),
    Pattern("BN -> Conv with padding", START + f"n = BN[4](r); y = Conv <{SAME}> (n, w)", BACK, told=(AIMET,)),
    Pattern(
        "Mul per channel -> Conv with padding",
        START + f"n = Mul(r, k); y = Conv <{SAME}> (n, w)",
        BACK | {"k": (4, 1, 1)},
    ),
    Pattern(
        "Mul -> Add by numbers -> Conv",
        "t = Mul(x, k); n = Add(t, d); y = Conv(n, w, c)",
        BACK | {"k": scalar(0.5), "d": scalar(-0.25), "c": (3,)},
        told=(SCRIPT,),
        counts="Mul+Add",
    ),
    Pattern(
        "BN -> Pad -> Conv, the same shift / scale in all channels",
        START + "n = BatchNormalization(r, k, d, o, one); p = Pad(n, pads); y = Conv(p, w)",
        BACK
        | {"k": (4,), "d": numbers("k", (4,)).astype(np.float32) / 2, "o": np.zeros(4, np.float32)}
        | {"one": np.ones(4, np.float32), "pads": ints(0, 0, 1, 1, 0, 0, 1, 1)},
    ),
    Pattern(
        "BN -> ConvTranspose whose taps all meet",
        START + "n = BN[4](r); y = ConvTranspose <pads = [2, 2, 2, 2]> (n, w)",
        {"w": (4, 3, 3, 3)},
        told=(AIMET,),
    ),
    Pattern(
        "BN -> ConvTranspose, strided",
        START + "n = BN[4](r); y = ConvTranspose <strides = [2, 2]> (n, w)",
        {"w": (4, 3, 3, 3)},
        told=(AIMET,),
    ),
    Pattern(
        "BN -> Gemm",
        START + "n = BN[4](r); y = Gemm <transB = 1> (n, w, c)",
        {"w": (6, 4), "c": (6,)},
        ROWS,
        told=(AIMET,),
    ),
    Pattern(
        "Gemm -> Relu -> BN -> Gemm",
        "h = Gemm(x, v, c); r = Relu(h); n = BN[6](r); y = Gemm(n, w, d)",
        {"v": (4, 6), "c": (6,), "w": (6, 3), "d": (3,)},
        ROWS,
        told=(AIMET,),
    ),
    Pattern("BN -> MatMul", START + "n = BN[4](r); y = MatMul(n, w)", MATRIX, ROWS),
    Pattern(
        "Mul -> Add -> MatMul -> Add of tokens",
        START + "t = Mul(r, k); n = Add(t, d); h = MatMul(n, w); y = Add(h, c)",
        MATRIX | {"k": (4,), "d": (4,), "c": (6,)},
        TOKENS,
    ),
    Pattern(
        "BN -> Flatten -> Gemm",
        START + "n = BN[4](r); f = Flatten(n); y = Gemm(f, w, c)",
        {"w": (196, 3), "c": (3,)},
        told=(AIMET,),
    ),
    Pattern(
        "BN -> two Conv",
        START + "n = BN[4](r); a = Conv(n, w); g = Conv(n, u); y = Concat <axis = 1> (a, g)",
        BACK | {"u": (5, 4, 3, 3)},
    ),
    Pattern("BN -> Conv and the output", START + "n = BN[4](r); y = Conv(n, w)", BACK, outputs="float[] y, float[] n"),
    Pattern(
        "Conv -> Relu -> BN -> Conv with padding -> BN",
        f"h = Conv(x, v, c); r = Relu(h); n = BN[6](r); g = Conv <{SAME}> (n, w); y = BN[3](g)",
        {"v": (6, 4, 3, 3), "c": (6,), "w": (3, 6, 3, 3)},
    ),
    Pattern(
        "BN -> Transpose -> LSTM",
        START + "n = BN[4](r); s = Transpose <perm = [2, 0, 1]> (n); y, h, c = LSTM <hidden_size = 3> (s, w, u, b)",
        {"w": (1, 12, 4), "u": (1, 12, 3), "b": (1, 24)},
        SIGNAL,
    ),
    Pattern(
        "BN -> Transpose -> GRU in both directions, without a bias",
        START
        + "n = BN[4](r); s = Transpose <perm = [2, 0, 1]> (n); "
        + 'y, h = GRU <direction = "bidirectional", hidden_size = 3, linear_before_reset = 1> (s, w, u)',
        {"w": (2, 9, 4), "u": (2, 9, 3)},
        SIGNAL,
    ),
)
"""Into the linear operations after it."""

BOTH: Final = f"y = Conv <{SAME}> (n, u); z = Tanh(n)"
TWO: Final = "float[] y, float[] z"
HEAD: Final = W | {"c": (6,), "u": (3, 6, 3, 3)}
SIX: Final = {"low": scalar(0), "high": scalar(6)}
ACTIVATIONS: Final = (
    Pattern(
        "Conv -> Relu -> Mul, positive",
        "h = Conv(x, w, c); r = Relu(h); n = Mul(r, k); " + BOTH,
        HEAD | {"k": positive(6, 1, 1)},
        outputs=TWO,
    ),
    Pattern(
        "Conv -> Relu -> Mul, some negative",
        "h = Conv(x, w, c); r = Relu(h); n = Mul(r, k); " + BOTH,
        HEAD | {"k": CHANNEL},
        outputs=TWO,
    ),
    Pattern(
        "Conv -> LeakyRelu -> Mul, positive",
        "h = Conv(x, w, c); r = LeakyRelu <alpha = 0.1> (h); n = Mul(r, k); " + BOTH,
        HEAD | {"k": positive(6, 1, 1)},
        outputs=TWO,
    ),
    Pattern(
        "Conv -> PRelu -> Mul, positive",
        "h = Conv(x, w, c); r = PRelu(h, p); n = Mul(r, k); " + BOTH,
        HEAD | {"p": CHANNEL, "k": positive(6, 1, 1)},
        outputs=TWO,
    ),
    Pattern(
        "Conv -> Relu -> Mul -> Add, positive",
        "h = Conv(x, w, c); r = Relu(h); t = Mul(r, k); n = Add(t, d); y = Sigmoid(n)",
        W | {"c": (6,), "k": positive(6, 1, 1), "d": CHANNEL},
    ),
    Pattern(
        "Mul -> Relu -> Conv with padding, positive",
        f"h = Conv(x, v); z = Tanh(h); n = Mul(h, k); a = Relu(n); y = Conv <{SAME}> (a, w)",
        {"v": (6, 4, 3, 3), "w": (3, 6, 3, 3), "k": positive(6, 1, 1)},
        outputs=TWO,
    ),
    Pattern(
        "BN -> Relu -> Conv, positive (pre-activation)", f"n = BN[4+](x); r = Relu(n); y = Conv <{SAME}> (r, w)", BACK
    ),
    Pattern(
        "BN -> Relu -> Conv, some negative (pre-activation)",
        f"n = BN[4](x); r = Relu(n); y = Conv <{SAME}> (r, w)",
        BACK,
    ),
    Pattern(
        "Conv -> Clip -> Mul by a number",
        "h = Conv(x, w, c); r = Clip(h, low, high); n = Mul(r, k); " + BOTH,
        HEAD | SIX | {"k": np.full((6, 1, 1), 2, np.float32)},
        outputs=TWO,
    ),
    Pattern(
        "Conv -> Clip -> Mul per channel",
        "h = Conv(x, w, c); r = Clip(h, low, high); n = Mul(r, k); " + BOTH,
        HEAD | SIX | {"k": positive(6, 1, 1)},
        outputs=TWO,
    ),
    Pattern(
        "Conv -> gate -> Mul per channel",
        "h = Conv(x, w); e = Conv(x, v); s = Sigmoid(e); g = Mul(h, s); n = Mul(g, k); " + BOTH,
        {"w": (6, 4, 3, 3), "v": (6, 4, 3, 3), "u": (3, 6, 3, 3), "k": CHANNEL},
        outputs=TWO,
    ),
    Pattern(
        "Conv -> Relu -> BN -> MaxPool",
        "h = Conv(x, w, c); r = Relu(h); n = BN[6+](r); y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (n)",
        W | {"c": (6,)},
    ),
    Pattern(
        "Conv -> HardSwish -> BN -> Conv",
        "h = Conv(x, v, c); r = HardSwish(h); n = BN[6](r); y = Conv(n, w)",
        {"v": (6, 4, 3, 3), "c": (6,), "w": (3, 6, 1, 1)},
    ),
    Pattern("Sigmoid -> BN -> Tanh", START + "n = BN[4](r); y = Tanh(n)"),
    Pattern("BN alone", "y = BN[4](x)", told=(AIMET,)),
)
"""Through activations."""

SHUFFLE: Final = "a = Reshape(h, split); g = Transpose <perm = [0, 2, 1, 3, 4]> (a); f = Reshape(g, join); "
ROUTES: Final = (
    Pattern(
        "Conv -> Transpose -> Mul -> Add over the channels, now last",
        "h = Conv(x, w); t = Transpose <perm = [0, 2, 3, 1]> (h); s = Mul(t, k); y = Add(s, d)",
        W | {"k": (6,), "d": (6,)},
    ),
    Pattern(
        "Conv -> Transpose -> BN over the channels, in place two",
        "h = Conv(x, w); f = Reshape(h, to); t = Transpose <perm = [2, 1, 0]> (f); y = BN[6](t)",
        W | {"to": ints(1, 6, 25)},
    ),
    Pattern(
        "Conv -> channel shuffle -> BN",
        "h = Conv(x, w); " + SHUFFLE + "y = BN[6](f)",
        W | {"split": ints(1, 2, 3, 5, 5), "join": ints(1, 6, 5, 5)},
    ),
    Pattern(
        "BN -> channel shuffle -> Conv",
        "h = Sigmoid(x); n = BN[6](h); " + SHUFFLE.replace("(h,", "(n,") + "y = Conv(f, w)",
        {"w": (3, 6, 3, 3), "split": ints(1, 2, 3, 5, 5), "join": ints(1, 6, 5, 5)},
        "float[1, 6, 5, 5] x",
    ),
    Pattern(
        "Conv -> Squeeze -> BN",
        "h = Conv(x, w); s = Squeeze(h, axes); y = BN[6](s)",
        {"w": (6, 4, 7, 7), "axes": ints(2, 3)},
    ),
    Pattern(
        "Conv -> Slice of channels -> BN",
        "h = Conv(x, w); s = Slice(h, from, to, axes); y = BN[4](s)",
        W | {"from": ints(1), "to": ints(5), "axes": ints(1)},
    ),
    Pattern(
        "Conv -> Split -> BN on each part",
        "h = Conv(x, w); a, g = Split <axis = 1> (h, parts); p = BN[2](a); q = BN[4](g); y = Concat <axis = 1> (p, q)",
        W | {"parts": ints(2, 4)},
    ),
    Pattern(
        "BN -> Split -> two Conv",
        START + "n = BN[4](r); a, g = Split <axis = 1> (n, parts); p = Conv(a, w); q = Conv(g, u); y = Add(p, q)",
        {"w": (3, 1, 3, 3), "u": (3, 3, 3, 3), "parts": ints(1, 3)},
    ),
    Pattern(
        "Concat of Conv -> BN",
        "a = Conv(x, w); g = Conv(x, u); h = Concat <axis = 1> (a, g); y = BN[8](h)",
        W | {"u": (2, 4, 3, 3)},
    ),
    Pattern(
        "Concat of Conv and the input -> BN -> Conv",
        "a = Conv(x, w); h = Concat <axis = 1> (a, x); n = BN[10](h); y = Conv(n, u)",
        {"w": (6, 4, 1, 1), "u": (3, 10, 3, 3)},
    ),
    Pattern(
        "Concat of Conv and the input -> BN -> Relu",
        "a = Conv(x, w); h = Concat <axis = 1> (a, x); n = BN[10](h); y = Relu(n)",
        ONE,
    ),
    Pattern(
        "Add of Conv -> BN",
        "r = Sigmoid(x); a = Conv(x, w); g = Conv(r, u); h = Add(a, g); y = BN[6](h)",
        W | {"u": (6, 4, 3, 3)},
    ),
    Pattern(
        "Add of Conv and the input -> BN",
        "a = Conv(x, w); h = Add(a, x); n = BN[4](h); y = Sigmoid(n)",
        {"w": (4, 4, 1, 1)},
    ),
    Pattern(
        "Conv -> AveragePool -> BN", "h = Conv(x, w); p = AveragePool <kernel_shape = [2, 2]> (h); y = BN[6](p)", W
    ),
    Pattern("Conv -> GlobalAveragePool -> BN", "h = Conv(x, w); p = GlobalAveragePool(h); y = BN[6](p)", W),
    Pattern(
        "BN -> ReduceMean over space -> Gemm",
        START + "n = BN[4](r); m = ReduceMean <axes = [2, 3], keepdims = 0> (n); y = Gemm(m, w, c)",
        MATRIX | {"c": (6,)},
    ),
    Pattern(
        "BN -> GlobalAveragePool -> Flatten -> Gemm",
        START + "n = BN[4](r); p = GlobalAveragePool(n); f = Flatten(p); y = Gemm(f, w, c)",
        MATRIX | {"c": (6,)},
    ),
    Pattern(
        "BN -> AveragePool with padding -> Conv",
        START
        + f"n = BN[4](r); p = AveragePool <kernel_shape = [3, 3], {SAME}, count_include_pad = 1> (n); y = Conv(p, w)",
        BACK,
    ),
    Pattern(
        "Conv -> MaxPool -> BN, positive", "h = Conv(x, w); p = MaxPool <kernel_shape = [2, 2]> (h); y = BN[6+](p)", W
    ),
    Pattern(
        "Conv -> MaxPool -> BN, some negative",
        "h = Conv(x, w); p = MaxPool <kernel_shape = [2, 2]> (h); y = BN[6](p)",
        W,
    ),
    Pattern(
        "BN -> MaxPool -> Gemm, positive",
        START + "n = BN[4+](r); p = MaxPool <kernel_shape = [7, 7]> (n); f = Flatten(p); y = Gemm(f, w, c)",
        MATRIX | {"c": (6,)},
    ),
    Pattern(
        "Conv -> Pad with copies -> BN",
        'h = Conv(x, w); p = Pad <mode = "reflect"> (h, pads); y = BN[6](p)',
        W | {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1)},
    ),
    Pattern(
        "Conv -> Pad with zeros -> Mul",
        "h = Conv(x, w); p = Pad(h, pads); n = Mul(p, k); " + BOTH,
        {"w": (6, 4, 3, 3), "u": (3, 6, 3, 3), "k": CHANNEL, "pads": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        outputs=TWO,
    ),
    Pattern(
        "Conv -> Pad with zeros -> BN",
        "h = Conv(x, w); p = Pad(h, pads); y = BN[6](p)",
        W | {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1)},
    ),
    Pattern(
        "Conv -> Resize -> BN",
        'h = Conv(x, w); p = Resize <mode = "nearest"> (h, "", zoom); y = BN[6](p)',
        W | {"zoom": np.array([1, 1, 2, 2], np.float32)},
    ),
)
"""Through operations that move, join or pool."""

REPVGG: Final = f"a = Conv <{SAME}> (x, w); p = BN[4](a); g = Conv(x, u); q = BN[4](g); "
BRANCHES: Final = (
    Pattern(
        "RepVGG: 3x3, 1x1 and identity, each with BN",
        REPVGG + "n = BN[4](x); t = Add(p, q); z = Add(t, n); y = Relu(z)",
        {"w": (4, 4, 3, 3), "u": (4, 4, 1, 1)},
        counts="norms+linear+Add",
        least=1,
    ),
    Pattern(
        "MobileOne: depthwise branches and a scale",
        (
            f"a = Conv <group = 4, {SAME}> (x, w); p = BN[4](a); g = Conv <group = 4> (x, u); q = BN[4](g); "
            f"n = BN[4](x); t = Add(p, q); z = Add(t, n); y = Relu(z)"
        ),
        {"w": (4, 1, 3, 3), "u": (4, 1, 1, 1)},
        counts="norms+linear+Add",
        least=1,
    ),
    Pattern(
        "ACNet: 3x3, 1x3 and 3x1",
        (
            f"a = Conv <{SAME}> (x, w); g = Conv <pads = [0, 1, 0, 1]> (x, u); "
            f"h = Conv <pads = [1, 0, 1, 0]> (x, v); t = Add(a, g); y = Add(t, h)"
        ),
        {"w": (6, 4, 3, 3), "u": (6, 4, 1, 3), "v": (6, 4, 3, 1)},
        counts="linear+Add",
        least=1,
    ),
    Pattern(
        "x + Conv(x)", f"h = Conv <{SAME}> (x, w); y = Add(x, h)", {"w": (4, 4, 3, 3)}, counts="linear+Add", least=1
    ),
    Pattern(
        "x + BN(Conv(x))",
        f"h = Conv <{SAME}> (x, w); n = BN[4](h); y = Add(x, n)",
        {"w": (4, 4, 3, 3)},
        told=(BREVITAS,),
        counts="norms+linear+Add",
        least=1,
    ),
    Pattern(
        "AveragePool(x) + Conv(x)",
        (
            f"h = Conv <{SAME}> (x, w); "
            f"p = AveragePool <kernel_shape = [3, 3], {SAME}, count_include_pad = 1> (x); y = Add(p, h)"
        ),
        {"w": (4, 4, 3, 3)},
        counts="linear+Add+AveragePool",
        least=1,
    ),
    Pattern(
        "Conv 1x1 -> Conv 3x3 without padding",
        "h = Conv(x, u, c); y = Conv(h, w)",
        {"u": (6, 4, 1, 1), "c": (6,), "w": (3, 6, 3, 3)},
        counts="linear",
        least=1,
    ),
    Pattern(
        "Branches of different inputs",
        f"r = Sigmoid(x); a = Conv <{SAME}> (x, w); g = Conv(r, u); y = Add(a, g)",
        {"w": (4, 4, 3, 3), "u": (4, 4, 1, 1)},
        counts="linear+Add",
        least=1,
    ),
)
"""Branches of one value that are added."""

LN: Final = "n = LayerNormalization(x, g, b); "
GAIN: Final = {"g": (4,), "b": (4,)}
QKV: Final = (
    "q0 = MatMul(n, w); q = Add(q0, c); k0 = MatMul(n, u); k = Add(k0, d); v0 = MatMul(n, t); "
    "v = Add(v0, e); p = Mul(q, k); y = Mul(p, v)"
)
EPS: Final = scalar(1e-5)
MEAN: Final = "m = ReduceMean <axes = [-1]> (x); c = Sub(x, m); "
SPREAD: Final = "s = Mul({0}, {0}); v = ReduceMean <axes = [-1]> (s); e = Add(v, eps); d = Sqrt(e); h = Div({0}, d); "
TAILS: Final = (
    Pattern("LayerNorm -> MatMul without bias", LN + "y = MatMul(n, w)", GAIN | MATRIX, TOKENS, counts="tails"),
    Pattern(
        "LayerNorm -> MatMul -> Add",
        LN + "h = MatMul(n, w); y = Add(h, c)",
        GAIN | MATRIX | {"c": (6,)},
        TOKENS,
        told=(ORT, BREVITAS),
        counts="tails",
    ),
    Pattern(
        "LayerNorm -> three MatMul -> Add (Q, K, V)",
        LN + QKV,
        GAIN | MATRIX | {"u": (4, 6), "t": (4, 6), "c": (6,), "d": (6,), "e": (6,)},
        TOKENS,
        counts="tails",
    ),
    Pattern(
        "LayerNorm -> MatMul and the residual sum",
        LN + "h = MatMul(n, w); y = Add(h, n)",
        GAIN | {"w": (4, 4)},
        TOKENS,
        counts="tails",
    ),
    Pattern(
        "LayerNorm -> Mul -> Add",
        LN + "t = Mul(n, k); y = Add(t, d)",
        GAIN | {"k": (4,), "d": (4,)},
        TOKENS,
        counts="norms",
    ),
    Pattern(
        "LayerNorm written out -> MatMul -> Add",
        MEAN + SPREAD.format("c") + "t = Mul(h, g); n = Add(t, b); l = MatMul(n, w); y = Add(l, o)",
        GAIN | MATRIX | {"eps": EPS, "o": (6,)},
        TOKENS,
        told=(ORT, SCRIPT),
        counts="tails",
    ),
    Pattern(
        "LayerNorm written out, opset 16 -> MatMul -> Add",
        MEAN + SPREAD.format("c") + "t = Mul(h, g); n = Add(t, b); l = MatMul(n, w); y = Add(l, o)",
        GAIN | MATRIX | {"eps": EPS, "o": (6,)},
        TOKENS,
        counts="tails",
        opset=16,
    ),
    Pattern(
        "LayerNorm of TensorFlow, opset 16 -> MatMul -> Add",
        MEAN
        + "s = Mul(c, c); v = ReduceMean <axes = [-1]> (s); e = Add(v, eps); d = Sqrt(e); i = Reciprocal(d); "
        + "k = Mul(i, g); p = Mul(x, k); q = Mul(m, k); t = Sub(b, q); n = Add(p, t); l = MatMul(n, w); y = Add(l, o)",
        GAIN | MATRIX | {"eps": EPS, "o": (6,)},
        TOKENS,
        counts="Mul+Sub",
        least=4,
        opset=16,
    ),
    Pattern(
        "LayerNorm of JAX, opset 12 -> MatMul -> Add",
        (
            "a = ReduceSum <axes = [2], keepdims = 0> (x); xx = Mul(x, x); "
            "z = ReduceSum <axes = [2], keepdims = 0> (xx); m = Mul(a, part); s = Mul(z, part); mm = Mul(m, m); "
            "u = Sub(s, mm); v = Max(u, null); r = Reshape(v, kept); f = Expand(r, kept); e = Add(f, eps); "
            "d = Sqrt(e); i = Reciprocal(d); k = Mul(i, g); j = Reshape(m, kept); c = Sub(x, j); t = Mul(c, k); "
            "n = Add(t, b); l = MatMul(n, w); y = Add(l, o)"
        ),
        {"g": (1, 1, 4), "b": (1, 1, 4), "part": scalar(0.25), "null": scalar(0), "kept": ints(2, 5, 1)}
        | MATRIX
        | {"eps": EPS, "o": (6,)},
        TOKENS,
        counts="Mul+Add",
        least=7,
        opset=12,
    ),
    Pattern(
        "SkipLayerNormalization -> BiasGelu -> SkipLayerNormalization -> MatMul -> Add",
        (
            "h = com.microsoft.SkipLayerNormalization(x, r, g, b); a = com.microsoft.BiasGelu(h, k); "
            "n = com.microsoft.SkipLayerNormalization(a, r, g2, b2); l = MatMul(n, w); y = Add(l, c)"
        ),
        GAIN | MATRIX | {"c": (6,), "k": (4,), "g2": (4,), "b2": (4,)},
        TOKENS + ", float[2, 5, 4] r",
        "float[2, 5, 6] y",
        counts="tails",
        least=1,
    ),
    Pattern(
        "RMSNorm -> MatMul",
        "n = RMSNormalization(x, g); y = MatMul(n, w)",
        {"g": (4,)} | MATRIX,
        TOKENS,
        counts="tails",
        opset=23,
        told=(SCRIPT,),
    ),
    Pattern(
        "RMSNorm written out -> MatMul",
        SPREAD.format("x") + "n = Mul(h, g); y = MatMul(n, w)",
        {"g": (4,), "eps": EPS} | MATRIX,
        TOKENS,
        told=(ORT, SCRIPT),
        counts="tails",
    ),
    Pattern(
        "Add -> LayerNorm -> MatMul, the sum read again",
        "z = Add(x, r); n = LayerNormalization(z, g, b); h = MatMul(n, w); t = Add(h, c); y = Add(t, z)",
        GAIN | {"w": (4, 4), "c": (4,)},
        TOKENS + ", float[2, 5, 4] r",
        told=(ORT,),
        counts="tails",
    ),
    Pattern(
        "SkipLayerNormalization -> MatMul -> Add",
        "n = com.microsoft.SkipLayerNormalization(x, r, g, b); h = MatMul(n, w); y = Add(h, c)",
        GAIN | MATRIX | {"c": (6,)},
        TOKENS + ", float[2, 5, 4] r",
        "float[2, 5, 6] y",
        told=(ORT,),
        counts="tails",
    ),
    Pattern(
        "InstanceNorm -> Conv without padding",
        "n = InstanceNormalization(x, g, b); y = Conv(n, w)",
        GAIN | BACK,
        counts="tails",
    ),
    Pattern(
        "GroupNorm -> Conv without padding",
        "n = GroupNormalization <num_groups = 2> (x, g, b); y = Conv(n, w)",
        GAIN | BACK,
        outputs="float[1, 3, 5, 5] y",
        counts="tails",
        opset=21,
    ),
    Pattern(
        "GroupNorm as exported -> Conv",
        (
            "a = Reshape(x, split); i = InstanceNormalization(a, one, zero); f = Reshape(i, join); "
            "t = Mul(f, k); n = Add(t, d); y = Conv(n, w)"
        ),
        BACK
        | {
            "split": ints(1, 2, -1),
            "join": ints(1, 4, 7, 7),
            "one": np.ones(2, np.float32),
            "zero": np.zeros(2, np.float32),
            "k": (4, 1, 1),
            "d": (4, 1, 1),
        },
        counts="tails",
    ),
    Pattern(
        "Conv -> LayerNorm -> Relu",
        "h = Conv(x, w); n = LayerNormalization <axis = 1> (h, g, b); y = Relu(n)",
        W | {"g": (6, 5, 5), "b": (6, 5, 5)},
        counts="tails",
    ),
    Pattern(
        "Conv with bias -> InstanceNorm",
        "h = Conv(x, w, c); y = InstanceNormalization(h, g, b)",
        W | {"c": (6,), "g": (6,), "b": (6,)},
        counts="bias",
    ),
)
"""Norms with live statistics: their scale and bias."""

BAKED: Final = (
    Pattern(
        "weight norm -> Conv",
        "s = Mul(w0, w0); t = ReduceSum(s, axes); q = Sqrt(t); u = Div(w0, q); w = Mul(u, g); y = Conv(x, w)",
        {"w0": (6, 4, 3, 3), "g": (6, 1, 1, 1), "axes": ints(1, 2, 3)},
        counts="constants",
    ),
    Pattern(
        "spectral norm -> Gemm",
        "a = MatMul(u, w0); s = MatMul(a, v); w = Div(w0, s); y = Gemm(x, w)",
        {"w0": (4, 6), "u": (1, 4), "v": (6, 1)},
        ROWS,
        counts="constants",
    ),
    Pattern(
        "weight standardisation -> Conv",
        (
            "m = ReduceMean <axes = [1, 2, 3]> (w0); c = Sub(w0, m); s = Mul(c, c); "
            "v = ReduceMean <axes = [1, 2, 3]> (s); e = Add(v, eps); d = Sqrt(e); w = Div(c, d); y = Conv(x, w)"
        ),
        {"w0": (6, 4, 3, 3), "eps": EPS},
        counts="constants",
    ),
)
"""Weights that are normalised anew at each run."""

QUANTISED: Final = {"q": codes(6, 4, 1, 1), "s": steps(6), "z": np.zeros(6, np.int8)}
INPUT: Final = "a = QuantizeLinear(x, xs, xz); b = DequantizeLinear(a, xs, xz); "
ACTIVATION: Final = {"xs": scalar(0.03), "xz": np.array(120, np.uint8)}
HEADS: Final = (
    "q0 = MatMul(x, w); q1 = Add(q0, c); q2 = Reshape(q1, heads); q = Transpose <perm = [0, 2, 1, 3]> (q2); "
    "k0 = MatMul(x, v); k2 = Reshape(k0, heads); k = Transpose <perm = [0, 2, 3, 1]> (k2); "
)
ATTENTION: Final = {"w": (4, 4), "c": (4,), "v": (4, 4), "heads": ints(2, 5, 2, 2), "n": scalar(2)}
HALF: Final = {"w": (6, 4, 3, 3), "n": scalar(0.5)}
SCALES: Final = (
    Pattern(
        "Conv -> Relu -> Mul by a number -> Conv",
        "h = Conv(x, w); r = Relu(h); t = Mul(r, n); y = Conv(t, u)",
        HALF | {"u": (3, 6, 3, 3)},
        counts="Mul",
    ),
    Pattern(
        "Conv -> Clip -> Mul by a number -> Softmax",
        "h = Conv(x, w); r = Clip(h, low, high); t = Mul(r, n); y = Softmax(t)",
        HALF | SIX,
        counts="Mul",
    ),
    Pattern(
        "Conv -> MaxPool -> Mul by a number",
        "h = Conv(x, w); r = MaxPool <kernel_shape = [2, 2]> (h); t = Mul(r, n); y = Softmax(t)",
        HALF,
        counts="Mul",
    ),
    Pattern(
        "Conv -> Pad -> Mul by a number",
        "h = Conv(x, w); r = Pad(h, p); t = Mul(r, n); y = Softmax(t)",
        HALF | {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        counts="Mul",
    ),
    Pattern(
        "HardSwish written out, between MatMuls",
        "h = MatMul(x, w); a = Add(h, n); r = Clip(a, low, high); t = Mul(h, r); d = Div(t, high); y = MatMul(d, v)",
        {"w": (4, 4), "v": (4, 4), "n": scalar(3), "low": scalar(0), "high": scalar(6)},
        TOKENS,
        counts="Div",
    ),
    Pattern(
        "scores of an attention over a number",
        HEADS + "a = MatMul(q, k); d = Div(a, n); y = Softmax <axis = -1> (d)",
        ATTENTION,
        TOKENS,
        counts="Div",
    ),
    Pattern(
        "queries of an attention by a number",
        HEADS + "d = Mul(q, n); a = MatMul(d, k); y = Softmax <axis = -1> (a)",
        ATTENTION,
        TOKENS,
        counts="Mul",
    ),
    Pattern(
        "scores of an attention, a scale for each query",
        HEADS + "a = MatMul(q, k); t = Mul(a, s); y = Softmax <axis = -1> (t)",
        ATTENTION | {"s": (2, 1, 1)},
        TOKENS,
        counts="Mul",
    ),
)
"""Scales by constants that stand next to nothing linear."""

NBITS: Final = "com.microsoft.MatMulNBits <K = 32, N = 6, bits = 4, block_size = 16>"
BLOCKS: Final = {"q": np.arange(96, dtype=np.uint8).reshape(6, 2, 8) * 2, "s": steps(12).reshape(6, 2), "c": (6,)}
INTEGERS: Final = (
    Pattern(
        "Conv with int8 weights -> BN",
        "w = DequantizeLinear <axis = 0> (q, s, z); h = Conv(x, w, c); y = BN[6](h)",
        QUANTISED | {"c": (6,)},
    ),
    Pattern(
        "Conv with int8 weights, one step -> BN",
        "w = DequantizeLinear(q, s); h = Conv(x, w); y = BN[6](h)",
        {"q": codes(6, 4, 1, 1), "s": scalar(0.02)},
    ),
    Pattern(
        "QDQ Conv -> BN",
        INPUT + "w = DequantizeLinear <axis = 0> (q, s, z); h = Conv(b, w, c); y = BN[6](h)",
        QUANTISED | ACTIVATION | {"c": (6,)},
    ),
    Pattern(
        "MatMul with int8 weights -> Mul",
        "w = DequantizeLinear <axis = 1> (q, s); h = MatMul(x, w); y = Mul(h, k)",
        {"q": codes(4, 6), "s": steps(6), "k": (6,)},
        TOKENS,
    ),
    Pattern(
        "Mul by a number -> MatMul with int8 weights",
        "t = Mul(x, k); w = DequantizeLinear <axis = 1> (q, s); y = MatMul(t, w)",
        {"q": codes(4, 6), "s": steps(6), "k": scalar(0.125)},
        TOKENS,
        counts="Mul",
    ),
    Pattern(
        "BN -> Conv with int8 weights",
        START + "n = BN[4](r); w = DequantizeLinear <axis = 0> (q, s, z); y = Conv(n, w)",
        QUANTISED,
    ),
    Pattern(
        "BN -> depthwise Conv with int8 weights",
        START + "n = BN[4](r); w = DequantizeLinear <axis = 0> (q, s); y = Conv <group = 4> (n, w)",
        {"q": codes(4, 1, 3, 3), "s": steps(4)},
    ),
    Pattern(
        "QDQ Conv -> quantised output -> BN",
        INPUT
        + (
            "w = DequantizeLinear <axis = 0> (q, s, z); h = Conv(b, w); hq = QuantizeLinear(h, xs, xz); "
            "hd = DequantizeLinear(hq, xs, xz); y = BN[6](hd)"
        ),
        QUANTISED | ACTIVATION,
    ),
    Pattern(
        "Gemm with int8 weights, transposed -> BN",
        "w0 = DequantizeLinear <axis = 0> (q, s); w = Transpose(w0); h = Gemm(x, w, c); y = BN[6](h)",
        {"q": codes(6, 4), "s": steps(6), "c": (6,)},
        ROWS,
    ),
    Pattern(
        "Conv with weights quantised on the way -> BN",
        "q = QuantizeLinear <axis = 0> (v, s, z); w = DequantizeLinear <axis = 0> (q, s, z); h = Conv(x, w, c); "
        "y = BN[6+](h)",
        {"v": (6, 4, 3, 3), "s": steps(6), "z": np.zeros(6, np.int8), "c": (6,)},
    ),
    Pattern(
        "MatMulNBits -> Mul -> Add",
        f"h = {NBITS} (x, q, s, , , c); t = Mul(h, k); y = Add(t, d)",
        BLOCKS | {"k": (6,), "d": (6,)},
        "float[5, 32] x",
        counts="Mul+Add",
    ),
    Pattern(
        "Mul by a number -> MatMulNBits",
        f"t = Mul(x, k); y = {NBITS} (t, q, s, , , c)",
        BLOCKS | {"k": scalar(0.125)},
        "float[5, 32] x",
        counts="Mul",
    ),
)
"""Into quantised weights."""

PICTURE: Final = "uint8[1, 3, 8, 8] x"
RGB: Final = {
    "mean": np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1),
    "std": np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1),
}
PREPROCESSING: Final = (
    Pattern(
        "mean and std -> Conv without padding",
        "a = Sub(x, mean); n = Div(a, std); y = Conv <strides = [2, 2]> (n, w)",
        RGB | {"w": (6, 3, 2, 2)},
        "float[1, 3, 8, 8] x",
    ),
    Pattern(
        "mean and std -> Conv with padding",
        f"a = Sub(x, mean); n = Div(a, std); y = Conv <{SAME}> (n, w)",
        RGB | {"w": (6, 3, 3, 3)},
        "float[1, 3, 8, 8] x",
    ),
    Pattern(
        "uint8 -> 1/255 -> mean and std -> Conv",
        (
            "f = Cast <to = 1> (x); u = Mul(f, scale); a = Sub(u, mean); n = Div(a, std); "
            "y = Conv <strides = [2, 2]> (n, w)"
        ),
        RGB | {"w": (6, 3, 2, 2), "scale": scalar(1 / 255)},
        PICTURE,
        counts="norms+Mul+Div+Sub",
    ),
    Pattern(
        "BGR -> RGB by Gather -> Conv",
        "p = Gather <axis = 1> (x, order); y = Conv(p, w)",
        {"w": (6, 3, 3, 3), "order": ints(2, 1, 0)},
        "float[1, 3, 8, 8] x",
        counts="Gather",
    ),
    Pattern(
        "BGR -> RGB by Gather -> Sub by channel -> Conv",
        "p = Gather <axis = 1> (x, order); a = Sub(p, mean); y = Conv(a, w)",
        RGB | {"w": (6, 3, 3, 3), "order": ints(2, 1, 0)},
        "float[1, 3, 8, 8] x",
        counts="Gather",
    ),
    Pattern(
        "BGR -> RGB by Gather -> Pad -> AveragePool -> Conv",
        (
            "p = Gather <axis = 1> (x, order); q = Pad(p, around); "
            "a = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (q); y = Conv(a, w)"
        ),
        {"w": (6, 3, 3, 3), "order": ints(2, 1, 0), "around": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        "float[1, 3, 8, 8] x",
        counts="Gather",
    ),
    Pattern(
        "NHWC picture, BGR -> RGB by Gather -> Transpose -> Conv",
        "p = Gather <axis = 3> (x, order); t = Transpose <perm = [0, 3, 1, 2]> (p); y = Conv(t, w)",
        {"w": (6, 3, 3, 3), "order": ints(2, 1, 0)},
        "float[1, 8, 8, 3] x",
        counts="Gather",
    ),
    Pattern(
        "NHWC picture -> Transpose -> mean and std -> Conv",
        (
            "t = Transpose <perm = [0, 3, 1, 2]> (x); a = Sub(t, mean); n = Div(a, std); "
            "y = Conv <strides = [2, 2]> (n, w)"
        ),
        RGB | {"w": (6, 3, 2, 2)},
        "float[1, 8, 8, 3] x",
    ),
)
"""Preparing a picture inside the model."""

TRAPS: Final = (
    Pattern(
        "MatMul -> Reshape -> BN over another axis",
        "h = MatMul(x, w); t = Reshape(h, to); y = BN[4](t)",
        {"w": (3, 4), "to": ints(2, 4, 2)},
        "float[4, 3] x",
        told=(ORT,),
    ),
    Pattern(
        "MatMul -> Transpose -> BN over the rows",
        "h = MatMul(x, w); t = Transpose <perm = [1, 0]> (h); y = BN[4](t)",
        {"w": (3, 4)},
        "float[4, 3] x",
        told=(ORT,),
    ),
    Pattern(
        "Linear on (N, C, L) -> BN over C",
        "h = MatMul(x, w); t = Add(h, c); y = BN[4](t)",
        {"w": (3, 4), "c": (4,)},
        "float[2, 4, 3] x",
        told=(ORT, TORCH),
    ),
    Pattern(
        "Conv -> Mul along the width, as wide as the channels",
        "h = Conv(x, w); y = Mul(h, k)",
        {"w": (4, 4, 1, 1), "k": (4,)},
        "float[1, 4, 4, 4] x",
        told=(SLIM,),
    ),
    Pattern(
        "Conv -> Mul along the height, as high as the channels",
        "h = Conv(x, w); y = Mul(h, k)",
        {"w": (4, 4, 1, 1), "k": (4, 1)},
        "float[1, 4, 4, 4] x",
        told=(SLIM,),
    ),
    Pattern(
        "BN -> mean over the channels -> Conv",
        START + "n = BN[4](r); m = ReduceMean <axes = [1]> (n); y = Conv(m, w)",
        {"w": (3, 1, 3, 3)},
    ),
    Pattern("LayerNorm -> BN over the tokens", LN + "y = BN[5](n)", GAIN, TOKENS),
    Pattern(
        "Conv -> BN in training mode",
        "h = Conv(x, w); y, m, v = BN[6, training_mode = 1](h)",
        W,
        told=(SCRIPT,),
    ),
    Pattern(
        "Conv -> BN, the Conv read by an activation, too",
        "h = Conv(x, w); n = BN[6](h); r = Relu(h); y = Add(n, r)",
        W,
        told=(TORCH, "torchao", "inductor"),
    ),
    Pattern(
        "Conv -> BN, the Conv an output",
        "h = Conv(x, w); y = BN[6](h)",
        W,
        outputs="float[] y, float[] h",
        told=(TORCH,),
    ),
    Pattern(
        "One weight in two Conv, one of them with a BN",
        "a = Conv(x, w); p = BN[6](a); g = Conv(x, w); r = Relu(p); y = Mul(r, g)",
        W,
        told=("inductor",),
    ),
    Pattern(
        "One bias in two Conv, one of them with a Mul",
        "a = Conv(x, w, c); p = Mul(a, k); g = Conv(x, u, c); y = Mul(p, g)",
        W | {"u": (6, 4, 3, 3), "c": (6,), "k": CHANNEL},
        told=("optimum",),
    ),
    Pattern(
        "Conv -> BN whose mean is an input",
        "h = Conv(x, w); y = BatchNormalization(h, s, b, m, v)",
        W | {"s": (6,), "b": (6,), "v": positive(6)},
        "float[1, 4, 7, 7] x, float[6] m",
        told=(SCRIPT,),
    ),
    Pattern(
        "Conv whose weight a caller may override -> BN",
        "h = Conv(x, w); y = BN[6](h)",
        W,
        "float[1, 4, 7, 7] x, float[6, 4, 3, 3] w",
        told=(SCRIPT,),
    ),
    Pattern(
        "k / Conv",
        "h = Conv(x, w); e = Exp(h); y = Div(k, e)",
        W | {"k": CHANNEL},
        counts="Div",
    ),
    Pattern(
        "Conv -> BN, variance + epsilon below half precision",
        "h = Conv(x, w); y = BatchNormalization <epsilon = 0.000000001> (h, s, b, m, v)",
        {
            "w": half(6, 4, 1, 1),
            "s": np.full(6, 1e-4, np.float16),
            "b": half(6),
            "m": half(6),
            "v": np.zeros(6, np.float16),
        },
        "float16[1, 4, 7, 7] x",
        "float16[] y",
        told=(ORT, SLIM, SCRIPT),
    ),
)
"""What must not be folded, or not as it looks."""

WITHOUT: Final = (
    Pattern(
        "Pad -> Conv",
        "p = Pad(x, pads); y = Conv(p, w)",
        W | {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1)},
        told=(ORT, SLIM, SCRIPT, OPTIMIZER),
        counts="Pad",
    ),
    Pattern(
        "MatMul -> Add of matrices",
        "h = MatMul(x, w); y = Add(h, c)",
        MATRIX | {"c": (6,)},
        ROWS,
        told=(ORT, SLIM, SCRIPT, OPTIMIZER),
        counts="Add",
    ),
    Pattern(
        "Transpose -> Gemm",
        "t = Transpose <perm = [1, 0]> (x); y = Gemm(t, w)",
        MATRIX,
        "float[4, 5] x",
        told=(ORT, OPTIMIZER),
        counts="Transpose",
    ),
    Pattern(
        "Gemm -> Sum", "h = Gemm(x, w); y = Sum(h, r)", MATRIX, ROWS + ", float[5, 6] r", told=(ORT,), counts="Sum"
    ),
    Pattern("Conv -> Relu", "h = Conv(x, w); y = Relu(h)", W, told=(ORT,), counts="Relu"),
)
"""Fusions in the tests of those tools that are about no norm; they are not normfold's business."""

PATTERNS: Final[Mapping[str, tuple[Pattern, ...]]] = {
    "Into the operation before": PRODUCERS,
    "Into the operations after": CONSUMERS,
    "Through activations": ACTIVATIONS,
    "Through moves, joins and pools": ROUTES,
    "Scales that are no norms": SCALES,
    "Branches that are added": BRANCHES,
    "Norms with live statistics": TAILS,
    "Weights normalised at each run": BAKED,
    "Into quantised weights": INTEGERS,
    "Preparing a picture": PREPROCESSING,
    "Traps": TRAPS,
    "No norm in it": WITHOUT,
}


def every() -> Iterator[tuple[str, Pattern]]:
    """Every pattern with the heading it stands under."""
    for heading, patterns in PATTERNS.items():
        yield from ((heading, pattern) for pattern in patterns)
