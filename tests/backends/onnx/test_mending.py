"""Biases of zeros in the wrong shape, as PyTorch's exporter writes them for a 3-D convolution that has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import normfold
from folding import array, model, norm, statistics

IMAGE = "float[1, 2, 5, 5, 5] x"
EXPORTED = [
    "whole = Shape(w)",
    "one = Constant <value = int64[1] {1}> ()",
    "sizes = Concat <axis = 0> (whole, one)",
    "zero = Constant <value = float {0}> ()",
    "like = CastLike(zero, x)",
    "c = Expand(like, sizes)",
    "[linear] h = Conv(x, w, c)",
]


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]


def test_what_pytorch_exports_is_mended_and_folded(tmp_path: Path) -> None:
    source = model(IMAGE, [*EXPORTED, norm("h", "y")], {"w": array(3, 2, 3, 3, 3), **statistics(3)})
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="bias"):
        run(source, np.zeros((1, 2, 5, 5, 5), np.float32))
    for given in (source, str(tmp_path / "exported.onnx")):
        if isinstance(given, str):
            onnx.save(source, given)
        result = normfold.fold(given, output=tmp_path / "folded.onnx")
        assert [decision.outcome for decision in result.decisions] == ["folded"]
        assert result.verification.status == "equivalent"
        assert "biases of zeros" in result.verification.because
        folded = onnx.load(tmp_path / "folded.onnx")
        assert [node.op_type for node in folded.graph.node] == ["Conv"]
        x = array(1, 2, 5, 5, 5)
        reference = model(
            IMAGE, ["[linear] h = Conv(x, w)", norm("h", "y")], {"w": array(3, 2, 3, 3, 3), **statistics(3)}
        )
        np.testing.assert_allclose(run(folded, x), run(reference, x), rtol=1e-4, atol=1e-4)
        assert normfold.verify(given, tmp_path / "folded.onnx").verification.status == "equivalent"


def test_a_model_with_nothing_to_fold_is_mended() -> None:
    source = model(IMAGE, ["y = Conv(x, w, c)"], {"w": array(3, 2, 3, 3, 3), "c": np.zeros(1, np.float32)})
    result = normfold.fold(source).model
    assert list(result.graph.node[0].input) == ["x", "w"]
    assert [tensor.name for tensor in result.graph.initializer] == ["w"]
    assert len(source.graph.node[0].input) == 3


@pytest.mark.parametrize(
    "bias",
    [
        np.full(1, 0.5, np.float32),
        np.array([0, 0, 0, 0.1], np.float32),
        np.zeros(3, np.float32),
        np.zeros(0, np.float32),
    ],
    ids=["one number", "too many", "as it should be", "none"],
)
def test_a_bias_that_may_mean_something_stays(bias: np.ndarray) -> None:
    source = model(IMAGE, ["y = Conv(x, w, c)"], {"w": array(3, 2, 3, 3, 3), "c": bias})
    assert list(normfold.fold(source, verify=False).model.graph.node[0].input) == ["x", "w", "c"]


def test_a_bias_that_a_caller_may_set_stays() -> None:
    source = model(
        f"{IMAGE}, float[1] c", ["y = Conv(x, w, c)"], {"w": array(3, 2, 3, 3, 3), "c": np.zeros(1, np.float32)}
    )
    assert list(normfold.fold(source, verify=False).model.graph.node[0].input) == ["x", "w", "c"]


@pytest.mark.parametrize("kind", [nn.Conv3d, nn.ConvTranspose3d])
def test_our_own_export_of_a_convolution_without_a_bias_runs(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(kind(2, 3, 3, bias=False), nn.BatchNorm3d(3), nn.ReLU()).eval()
    result = normfold.export(module, torch.randn(1, 2, 5, 5, 5))
    assert result.verification.status == "equivalent"
    assert [decision.outcome for decision in result.decisions] == ["folded"]
