"""No norm is kept without a reason, whatever its operands look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from folding import only_fold
from normfold.backends.onnx.norms.sites import NORM_OPERATORS
from normfold.records import Decision

OPSETS = (6, 17, 23)
MOST_OPERANDS = 7
ML = "ai.onnx.ml"


def alone(domain: str, operator: str, operands: Sequence[str], *, opset: int, ranked: bool) -> onnx.ModelProto:
    """A model of one norm between a product and an activation; operands are ``stored``, ``given`` or left out."""
    names = [f"{kind}{slot}" if kind else "" for slot, kind in enumerate(operands, start=1)]
    shape = [2, 4, 5, 4] if ranked else None
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in names if name[:5] == "given"]
    stored = [numpy_helper.from_array(np.ones(4, "f"), name) for name in names if name[:6] == "stored"]
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["h"]),
        helper.make_node(operator, ["h", *names], ["n"], name="norm", domain=domain),
        helper.make_node("Sigmoid", ["n"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "net", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], stored
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def variants() -> Iterator[list[str]]:
    """Every number of operands, all of one kind; and one that is left out in the middle."""
    for count in range(MOST_OPERANDS + 1):
        for kind in ("stored", "given"):
            yield [kind] * count
        if count > 1:
            yield ["stored", "", *["stored"] * (count - 2)]


@pytest.mark.parametrize(("domain", "operator"), sorted(NORM_OPERATORS))
def test_every_operator_that_is_a_norm_has_a_decision_with_a_reason(domain: str, operator: str) -> None:
    seen = set()
    for operands in variants():
        for opset in OPSETS:
            for ranked in (True, False):
                folded = only_fold(alone(domain, operator, operands, opset=opset, ranked=ranked))
                decision = folded.decisions["norm"]
                assert decision.refused_by or decision.outcome == "folded", (operands, opset, ranked)
                seen.add(decision.outcome)
    assert "kept" in seen or domain == ML


@pytest.mark.parametrize("outcome", ["kept", "part-folded"])
def test_a_decision_without_a_reason_cannot_be_made(outcome: str) -> None:
    with pytest.raises(ValueError, match=r"'bn1' is .* without a reason"):
        Decision("bn1", "BatchNormalization", outcome)  # type: ignore[arg-type]
