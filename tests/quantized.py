"""Operations with quantised weights, written as text with their constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from folding import Folded, statistics

Arrays = Mapping[str, np.ndarray]


def codes(*shape: int, dtype: object = np.int8, seed: int = 0) -> np.ndarray:
    """Codes of every size whose mirror image at `zero_points` is in their type."""
    info = np.iinfo(dtype)
    high = min(int(info.max), 255)
    low = -high if info.min else 1
    return np.random.default_rng([seed, *shape]).integers(low, high + 1, shape).astype(dtype)


def scales(count: int, seed: int = 0) -> np.ndarray:
    """One scale for each channel."""
    return np.random.default_rng([seed, count]).uniform(0.01, 0.05, count).astype(np.float32)


def weight(
    *shape: int, axis: int, dtype: object = np.int8, single: bool = False, zero_point: int | None = 0
) -> tuple[str, dict[str, np.ndarray]]:
    """The node that makes ``w``, and its constants."""
    count = 1 if single else shape[axis]
    constants = {"q": codes(*shape, dtype=dtype), "ws": scales(count).reshape(() if single else (count,))}
    operands = "q, ws"
    if zero_point is not None:
        constants["wz"] = np.full(constants["ws"].shape, zero_point, dtype)
        operands += ", wz"
    attributes = "" if single else f" <axis = {axis}>"
    return f"[dequantize] w = DequantizeLinear{attributes} ({operands})", constants


def activation(shape: str) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """The input's declaration, and the nodes that quantise it."""
    nodes = ["xq = QuantizeLinear (x, xs, xz)", "xd = DequantizeLinear (xq, xs, xz)"]
    return f"float[{shape}] x", nodes, {"xs": np.float32(0.03), "xz": np.uint8(120)}


def after(channels: int) -> dict[str, np.ndarray]:
    """Statistics of a norm, and of them the scale by channel is `factors`."""
    return statistics(channels)


def factors(constants: Arrays) -> np.ndarray:
    """What the norm of `statistics` multiplies each channel by."""
    s, v = (constants[name].astype(np.float64) for name in "sv")
    return s / np.sqrt(v + 0.001)


@dataclass(frozen=True)
class Stored:
    """What one DequantizeLinear of a model reads."""

    node: onnx.NodeProto
    values: tuple[np.ndarray, ...]

    @property
    def codes(self) -> np.ndarray:
        return self.values[0]

    @property
    def scale(self) -> np.ndarray:
        return self.values[1]

    @property
    def axis(self) -> int | None:
        return next((a.i for a in self.node.attribute if a.name == "axis"), None)


def behind(proto: onnx.ModelProto, op: str, slot: int, name: str | None = None) -> Stored:
    """What stands behind input ``slot`` of the first ``op``, or of that of a ``name``."""
    held = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    user = next(node for node in proto.graph.node if node.op_type == op and name in (None, node.name))
    made = next(node for node in proto.graph.node if user.input[slot] in node.output)
    assert made.op_type == "DequantizeLinear"
    return Stored(made, tuple(held[name] for name in made.input))


def check_payload(folded: Folded, op: str, given: Arrays, factor: np.ndarray, axis: int, slot: int = 1) -> Stored:
    """The codes are the source's to the bit, mirrored where ``factor`` (by channel) is negative; the scales are new."""
    stored = behind(folded.result, op, slot)
    old, zero = np.moveaxis(given["q"].astype(np.int64), axis, 0), int(given.get("wz", np.int8(0)).flat[0])
    wanted = [2 * zero - row if a < 0 else row for row, a in zip(old, factor, strict=True)]
    assert stored.codes.dtype == given["q"].dtype
    assert np.array_equal(np.moveaxis(stored.codes.astype(np.int64), axis, 0), np.stack(wanted))
    scale = (given["ws"].astype(np.float64) * np.abs(factor)).astype(np.float32)
    assert np.array_equal(stored.scale, scale)
    return stored
