"""What norms cost, what they could become, and what to choose; the bound beside it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import normfold
from folding import array, model
from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.bare import mark, take_out
from normfold.cli.application import run
from normfold.models.source import onnx_source
from normfold.passes.convert import KINDS, MATRIX
from normfold.passes.convert.advice import _CHOICES, PURPOSES
from normfold.report.schema import schema
from normfold.runtime import CHECKER

BODY = [
    "h = MatMul(x, w)",
    "[first] n = LayerNormalization(h, g, b)",
    "a = Relu(n)",
    "[second] m = LayerNormalization(a, g, b)",
    "y = MatMul(m, v)",
]


@pytest.fixture
def net() -> onnx.ModelProto:
    held = {"w": array(16, 256), "g": array(256), "b": array(256, seed=1), "v": array(256, 4)}
    return model("float[N,64,16] x", BODY, held)


def test_every_kind_has_a_choice_for_every_purpose() -> None:
    assert set(_CHOICES) == set(KINDS)
    for kind, row in _CHOICES.items():
        assert tuple(row) == PURPOSES
        # What is advised can be asked for, with more or less.
        assert all(to is None or MATRIX[kind][to][0].label is not None for to, _ in row.values())


def test_the_network_without_its_norms(net: onnx.ModelProto) -> None:
    bare = take_out(OnnxGraph(onnx_source(net).fresh(), CHECKER.infer), ["first", "second"])
    assert [node.op_type for node in bare.graph] == ["MatMul", "Relu", "MatMul"]
    graph = OnnxGraph(onnx_source(net).fresh(), CHECKER.infer)
    marks = mark(graph, ["second"])
    named = [node.op_type for node in graph.model.graph if marks["second"] in (node.name or "")]
    assert named == ["LayerNormalization"]


def test_a_norm_that_is_written_out_is_taken_out_whole() -> None:
    mean = "ReduceMean <axes = [-1]>"
    body = [f"h = MatMul(x, w) mu = {mean} (h) c = Sub(h, mu) sq = Mul(c, c) v0 = {mean} (sq) v1 = Add(v0, epsilon)"]
    body += ["sd = Sqrt(v1) d = Div(c, sd) n0 = Mul(d, g) n = Add(n0, b) y = Relu(n)"]
    held = {"w": array(16, 8), "g": array(8), "b": array(8, seed=1), "epsilon": np.array(1e-5, np.float32)}
    graph = OnnxGraph(onnx_source(model("float[2,16] x", body, held, opset=17)).fresh(), CHECKER.infer)
    (site,) = graph.sites()
    assert [node.op_type for node in take_out(graph, [site.name]).graph] == ["MatMul", "Relu"]


@pytest.mark.slow
def test_figures_and_advice(net: onnx.ModelProto, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx.save(net, tmp_path / "net.onnx")
    assert run(["advise", str(tmp_path / "net.onnx"), "--batch", "1", "--use", "edge", "--json"]) == 0
    parsed = json.loads(capfd.readouterr().out)
    jsonschema.validate(parsed, schema())
    result = parsed["result"]
    assert result["refused"] is None
    assert [norm["kind"] for norm in result["norms"]] == ["layer", "layer"]
    assert all(norm["share"] > 0 for norm in result["norms"])
    assert result["share"] == pytest.approx(sum(norm["share"] for norm in result["norms"]))
    assert result["bound"] > 0
    options = {option["to"]: option["label"] for option in result["norms"][0]["options"]}
    assert (options["rms"], options["dyt"]) == ("exact", "needs-training")
    assert "layer" not in options
    assert [choice["for"] for choice in result["norms"][0]["choose"]] == list(PURPOSES)


@pytest.mark.slow
def test_a_module_and_what_is_folded_at_load() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    done = normfold.advise(module, (torch.randn(1, 3, 8, 8),))
    (norm,) = done.norms
    assert (norm.advised.kind, norm.fold, norm.share) == ("batch", "folded", 0.0)
    text = str(done)
    assert "fine-tuning at small batches" in text
    assert "no conversion is faster" in text


def test_a_model_without_norms() -> None:
    done = normfold.advise(model("float[2,3] x", ["y = Relu(x)"], {}))
    assert (done.norms, done.bound) == ((), None)
    assert done.document()["norms"] == []


def test_a_model_that_cannot_be_timed_is_advised_nevertheless() -> None:
    source = model("float[2,8] x", ["n = LayerNormalization(x, g)", "y = Nonsense <a = 1> (n)"], {"g": array(8)})
    source.graph.node[1].domain = "nowhere"
    source.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    done = normfold.advise(source)
    assert [norm.advised.kind for norm in done.norms] == ["layer"]
    assert done.refused is not None
    assert "nothing was measured" in str(done)
