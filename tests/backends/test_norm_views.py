"""What both backends say of a norm with live statistics: its kind, axes, epsilon and groups."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from folding import array, model
from normfold.backends.onnx import OnnxGraph
from normfold.core.views import Groups, Norm
from normfold.runtime import CHECKER

IMAGE, TOKENS = "float[2, 4, 6, 6] x", "float[2, 5, 4] x"
SCALE, BOTH = {"g": array(4)}, {"g": array(4), "b": array(4, seed=1)}


def norm_of(source: onnx.ModelProto) -> Norm:
    graph = OnnxGraph(ir.from_proto(source), CHECKER.infer)
    (found,) = (view for node in graph.nodes() if isinstance(view := graph.view(node), Norm))
    return found


FILES = {
    "layer": (TOKENS, "LayerNormalization <epsilon = 0.5> (x, g, b)", ("layer", (-1,), 0.5, None)),
    "layer-from-the-front": (TOKENS, "LayerNormalization <axis = 2> (x, g)", ("layer", (-1,), 1e-5, None)),
    "rms": (TOKENS, "SimplifiedLayerNormalization <epsilon = 0.25> (x, g)", ("rms", (-1,), 0.25, None)),
    "instance": (IMAGE, "InstanceNormalization(x, g, b)", ("instance", (-2, -1), 1e-5, Groups(-3, 4))),
    "group": (
        IMAGE,
        "GroupNormalization <num_groups = 2> (x, g, b)",
        ("group", (-3, -2, -1), 1e-5, Groups(-3, 2)),
    ),
    "mean-variance": (IMAGE, "MeanVarianceNormalization(x)", ("mean-variance", (-4, -2, -1), 1e-9, None)),
    "lp": (IMAGE, "LpNormalization <axis = 1> (x)", ("lp", (-3,), 0.0, None)),
    "local-response": (IMAGE, "LRN <size = 3, bias = 2.0> (x)", ("local-response", (-3,), 2.0, None)),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file(case: str) -> None:
    inputs, call, wanted = FILES[case]
    held = {name: values for name, values in BOTH.items() if f", {name}" in call}
    view = norm_of(model(inputs, f"y = {call}", held, opset=21, ir_version=10))
    assert (view.kind, view.axes, pytest.approx(view.epsilon), view.groups) == wanted


def test_axes_of_an_unknown_rank() -> None:
    body = ["h = Reshape(x, shape)", "y = LayerNormalization <axis = 1> (h, g)"]
    assert norm_of(model("float[2, 4] x, int64[k] shape", body, SCALE)).axes is None


def test_a_norm_that_is_written_out() -> None:
    body = [
        "m = ReduceMean <axes = [-1]> (x)",
        "c = Sub(x, m)",
        "s = Mul(c, c)",
        "v = ReduceMean <axes = [-1]> (s)",
        "e = Add(v, eps)",
        "d = Sqrt(e)",
        "y = Div(c, d)",
    ]
    view = norm_of(model(TOKENS, body, {"eps": array(1)[0] ** 2}))
    assert (view.kind, view.axes) == ("layer", (-1,))
    assert view.epsilon == pytest.approx(float(array(1)[0] ** 2))


def test_modules() -> None:
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from normfold.backends.torch import TorchGraph, trace

    def found(module: torch.nn.Module, *shape: int) -> tuple[object, ...]:
        graph = TorchGraph(trace(module.eval(), (torch.randn(shape),), {}))
        (view,) = (view for node in graph.nodes() if isinstance(view := graph.view(node), Norm))
        return view.kind, view.axes, view.epsilon, view.groups

    nn = torch.nn
    assert found(nn.LayerNorm((5, 4), eps=0.5), 2, 5, 4) == ("layer", (-2, -1), 0.5, None)
    assert found(nn.RMSNorm(4), 2, 5, 4) == ("rms", (-1,), None, None)
    assert found(nn.GroupNorm(2, 4), 2, 4, 6, 6) == ("group", (-3, -2, -1), 1e-5, Groups(-3, 2))
    assert found(nn.InstanceNorm2d(4, affine=True), 2, 4, 6, 6) == ("instance", (-2, -1), 1e-5, Groups(-3, 4))
