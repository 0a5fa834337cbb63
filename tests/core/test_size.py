"""How large a model is, the same way on both backends."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from torch import nn, zeros

import normfold
from folding import array, model
from normfold.backends.onnx import OnnxGraph, stored
from normfold.core.size import size
from normfold.runtime import CHECKER


def of(body: list[str], inputs: str, **held: np.ndarray):
    written = ir.from_proto(model(inputs, body, held))
    return size(OnnxGraph(written, CHECKER.infer), *stored(written))


@pytest.mark.parametrize(
    ("line", "weight", "inputs", "macs"),
    [
        ("y = Conv <pads = [1, 1, 1, 1]> (x, w)", (8, 3, 3, 3), "float[1,3,6,6] x", 8 * 27 * 36),
        ("y = Conv <strides = [2, 2]> (x, w)", (8, 3, 2, 2), "float[1,3,6,6] x", 8 * 12 * 9),
        ("y = Conv <pads = [2, 2, 2, 2]> (x, w)", (8, 3, 3, 3), "float[1,3,6,6] x", 8 * 27 * 64),
        ("y = Conv <group = 4, pads = [1, 1, 1, 1]> (x, w)", (4, 1, 3, 3), "float[2,4,6,6] x", 2 * 4 * 9 * 36),
        ("y = ConvTranspose <strides = [2, 2]> (x, w)", (3, 8, 2, 2), "float[1,3,6,6] x", 8 * 12 * 36),
        ("y = MatMul(x, w)", (16, 32), "float[batch,10,16] x", 10 * 16 * 32),
        ("y = MatMul(x, w)", (16, 32), "float[batch,n,16] x", None),
    ],
)
def test_multiply_accumulates(line: str, weight: tuple[int, ...], inputs: str, macs: int | None) -> None:
    found = of([line], inputs, w=array(*weight))
    assert (found.nodes, found.parameters, found.nbytes) == (1, np.prod(weight), 4 * np.prod(weight))
    assert found.macs == macs


def test_a_module_and_its_export_have_the_same_size() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    folded = normfold.fold(module, (zeros(1, 3, 8, 8),))
    assert folded.sizes is not None
    before, after = folded.sizes
    assert (before.nodes, after.nodes) == (4, 3)
    assert before.parameters - after.parameters == 4 * 8
    assert before.macs == after.macs == 36 * (8 * 27 + 8 * 4)
    exported = normfold.export(module, (zeros(1, 3, 8, 8),)).sizes
    assert exported is not None
    assert exported[1] == after
