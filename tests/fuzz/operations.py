"""What random networks are made of: each function adds one operation, or one motif, that reads ``x``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from fuzz.builder import Builder, NotPossibleError, Val

Operation = Callable[[Builder, Val], list[Val]]

# Norms ------------------------------------------------------------------------------------------------------------


def gammas(b: Builder, channels: int) -> np.ndarray:
    """Scales as networks have them: of either sign, positive only, some zero, some tiny, all one."""
    kind = b.rng.random()
    values = b.numbers((channels,))
    if kind < 0.4 or b.plain:
        return np.abs(values)
    if kind < 0.5:
        return np.where(b.rng.random(channels) < 0.4, 0, values).astype(np.float32)
    if kind < 0.55:
        return np.where(b.rng.random(channels) < 0.4, 1e-6 * values, values).astype(np.float32)
    return np.ones(channels, np.float32) if kind < 0.6 else values


def shifts(b: Builder, channels: int) -> np.ndarray:
    """Shifts, often none at all."""
    return np.zeros(channels, np.float32) if b.chance(0.7 if b.plain else 0.25) else b.numbers((channels,), 0.1, 1.0)


def batch_norm(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank >= 2)
    channels = x.shape[1]
    gamma = gammas(b, channels)
    mean, beta = shifts(b, channels), shifts(b, channels)
    variance = b.rng.uniform(0.3, 2.5, channels).astype(np.float32)
    parts = [b.const(v, s) for v, s in ((gamma, "gamma"), (beta, "beta"), (mean, "mean"))]
    # Shared with another constant, a variance could come out negative.
    parts.append(b.stored(variance, "var"))
    return [b.one("BatchNormalization", [x, *parts], epsilon=b.pick([1e-5, 1e-3, 0.5]))]


def layer_norm(b: Builder, x: Val) -> list[Val]:
    b.need(b.opset >= 17 and x.rank >= 2)
    axis = b.integer(1, x.rank - 1)
    shape = x.shape[axis:]
    parts = [b.const(b.numbers(shape), "gamma")]
    if b.chance(0.8):
        parts.append(b.const(b.numbers(shape), "beta"))
    return [b.one("LayerNormalization", [x, *parts], axis=axis if b.chance(0.5) else axis - x.rank, epsilon=1e-2)]


def rms_norm(b: Builder, x: Val) -> list[Val]:
    b.need(b.opset >= 23 and x.rank >= 2)
    axis = b.integer(1, x.rank - 1)
    return [b.one("RMSNormalization", [x, b.const(b.numbers(x.shape[axis:]), "gamma")], axis=axis, epsilon=1e-2)]


def group_norm(b: Builder, x: Val) -> list[Val]:
    b.need(b.opset >= 21 and x.rank >= 3)
    channels = x.shape[1]
    groups = b.pick([g for g in range(1, channels + 1) if channels % g == 0])
    parts = [b.const(b.numbers((channels,)), stem) for stem in ("gamma", "beta")]
    return [b.one("GroupNormalization", [x, *parts], num_groups=groups, epsilon=1e-2)]


def instance_norm(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank >= 3)
    parts = [b.const(b.numbers((x.shape[1],)), stem) for stem in ("gamma", "beta")]
    return [b.one("InstanceNormalization", [x, *parts], epsilon=1e-2)]


def reduced(b: Builder, kind: str, x: Val, axes: Sequence[int], *, keep: bool = True) -> Val:
    """A reduction with its axes where the opset wants them."""
    if b.opset < 18:
        return b.one(kind, [x], axes=list(axes), keepdims=int(keep))
    return b.one(kind, [x, b.ints(axes)], keepdims=int(keep))


def decomposed_norm(b: Builder, x: Val) -> list[Val]:
    """LayerNorm or RMSNorm in elementary operations, in one of the ways in which exporters put it."""
    b.need(x.rank >= 2)
    axes = [-1] if b.chance(0.8) else [b.integer(-x.rank, -1)]
    centred = b.chance(0.6)
    mean = averaged(b, x, axes) if centred else None
    root = deviation(b, x, mean, axes)
    inverse = b.one("Reciprocal", [root]) if b.chance(0.5) else None
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(axes[0], 0)]
    scale = b.const(b.numbers(shape))
    if inverse is not None and b.chance(0.4):
        factor = b.one("Mul", [inverse, scale])
        if mean is None or b.chance(0.5):
            y = b.one("Mul", [x if mean is None else b.one("Sub", [x, mean]), factor])
        else:
            left = b.one("Sub", [b.const(b.numbers(shape)), b.one("Mul", [mean, factor])])
            return [b.one("Add", [b.one("Mul", [x, factor]), left])]
    else:
        y = x if mean is None else b.one("Sub", [x, mean])
        y = b.one("Div", [y, root]) if inverse is None else b.one("Mul", [inverse, y])
        y = b.one("Mul", [y, scale])
    return [b.one("Add", [y, b.const(b.numbers(shape))])] if b.chance(0.6) else [y]


def averaged(b: Builder, x: Val, axes: Sequence[int]) -> Val:
    """The mean, as a mean or as a sum divided by a count; with its axes kept, or taken away and put back."""
    keep = b.chance(0.6)
    kind = b.pick(["ReduceMean", "ReduceMean", "ReduceSum"])
    # A sum has its axes as an input four opsets before a mean.
    new = b.opset >= (13 if kind == "ReduceSum" else 18)
    mean = (
        b.one(kind, [x, b.ints(axes)], keepdims=int(keep))
        if new
        else b.one(kind, [x], axes=[*axes], keepdims=int(keep))
    )
    if kind == "ReduceSum":
        mean = b.one("Mul", [mean, b.scalar(1 / x.shape[axes[0]])])
    if keep:
        return mean
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape, -x.rank)]
    back = b.one("Reshape", [mean, b.ints(shape)])
    return b.one("Expand", [back, b.ints(shape if b.chance(0.5) else x.shape)]) if b.chance(0.4) else back


def deviation(b: Builder, x: Val, mean: Val | None, axes: Sequence[int]) -> Val:
    """The root of the variance, or of the mean square where there is no mean, and epsilon."""
    apart = mean is not None and b.chance(0.3)
    base = x if mean is None or apart else b.one("Sub", [x, mean])
    square = b.one("Mul", [base, base]) if b.chance(0.5) else b.one("Pow", [base, b.scalar(2.0)])
    found = averaged(b, square, axes)
    if apart and mean is not None:
        found = b.one("Sub", [found, b.one("Mul", [mean, mean])])
        found = b.one("Max", [found, b.scalar(0.0)])
    return b.one("Sqrt", [b.one("Add", [found, b.scalar(1e-2)])])


def constant_shape(b: Builder, x: Val) -> tuple[int, ...]:
    """A shape that broadcasts against ``x``: mostly per channel, often along another axis, sometimes enlarging."""
    kind = b.rng.random()
    spatial = x.rank - 2
    if kind < 0.4 and x.rank >= 2:
        shape = (x.shape[1], *[1] * spatial)
        return (1, *shape) if b.chance(0.3) else shape
    if kind < 0.55:
        return b.pick([(), (1,), (1,) * x.rank])
    if kind < 0.7:
        return x.shape[-1:]
    if kind < 0.75:
        return x.shape[:1] + (1,) * (x.rank - 1)
    start = b.integer(0, x.rank - 1)
    shape = tuple(size if b.chance(0.5) else 1 for size in x.shape[start:])
    if kind < 0.95:
        return shape
    grown = tuple(b.integer(2, 3) if size == 1 and b.chance(0.5) else size for size in x.shape)
    return (1, *grown) if x.rank < 4 and b.chance(0.3) else grown


def affine_link(b: Builder, x: Val) -> list[Val]:
    """One of Mul, Add, Sub, Div by a constant on either side, or Neg."""
    kind = b.pick(["Mul", "Mul", "Mul", "Add", "Add", "Sub", "Div", "Neg"])
    if kind == "Neg":
        return [b.one("Neg", [x])]
    values = b.numbers(constant_shape(b, x))
    if b.chance(0.4) or b.plain:
        values = np.abs(values)
    elif kind == "Mul" and b.chance(0.1):
        values = np.where(b.rng.random(values.shape) < 0.3, 0, values).astype(np.float32)
    if kind == "Div":
        values = np.copysign(0.5 + np.abs(values), values)
    # Shared with another constant, a divisor could be zero.
    constant = b.stored(values, "k") if kind == "Div" else b.const(values)
    left = kind != "Div" and b.chance(0.4)
    return [b.one(kind, [constant, x] if left else [x, constant])]


def affine_chain(b: Builder, x: Val) -> list[Val]:
    for _ in range(b.integer(1, 3)):
        (x,) = affine_link(b, x)
    return [x]


def constant_ratio(b: Builder, x: Val) -> list[Val]:
    """``k / (sigmoid(x) + 1/2)``: a division that is no affine map."""
    y = b.one("Add", [b.one("Sigmoid", [x]), b.scalar(0.5)])
    return [b.one("Div", [b.stored(b.numbers(()), "k"), y])]


# Activations ------------------------------------------------------------------------------------------------------


def activation(b: Builder, x: Val) -> list[Val]:
    kind = b.pick(["Relu", "Relu", "Relu", "LeakyRelu", "Abs", "Sigmoid", "Tanh", "Elu", "Softplus", "HardSigmoid"])
    return [b.one(kind, [x])]


def prelu(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank >= 2)
    shape = b.pick([(x.shape[1], *[1] * (x.rank - 2)), (1,), x.shape[-1:]])
    return [b.one("PRelu", [x, b.const(b.numbers(shape, 0.05, 0.5), "slope")])]


def clip(b: Builder, x: Val) -> list[Val]:
    low, high = b.pick([(0.0, 6.0), (0.0, 1.0), (-1.0, 1.0), (-0.7, 0.9), (0.0, None), (None, 1.0)])
    if b.opset < 11:
        return [b.one("Clip", [x], **{k: v for k, v in (("min", low), ("max", high)) if v is not None})]
    return [b.one("Clip", [x, *("" if v is None else b.scalar(v) for v in (low, high))])]


def gelu(b: Builder, x: Val) -> list[Val]:
    y = b.one("Add", [b.one("Erf", [b.one("Div", [x, b.scalar(2**0.5)])]), b.scalar(1.0)])
    return [b.one("Mul", [b.one("Mul", [x, y]), b.scalar(0.5)])]


def swish(b: Builder, x: Val) -> list[Val]:
    return [b.one("Mul", [x, b.one("Sigmoid", [x])])]


def softmax(b: Builder, x: Val) -> list[Val]:
    return [b.one("Softmax", [x], axis=b.integer(0, x.rank - 1))]


# Routes -----------------------------------------------------------------------------------------------------------


def transpose(b: Builder, x: Val) -> list[Val]:
    if b.chance(0.1):
        return [b.one("Transpose", [x])]
    first = 1 if x.rank > 2 and b.chance(0.7) else 0
    order = [*range(first), *(first + b.rng.permutation(x.rank - first)).tolist()]
    return [b.one("Transpose", [x], perm=order)]


def reshape(b: Builder, x: Val) -> list[Val]:
    target = list(x.shape)
    for _ in range(b.integer(1, 2)):
        if len(target) > 1 and b.chance(0.5):
            at = b.integer(0 if b.chance(0.3) else min(1, len(target) - 2), len(target) - 2)
            target[at : at + 2] = [target[at] * target[at + 1]]
        elif len(target) < 5:
            at = b.integer(0, len(target) - 1)
            divisors = [d for d in range(1, target[at] + 1) if target[at] % d == 0]
            part = b.pick(divisors)
            target[at : at + 1] = [part, target[at] // part]
    if b.chance(0.15):
        target = b.rng.permutation(target).tolist()
    return [reshaped(b, x, target)]


def reshaped(b: Builder, x: Val, target: Sequence[int]) -> Val:
    """``x`` reshaped, with some sizes given as 0 (kept) or -1 (worked out)."""
    stated = [0 if k < x.rank and size == x.shape[k] and b.chance(0.4) else size for k, size in enumerate(target)]
    if b.chance(0.5):
        stated[b.integer(0, len(stated) - 1)] = -1
    return b.one("Reshape", [x, b.ints(stated)])


def flatten(b: Builder, x: Val) -> list[Val]:
    return [b.one("Flatten", [x], axis=b.pick([1, 1, 1, b.integer(0, x.rank)]))]


def channel_shuffle(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank >= 3 and x.rank <= 4)
    channels = x.shape[1]
    groups = b.pick([g for g in range(1, channels + 1) if channels % g == 0])
    y = reshaped(b, x, [x.shape[0], groups, channels // groups, *x.shape[2:]])
    y = b.one("Transpose", [y], perm=[0, 2, 1, *range(3, y.rank)])
    return [reshaped(b, y, x.shape)]


def with_axes(b: Builder, kind: str, x: Val, axes: Sequence[int]) -> Val:
    """Squeeze or Unsqueeze with its axes where the opset wants them."""
    return b.one(kind, [x], axes=list(axes)) if b.opset < 13 else b.one(kind, [x, b.ints(axes)])


def unsqueeze(b: Builder, x: Val) -> list[Val]:
    axis = b.integer(0, x.rank)
    return [with_axes(b, "Unsqueeze", x, [axis])]


def squeeze(b: Builder, x: Val) -> list[Val]:
    ones = [k for k, size in enumerate(x.shape) if size == 1]
    b.need(ones and x.rank > 1)
    return [with_axes(b, "Squeeze", x, [b.pick(ones)])]


def slice_(b: Builder, x: Val) -> list[Val]:
    axis = b.integer(min(1, x.rank - 1), x.rank - 1)
    size = x.shape[axis]
    b.need(size > 1)
    start = b.integer(0, size - 1)
    end, step = b.pick([(b.integer(start + 1, size), 1), (2**31, b.integer(1, 2))])
    if b.chance(0.15) and b.opset >= 10:
        start, end, step = size - 1, -(2**31), -1
    elif b.chance(0.3):
        start -= size
    if b.opset < 10:
        b.need(step == 1)
        return [b.one("Slice", [x], starts=[start], ends=[end], axes=[axis])]
    parts = [b.ints([start]), b.ints([end]), b.ints([axis if b.chance(0.5) else axis - x.rank]), b.ints([step])]
    return [b.one("Slice", [x, *parts])]


def split(b: Builder, x: Val) -> list[Val]:
    axis = b.integer(min(1, x.rank - 1), x.rank - 1)
    size = x.shape[axis]
    b.need(size > 1)
    first = size // 2 if size % 2 == 0 and b.chance(0.5) else b.integer(1, size - 1)
    sizes = [first, size - first]
    if b.opset < 13:
        return b.op("Split", [x], 2, axis=axis, split=sizes)
    return b.op("Split", [x, b.ints(sizes)], 2, axis=axis)


def identity(b: Builder, x: Val) -> list[Val]:
    return [b.one(b.pick(["Identity", "Dropout"]), [x])]


def gather(b: Builder, x: Val) -> list[Val]:
    axis = b.integer(0, x.rank - 1)
    indices = b.rng.integers(0, x.shape[axis], x.shape[axis]).astype(np.int64)
    return [b.one("Gather", [x, b.stored(indices, "i")], axis=axis)]


def depth_to_space(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank == 4)
    if b.chance(0.5):
        b.need(x.shape[1] % 4 == 0)
        return [b.one("DepthToSpace", [x], blocksize=2)]
    b.need(x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0)
    return [b.one("SpaceToDepth", [x], blocksize=2)]


def tile(b: Builder, x: Val) -> list[Val]:
    return [b.one("Tile", [x, b.ints([b.integer(1, 2) for _ in x.shape])])]


# Pools, pads, resizing --------------------------------------------------------------------------------------------


def window_attributes(b: Builder, x: Val, *, kernel: Sequence[int] | None = None) -> dict[str, Any]:
    """Kernel, stride and padding for the spatial axes of ``x``."""
    spatial = x.rank - 2
    kernel = kernel or [b.integer(1, 3) for _ in range(spatial)]
    out: dict[str, Any] = {"kernel_shape": list(kernel), "strides": [b.pick([1, 1, 2]) for _ in range(spatial)]}
    kind = b.rng.random()
    if kind < 0.4:
        out["pads"] = [b.integer(0, size - 1) for size in (*kernel, *kernel)]
    elif kind < 0.5:
        out["auto_pad"] = b.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    return out


def average_pool(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank in (3, 4, 5))
    attributes = window_attributes(b, x)
    if b.chance(0.4):
        attributes["count_include_pad"] = 1
    if b.opset >= 10 and b.chance(0.2) and "auto_pad" not in attributes:
        attributes["ceil_mode"] = 1
    b.need(fits_inside(x, attributes))
    return [b.one("AveragePool", [x], **attributes)]


def max_pool(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank in (3, 4, 5))
    attributes = window_attributes(b, x)
    if b.opset >= 10 and b.chance(0.2) and "auto_pad" not in attributes:
        attributes["ceil_mode"] = 1
    if b.opset >= 10 and b.chance(0.15) and "auto_pad" not in attributes:
        attributes["dilations"] = [2] * (x.rank - 2)
    b.need(fits_inside(x, attributes))
    return [b.one("MaxPool", [x], **attributes)]


def global_pool(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank >= 3)
    return [b.one(b.pick(["GlobalAveragePool", "GlobalMaxPool"]), [x])]


def reduction(b: Builder, x: Val) -> list[Val]:
    kind = b.pick(["ReduceMean", "ReduceMean", "ReduceMax", "ReduceSum"])
    axes = [k for k in range(x.rank) if b.chance(0.5)] or [x.rank - 1]
    if b.chance(0.5) and x.rank > 2:
        axes = list(range(2, x.rank))
    keep = b.chance(0.5) or len(axes) == x.rank
    axes = [axis - x.rank for axis in axes] if b.opset >= 11 and b.chance(0.3) else axes
    if kind != "ReduceSum":
        return [reduced(b, kind, x, axes, keep=keep)]
    if b.opset < 13:
        return [b.one(kind, [x], axes=axes, keepdims=int(keep))]
    return [b.one(kind, [x, b.ints(axes)], keepdims=int(keep))]


def pad(b: Builder, x: Val) -> list[Val]:
    first = b.pick([0, 1, 2, 2, 2])
    b.need(x.rank > first)
    mode = b.pick(["constant", "constant", "reflect", "edge", *(["wrap"] if b.opset >= 19 else [])])
    begins, ends = (
        [b.integer(0, 1) if k >= first and (mode != "reflect" or size > 1) else 0 for k, size in enumerate(x.shape)]
        for _ in range(2)
    )
    if b.chance(0.08) and mode == "constant" and x.shape[-1] > 2:
        begins[-1] = -1
    number = b.pick([0.0, 0.0, 0.75, -0.5])
    if b.opset < 11:
        b.need(mode != "wrap")
        return [b.one("Pad", [x], mode=mode, pads=[*begins, *ends], value=number)]
    operands: list[Val | str] = [x, b.ints([*begins, *ends])]
    if mode == "constant" and b.chance(0.7):
        operands.append(b.scalar(number))
    if b.opset >= 18 and first and b.chance(0.4):
        axes = list(range(first, x.rank))
        operands[1] = b.ints([*begins[first:], *ends[first:]])
        operands += [""] * (3 - len(operands))
        operands.append(b.ints([axis - x.rank if b.chance(0.5) else axis for axis in axes]))
    return [b.one("Pad", operands, mode=mode)]


def resize(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank in (3, 4) and b.opset != 10)
    mode = b.pick(["nearest", "nearest", "linear", "cubic"])
    b.need(mode != "cubic" or x.rank == 4)
    scales = np.asarray([1, 1, *[b.pick([1.0, 2.0, 0.5]) for _ in range(x.rank - 2)]], np.float32)
    if b.chance(0.05):
        scales[1] = 2
    if b.opset < 10:
        b.need(mode == "nearest" and x.rank == 4 and scales.min() >= 1)
        return [b.one("Upsample", [x, b.stored(scales, "scales")], mode=mode)]
    where = b.pick(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
    roi = b.stored(np.zeros(0, np.float32), "roi")
    return [b.one("Resize", [x, roi, b.stored(scales, "scales")], mode=mode, coordinate_transformation_mode=where)]


def fits_inside(x: Val, attributes: dict[str, Any]) -> bool:
    """Whether the window of a convolution or pool is no larger than ``x`` with its padding."""
    spatial = x.rank - 2
    kernel = attributes["kernel_shape"]
    pads = attributes.get("pads", [0] * 2 * spatial)
    dilations = attributes.get("dilations", [1] * spatial)
    same = attributes.get("auto_pad", "NOTSET").startswith("SAME")
    if same:
        return max(dilations) == 1
    return all(x.shape[k + 2] + pads[k] + pads[k + spatial] > dilations[k] * (kernel[k] - 1) for k in range(spatial))


# Linear operations ------------------------------------------------------------------------------------------------


def weight(b: Builder, shape: Sequence[int], inputs: int) -> str:
    """A weight that keeps the size of what it is applied to."""
    return b.const(b.numbers(shape) / np.float32(max(inputs, 1) ** 0.5), b.pick(["w", "conv.weight"]))


def conv(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank in (3, 4, 5))
    channels = x.shape[1]
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    groups = b.pick([1, 1, channels, b.pick(divisors)])
    out = groups * b.pick([1, 1, 2, 3]) if groups > 1 else b.pick([2, 3, 4, channels, channels])
    kernel = [b.pick([1, 3, 3, 2]) for _ in range(x.rank - 2)]
    if b.chance(0.35):
        kernel = [1] * (x.rank - 2)
    attributes = window_attributes(b, x, kernel=kernel)
    if b.chance(0.15) and "auto_pad" not in attributes:
        attributes["dilations"] = [b.pick([1, 2]) for _ in kernel]
    b.need(fits_inside(x, attributes))
    w = weight(b, [out, channels // groups, *kernel], channels // groups * prod(kernel))
    bias = [b.const(shifts(b, out), "conv.bias")] if b.chance(0.5) else []
    return [b.one("Conv", [x, w, *bias], group=groups, **attributes)]


def conv_transpose(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank in (3, 4))
    channels = x.shape[1]
    groups = b.pick([1, 1, channels, b.pick([g for g in range(1, channels + 1) if channels % g == 0])])
    per_group = b.pick([1, 2, 3])
    kernel = [b.integer(1, 3) for _ in range(x.rank - 2)]
    strides = [b.pick([1, 1, 2]) for _ in kernel]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "group": groups}
    kind = b.rng.random()
    if kind < 0.3:
        attributes["pads"] = [k - 1 for k in (*kernel, *kernel)]
    elif kind < 0.5:
        attributes["pads"] = [b.integer(0, k - 1) for k in (*kernel, *kernel)]
    if b.chance(0.15):
        attributes["output_padding"] = [b.integer(0, s - 1) for s in strides]
    w = weight(b, [channels, per_group, *kernel], channels // groups * prod(kernel))
    bias = [b.const(shifts(b, groups * per_group), "bias")] if b.chance(0.5) else []
    return [b.one("ConvTranspose", [x, w, *bias], **attributes)]


def gemm(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank == 2)
    attributes: dict[str, Any] = {}
    for name in ("alpha", "beta"):
        if b.chance(0.2):
            attributes[name] = b.pick([0.5, -1.0, 2.0])
    flipped, stored_flipped, first = b.chance(0.15), b.chance(0.5), b.chance(0.15)
    rows, columns = x.shape[::-1] if flipped else x.shape
    out = b.pick([2, 3, 4, columns, rows])
    if first:
        # The weight stands on the left: [out, rows] @ [rows, columns].
        shape = (rows, out) if stored_flipped else (out, rows)
        operands: list[Val | str] = [weight(b, shape, rows), x]
        attributes |= {"transA": int(stored_flipped), "transB": int(flipped)}
        size = (out, columns)
    else:
        shape = (out, columns) if stored_flipped else (columns, out)
        operands = [x, weight(b, shape, columns)]
        attributes |= {"transA": int(flipped), "transB": int(stored_flipped)}
        size = (rows, out)
    if b.chance(0.6) or b.opset < 11:
        shape = b.pick([(size[1],), (size[1],), (1, size[1]), (size[0], 1), size, (1,), ()])
        operands.append(b.const(b.numbers(shape, 0.1, 1.0), "bias"))
    return [b.one("Gemm", operands, **attributes)]


def matmul(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank >= 2)
    out = b.pick([2, 3, 4, x.shape[-1], x.shape[-2]])
    batch: tuple[int, ...] = ()
    if x.rank >= 3 and b.chance(0.3):
        start = b.integer(0, x.rank - 3)
        batch = tuple(size if b.chance(0.6) else 1 for size in x.shape[start:-2])
    if b.chance(0.2):
        w = weight(b, (*batch, out, x.shape[-2]), x.shape[-2])
        y = b.one("MatMul", [w, x])
    else:
        w = weight(b, (*batch, x.shape[-1], out), x.shape[-1])
        y = b.one("MatMul", [x, w])
    if b.chance(0.4):
        bias = b.const(b.numbers(y.shape[-1:], 0.1, 1.0), "bias")
        y = b.one("Add", [y, bias] if b.chance(0.7) else [bias, y])
    return [y]


def vector_matmul(b: Builder, x: Val) -> list[Val]:
    b.need(x.rank >= 3)
    return [b.one("MatMul", [x, weight(b, x.shape[-1:], x.shape[-1])])]


def linear(b: Builder, x: Val) -> list[Val]:
    """The linear operation that suits the rank of ``x``."""
    if x.rank in (3, 4, 5) and b.chance(0.75):
        return b.pick([conv, conv, conv, conv_transpose])(b, x)
    return gemm(b, x) if x.rank == 2 and b.chance(0.6) else matmul(b, x)


# Branches ---------------------------------------------------------------------------------------------------------


def combine(b: Builder, x: Val) -> list[Val]:
    """A sum or product with another value of the same shape, or of one that broadcasts."""
    others = [v for v in b.pool if v.name != x.name and _broadcasts(v.shape, x.shape)]
    b.need(others)
    y = b.pick([v for v in others if v.shape == x.shape] or others)
    kind = b.pick(["Add", "Add", "Add", "Sub", "Sum", "Mul"])
    if kind == "Sum":
        return [b.one("Sum", [x, *(b.pick([v for v in others if v.shape == x.shape] or [x]) for _ in range(2))])]
    return [b.one(kind, [x, y] if b.chance(0.5) else [y, x])]


def twice(b: Builder, x: Val) -> list[Val]:
    return [b.one(b.pick(["Add", "Mul"]), [x, x])]


def matrix_product(b: Builder, x: Val) -> list[Val]:
    """A matrix product with another value, with one that was turned round, or of two scaled ones: an attention's."""
    b.need(x.rank >= 2)
    y = b.pick([v for v in b.pool if v.rank >= 2])
    if b.chance(0.6):
        order = [*range(y.rank - 2), y.rank - 1, y.rank - 2]
        y = b.one("Transpose", [y], perm=order)
    factors = [x, y] if b.chance(0.5) else [y, x]
    if b.chance(0.4):
        (scaled,) = affine_link(b, factors[0])
        factors = [scaled, factors[1]] if b.chance(0.5) else [factors[1], scaled]
    b.need(factors[0].shape[-1] == factors[1].shape[-2])
    product = b.one("MatMul", factors)
    return affine_link(b, product) if b.chance(0.5) else [product]


def activated_scale(b: Builder, x: Val) -> list[Val]:
    """A scale that stands next to nothing linear: behind an activation, a clip, a pad or a pool."""
    (y,) = b.pick([linear, batch_norm, affine_link])(b, x)
    (y,) = b.pick([activation, clip, pad, max_pool, average_pool])(b, y)
    return affine_link(b, y)


def _broadcasts(small: Sequence[int], large: Sequence[int]) -> bool:
    if len(small) > len(large):
        return False
    return all(s in (1, t) for s, t in zip(small[::-1], large[::-1], strict=False))


def concat(b: Builder, x: Val) -> list[Val]:
    axis = b.integer(min(1, x.rank - 1), x.rank - 1)

    def fits(v: Val) -> bool:
        return v.rank == x.rank and all(
            s == t for k, (s, t) in enumerate(zip(v.shape, x.shape, strict=True)) if k != axis
        )

    others = [v for v in b.pool if fits(v)]
    parts = [x, *(b.pick(others) for _ in range(b.integer(1, 2)) if others)]
    b.need(len(parts) > 1)
    order = b.rng.permutation(len(parts))
    return [b.one("Concat", [parts[k] for k in order], axis=axis if b.chance(0.6) else axis - x.rank)]


def parallel(b: Builder, x: Val) -> list[Val]:
    """Several branches from ``x`` that are added: RepVGG, MobileOne, residuals, with windows that may not fit."""
    b.need(x.rank in (3, 4))
    branches: list[Val] = []
    stride = b.pick([1, 1, 1, 2])
    channels = x.shape[1]
    groups = b.pick([1, 1, channels, b.pick([g for g in range(1, channels + 1) if channels % g == 0])])
    out = channels if b.chance(0.7) else groups * b.integer(1, 2)
    for _ in range(b.integer(2, 4)):
        try:
            with b.attempt():
                y = _branch(b, x, stride, groups, out)
                b.need(not branches or y.shape == branches[0].shape)
            branches.append(y)
        except NotPossibleError:
            continue
    b.need(len(branches) > 1)
    total = branches[0]
    if len(branches) > 2 and b.chance(0.2):
        return [b.one("Sum", branches)]
    for branch in branches[1:]:
        pair = [total, branch] if b.chance(0.6) else [branch, total]
        total = b.one("Sub" if b.chance(0.1) else "Add", pair)
    return [total]


def _branch(b: Builder, x: Val, stride: int, groups: int, out: int) -> Val:
    kind = b.rng.random()
    if kind < 0.15:
        return x
    if kind < 0.3:
        return batch_norm(b, x)[0]
    if kind < 0.37:
        return affine_chain(b, x)[0]
    spatial = x.rank - 2
    kernel = b.pick([[3] * spatial, [3] * spatial, [1] * spatial, [b.pick([1, 3, 5]) for _ in range(spatial)]])
    dilations = [b.pick([1, 1, 1, 2]) for _ in kernel]
    pads = [d * (k // 2) for d, k in zip(dilations, kernel, strict=True)]
    mine = groups if b.chance(0.9) else 1
    w = weight(b, [out, x.shape[1] // mine, *kernel], x.shape[1] // mine * prod(kernel))
    bias = [b.const(shifts(b, out), "bias")] if b.chance(0.3) else []
    strides = [stride if b.chance(0.95) else 3 - stride for _ in kernel]
    placed = {"pads": [*pads, *pads]} if b.chance(0.9) else {"auto_pad": "SAME_UPPER"}
    if "auto_pad" not in placed and b.chance(0.1):
        placed["pads"] = [*(2 * p for p in pads), *(0 for _ in pads)]
    window = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, **placed}
    b.need(fits_inside(x, window))
    y = b.one("Conv", [x, w, *bias], group=mine, **window)
    return batch_norm(b, y)[0] if b.chance(0.6) else y


def gate(b: Builder, x: Val) -> list[Val]:
    """Squeeze and excitation."""
    b.need(x.rank == 4)
    y = b.one("GlobalAveragePool", [x])
    w = weight(b, [x.shape[1], x.shape[1], 1, 1], x.shape[1])
    y = b.one("Sigmoid", [b.one("Conv", [y, w])])
    return [b.one("Mul", [x, y] if b.chance(0.5) else [y, x])]


def shared_weight(b: Builder, x: Val) -> list[Val]:
    """Two convolutions of one weight, each with a norm of its own."""
    b.need(x.rank in (3, 4))
    channels = x.shape[1]
    w = weight(b, [channels, channels, *[1] * (x.rank - 2)], channels)
    first = b.one("Conv", [x, w])
    second = b.one("Conv", [batch_norm(b, first)[0] if b.chance(0.5) else x, w])
    return [first, *batch_norm(b, second)]


def shape_reader(b: Builder, x: Val) -> list[Val]:
    """``x`` flattened to its own batch size, as exporters write a view."""
    b.need(b.opset >= 13 and x.rank > 2 and not b.inner)
    size = b.raw("Gather", [b.raw("Shape", [x.name]), b.stored(np.asarray(0, np.int64), "i")], axis=0)
    target = b.raw("Concat", [b.raw("Unsqueeze", [size, b.ints([0])]), b.ints([-1])], axis=0)
    return [Val(b.raw("Reshape", [x.name, target]), (x.shape[0], prod(x.shape[1:])))]


# Motifs -----------------------------------------------------------------------------------------------------------


def routed(b: Builder, x: Val) -> list[Val]:
    """A norm between two linear operations, with a few operations on the way that a map may pass."""
    y = attempted(b, linear, x)
    for operation in (*(b.pick(ROUTES) for _ in range(b.integer(0, 2))), b.pick([batch_norm, affine_chain])):
        y = attempted(b, operation, y)
    for _ in range(b.integer(0, 3)):
        y = attempted(b, b.pick(ROUTES), y)
    return [attempted(b, linear, y)]


def attempted(b: Builder, operation: Operation, x: Val) -> Val:
    """One of the outputs of ``operation``, or ``x`` where it does not apply."""
    try:
        with b.attempt():
            return b.pick(operation(b, x))
    except NotPossibleError:
        return x


def joined(b: Builder, x: Val) -> list[Val]:
    """Fresh branches that are added or put side by side, then a norm and a linear operation."""
    start = attempted(b, b.pick([batch_norm, activation]), x)
    parts = []
    for _ in range(b.integer(2, 3)):
        y = attempted(b, linear, start)
        parts.append(attempted(b, b.pick([batch_norm, batch_norm, *ROUTES]), y))
    parts = [part for part in parts if part.name != start.name]
    b.need(len(parts) > 1)
    if all(part.shape == parts[0].shape for part in parts) and b.chance(0.5):
        y = b.one(b.pick(["Add", "Sub", "Mul"]), parts[:2]) if b.chance(0.8) else b.one("Sum", parts)
    else:
        y = b.one("Concat", parts, axis=min(1, parts[0].rank - 1))
    return [attempted(b, linear, attempted(b, batch_norm, y))]


def forked(b: Builder, x: Val) -> list[Val]:
    """A norm that several linear operations read, some of them behind routes."""
    y = attempted(b, batch_norm, attempted(b, activation, x))
    parts = split(b, y) if b.chance(0.3) else [y] * b.integer(2, 3)
    return [attempted(b, linear, attempted(b, b.pick(ROUTES), part)) for part in parts]


ROUTES: tuple[Operation, ...] = (
    activation,
    prelu,
    clip,
    transpose,
    reshape,
    flatten,
    channel_shuffle,
    unsqueeze,
    squeeze,
    slice_,
    split,
    identity,
    average_pool,
    max_pool,
    global_pool,
    reduction,
    pad,
    resize,
    combine,
    concat,
    gate,
    affine_link,
)
"""Operations that a map may pass, in some direction, under some premise."""

OPERATIONS: tuple[tuple[Operation, float], ...] = (
    (batch_norm, 16),
    (affine_chain, 9),
    (layer_norm, 2),
    (rms_norm, 1),
    (group_norm, 1),
    (instance_norm, 1.5),
    (decomposed_norm, 1),
    (constant_ratio, 0.4),
    (activation, 8),
    (prelu, 1.5),
    (clip, 2),
    (gelu, 0.5),
    (swish, 0.7),
    (softmax, 0.4),
    (transpose, 3),
    (reshape, 3),
    (flatten, 1.5),
    (channel_shuffle, 1.5),
    (unsqueeze, 1.2),
    (squeeze, 1.5),
    (slice_, 2),
    (split, 2),
    (identity, 1.5),
    (gather, 0.4),
    (depth_to_space, 0.6),
    (tile, 0.4),
    (average_pool, 2),
    (max_pool, 2),
    (global_pool, 0.8),
    (reduction, 1.5),
    (pad, 2.5),
    (resize, 1.2),
    (linear, 20),
    (vector_matmul, 0.3),
    (combine, 5),
    (twice, 0.4),
    (concat, 3),
    (parallel, 3),
    (gate, 0.8),
    (matrix_product, 2),
    (activated_scale, 2),
    (shared_weight, 0.7),
    (shape_reader, 0.8),
    (routed, 10),
    (joined, 4),
    (forked, 3),
)
"""Every operation with its weight in the draw."""
