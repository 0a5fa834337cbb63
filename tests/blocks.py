"""Products with a weight quantised in blocks, written as text with their constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from folding import array, model

INPUTS, OUTPUTS, SIZE = 40, 6, 16
BLOCKS = -(-INPUTS // SIZE)
TOKENS = f"float[2, 3, {INPUTS}] x"


def product(
    x: str = "x",
    y: str = "y",
    *,
    bits: int = 4,
    level: int = 0,
    inputs: int = INPUTS,
    zeros: str = "",
    bias: bool = True,
) -> str:
    """The node that multiplies ``x``."""
    operands = f"{x}, q, qs, {zeros}{', , qb' if bias else ''}".rstrip(", ")
    sizes = f"K = {INPUTS}, N = {OUTPUTS}, bits = {bits}, block_size = {SIZE}, accuracy_level = {level}"
    return f"[linear] {y} = com.microsoft.MatMulNBits <{sizes}> ({operands})"


def held(*, bits: int = 4, zeros: str = "", bias: bool = True, kind: Any = np.float32) -> dict[str, np.ndarray]:
    """Its constants."""
    rng = np.random.default_rng([bits, len(zeros)])
    per_byte = 8 // bits
    found = {
        "q": rng.integers(0, 256, (OUTPUTS, BLOCKS, SIZE // per_byte)).astype(np.uint8),
        "qs": (rng.uniform(0.01, 0.05, (OUTPUTS, BLOCKS)) * rng.choice([-1, 1], (OUTPUTS, BLOCKS))).astype(kind),
    }
    if zeros == "packed":
        found[zeros] = rng.integers(0, 256, (OUTPUTS, -(-BLOCKS // per_byte))).astype(np.uint8)
    elif zeros:
        found[zeros] = rng.uniform(0, 2**bits, (OUTPUTS, BLOCKS)).astype(kind)
    return found | ({"qb": array(OUTPUTS).astype(kind)} if bias else {})


def network(body: Sequence[str], constants: Mapping[str, np.ndarray], inputs: str = TOKENS) -> onnx.ModelProto:
    """A model of these nodes."""
    return model(inputs, body, constants, imports='"com.microsoft" : 1')
