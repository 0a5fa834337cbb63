"""LayerNorm and RMSNorm as PyTorch's exporters write them at each opset: the scale and bias fold at all of them."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from folding import Folded, proven_fold
from torch_nets import define_vision_operators

WIDTH = 8
TRACED, PROGRAM = range(13, 18), (18, 20, 23)
"""Opsets of the older exporter, and of the newer one."""


def exported(norm: nn.Module, opset: int, *, bias: bool = True) -> onnx.ModelProto:
    """The file of ``norm`` before a product, with weights of either sign."""
    torch.manual_seed(opset)
    with torch.no_grad():
        for name, parameter in norm.named_parameters():
            parameter.copy_(torch.randn(WIDTH) + (name.endswith("weight") and 1.5))
    net = nn.Sequential(norm, nn.Linear(WIDTH, 6, bias=bias)).eval()
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new = opset in PROGRAM
        torch.onnx.export(net, (torch.randn(2, 5, WIDTH),), target, opset_version=opset, dynamo=new, verbose=False)
    return onnx.load_from_string(target.getvalue())


def scaled_by(folded: Folded) -> list[np.ndarray]:
    """Constants of arithmetic that are as long as what is normalised, but for what a norm must have."""
    held = {t.name: numpy_helper.to_array(t) for t in folded.result.graph.initializer}
    read = [name for node in folded.result.graph.node for name in node.input]
    return [held[name] for name in read if name in held and held[name].shape == (WIDTH,)]


def check(folded: Folded) -> None:
    """One norm, whose scale and shift have gone into the product behind it."""
    (decision,) = folded.decisions.values()
    assert decision.outcome == "part-folded", decision
    assert all((values == 1).all() or not values.any() for values in scaled_by(folded))


@pytest.mark.parametrize("opset", TRACED)
def test_layer_norm(opset: int) -> None:
    folded = proven_fold(exported(nn.LayerNorm(WIDTH), opset))
    check(folded)
    assert ("LayerNormalization" in folded.operators) == (opset >= 17)


def test_without_a_bias_behind_it_an_addition_comes_for_two_operations_that_go() -> None:
    """An operator has its scale and bias for nothing, so that there the addition would be one operation more."""
    check(proven_fold(exported(nn.LayerNorm(WIDTH), 16, bias=False)))
    folded = proven_fold(exported(nn.LayerNorm(WIDTH), 17, bias=False))
    assert "does-not-pay" in folded.refused


@pytest.mark.slow
@pytest.mark.parametrize("opset", PROGRAM)
@pytest.mark.parametrize("norm", ["LayerNorm", "RMSNorm"])
def test_of_the_newer_exporter(norm: str, opset: int) -> None:
    folded = proven_fold(exported(getattr(nn, norm)(WIDTH), opset), reference=opset == 23)
    check(folded)


def classes() -> dict[str, type[nn.Module]]:
    define_vision_operators()
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    return {"llama": LlamaRMSNorm, "t5": T5LayerNorm, "gemma": GemmaRMSNorm}


@pytest.mark.slow
@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("name", ["llama", "t5", "gemma"])
def test_the_norms_of_language_models(name: str, opset: int) -> None:
    pytest.importorskip("transformers")
    folded = proven_fold(exported(classes()[name](WIDTH), opset, bias=False))
    check(folded)
    assert "opset-has-operator" in folded.refused
