"""What a node must be like to be lifted: where it is not, the premise that says so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from folding import array, model
from normfold.backends.onnx import OnnxGraph
from normfold.core.views import Opaque
from normfold.runtime import CHECKER

IMAGE, SEQUENCE = "float[2, 4, 6, 6] x", "float[5, 2, 4] x"
RNN = "y, last = RNN <hidden_size = 3> (x, w, r, z)"
GATES = {"w": array(1, 3, 4), "r": array(1, 3, 3), "z": array(1, 6)}

CASES: dict[str, tuple[str, str, str, Mapping[str, np.ndarray]]] = {
    # What is different, the premise, the input, the node and what it reads.
    "a convolution by a matrix": ("well-formed", "float[2, 4] x", "y = Conv(x, w)", {"w": array(4, 4)}),
    "groups that do not divide": ("well-formed", IMAGE, "y = Conv <group = 3> (x, w)", {"w": array(4, 4, 1, 1)}),
    "gates of one direction too few": ("well-formed", SEQUENCE, RNN, {**GATES, "w": array(3, 4)}),
    "a product of two values, one a vector": ("matrix", "float[4, 4] x, float[4] v", "y = MatMul(x, v)", {}),
    "a row that is repeated along another axis": (
        "row-axis",
        IMAGE,
        "y = Expand(w, sizes)",
        {"w": array(1, 1, 4), "sizes": np.array([2, 3, 4])},
    ),
    "several rows that are repeated": (
        "row-axis",
        IMAGE,
        "y = Expand(w, sizes)",
        {"w": array(2, 4), "sizes": np.array([3, 2, 4])},
    ),
    "a row that something else reads": (
        "parameter-untied",
        IMAGE,
        "z = Neg(w) y = Expand(w, sizes)",
        {"w": array(1, 4), "sizes": np.array([3, 4])},
    ),
    "half a bias of gates": ("well-formed", SEQUENCE, RNN, {**GATES, "z": array(1, 3)}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_lifted(case: str) -> None:
    premise, inputs, node, held = CASES[case]
    graph = OnnxGraph(ir.from_proto(model(inputs, [node], dict(held))), CHECKER.infer)
    view = graph.view(graph.nodes()[-1])
    assert isinstance(view, Opaque)
    assert {refusal.premise for refusal in view.refusals} == {premise}
