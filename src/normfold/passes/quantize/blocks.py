"""The recipe for four bits: weights of products in blocks, activations in floating point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from normfold.backends.onnx.dequantize import dequantize
from normfold.backends.onnx.integers.blocks import products, write_blocks
from normfold.backends.onnx.integers.tables import narrow_tables
from normfold.core.algebra.affine import Array
from normfold.passes.quantize.figures import NodeFigures
from normfold.passes.quantize.recipe import Quantized, Work
from normfold.passes.quantize.seen import observed

SIZES: Final = (32, 128)
"""Codes of a block: small ones are more accurate, large ones smaller and faster."""
LEVELS: Final = (0, 4)
"""Accuracy levels of ONNX Runtime: as it is stored, and with the inputs rounded to eight bits, which is fast."""
BUDGETS: Final[Mapping[int, float]] = {0: 1e-3, 4: 0.05}
"""Deviation from the same weights in floating point, relative to the output's range, that each level may add."""


def blocks(work: Work) -> Sequence[Quantized]:
    """One model for each size of blocks and accuracy level; empty where no product has a constant matrix."""
    model = work.fresh()
    found = list(products(model))
    if not found:
        return []
    importance = _importance(work, {one.data for one in found})
    operators = {str(node.name or node.outputs[0].name): node.op_type for node in model.graph}
    made = []
    for size in SIZES:
        work.progress(f"blocks of {size}")
        for level in LEVELS:
            result = work.fresh()
            narrow_tables(result)
            written = frozenset(write_blocks(result, size, level, importance))
            nodes = tuple(_figures(name, operator, name in written) for name, operator in operators.items())
            simulation = result.clone()
            dequantize(simulation)
            name = f"blocks of {size}, accuracy level {level}"
            made.append(Quantized(result, "int4", "contrib", nodes, simulation, BUDGETS[level], name=name))
    return made


def _importance(work: Work, names: set[str]) -> dict[str, Array]:
    """Mean squares of the values named, by their last axis; empty without data."""
    if work.calibration is None:
        return {}
    work.progress("calibrating")
    seen = observed(work, work.fresh(), work.calibration, dict.fromkeys(names, -1))
    return {name: arrays["squares"] / arrays["extent"][3] for name, arrays in seen.items() if arrays["squares"].size}


def _figures(name: str, operator: str, quantized: bool) -> NodeFigures:  # noqa: FBT001 - one of two figures
    because = "" if quantized else "it is no product with a constant matrix"
    return NodeFigures(name, operator, "int4" if quantized else "fp32", because)
