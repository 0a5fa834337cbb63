"""A norm that subtracts a mean does not see whether it was subtracted before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from folding import Example, array, make_feeds, model, run
from normfold.core.views import Linear
from routes import centring, refused_centring, sent

TOKENS = "float[2, 5, 3] x"
HELD = {"u": array(3, 4), "v": array(4, 4, seed=1), "g": array(4), "b": array(4, seed=2), "t": array(5, 4, seed=3)}
BLOCK = [
    "[embed] e = MatMul(x, u)",
    "[position] s0 = Add(e, t)",
    "[norm1] n1 = LayerNormalization(s0, g, b)",
    "[mix] a = MatMul(n1, v)",
    "s1 = Add(s0, a)",
    "[norm2] n2 = LayerNormalization(s1, g, b)",
    "[feed] f = MatMul(n2, v)",
    "s2 = Add(s1, f)",
    "[last] y = LayerNormalization(s2, g, b)",
]


def test_a_residual_stream_takes_it_whole() -> None:
    """Every writer has centred channels then, and no norm sees it."""
    source = model(TOKENS, BLOCK, HELD)
    graph, plan, failed = sent(source, "last", centring())
    assert plan is not None, failed
    graph.commit(plan)
    feeds = make_feeds(source)
    after = ir.to_proto(graph.model)
    np.testing.assert_allclose(run(after, feeds)["y"], run(source, feeds)["y"], rtol=1e-4, atol=1e-5)
    for node in graph.nodes():
        view = graph.view(node)
        if isinstance(view, Linear):
            np.testing.assert_allclose(view.weight.canonical().mean(axis=1), 0, atol=1e-6)


@pytest.mark.parametrize(
    "line",
    [
        "z = LayerNormalization <axis = 1> (h, q)",
        "z = RMSNormalization (h, g)",
        "z = InstanceNormalization (h, c, c)",
    ],
)
def test_same_in_group(line: str) -> None:
    body = ["h = MatMul(x, u)", line, "[last] y = Neg(h)"]
    held = {"u": array(3, 4), "g": array(4), "q": array(5, 4), "c": array(5)}
    source = model(TOKENS, body, held, outputs="float[] y, float[] z", opset=23, ir_version=10)
    assert refused_centring(source) == {"single-use", "same-in-group"}


EXAMPLES = (
    Example(
        model(
            TOKENS,
            ["h = MatMul(x, u)", "[last] y = LayerNormalization(h, g)", "z = LayerNormalization(h, b)"],
            {"u": array(3, 4), "g": array(4), "b": array(4)},
            outputs="float[] y, float[] z",
        ),
        sends=("last", centring()),
    ),
)
