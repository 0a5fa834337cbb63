"""Whole architectures: folded modules compile and export; exported ones fold, and agree with eager."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normfold
from torch_nets import define_vision_operators, outcomes

NETWORKS = {"resnet18": 20, "mobilenetv3_small_100": 34}
"""Architecture to the norms that fold."""


@pytest.fixture(scope="module")
def timm():
    define_vision_operators()
    return pytest.importorskip("timm", reason="timm is for benchmarks")


def network(timm, name: str) -> nn.Module:
    """``name`` with random weights and live statistics."""
    net = timm.create_model(name)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 1.5)[::10] *= -1
            norm.bias.data.uniform_(-0.5, 0.5)
            norm.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 64, 64))
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_module_compiles_and_exports(timm, name: str) -> None:
    net, x = network(timm, name).double(), torch.randn(2, 3, 64, 64).double()
    model = normfold.fold(net, (x,)).model
    with torch.no_grad():
        wanted = net(x)
        torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), wanted, rtol=1e-9, atol=1e-9)
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.testing.assert_close(program.module()(x), wanted, rtol=1e-9, atol=1e-9)
    assert not any("batch_norm" in str(node.target) for node in program.graph.nodes)


@pytest.mark.slow
def test_branches_merge_in_a_graph(timm) -> None:
    net, x = network(timm, "repvgg_a0"), torch.randn(1, 3, 64, 64)
    result = normfold.fold_program(net, (x,), dynamic={"x": {0: "batch"}})
    assert list(outcomes(result).values()) == ["folded"] * 61
    assert sum("conv2d" in str(node.target) for node in result.model.graph.nodes) == 22
    assert result.verification.status == "equivalent"


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_an_export_folds(timm, name: str) -> None:
    result = normfold.export(network(timm, name), (torch.randn(1, 3, 64, 64),), dynamic={"x": {0: "batch"}})
    assert list(outcomes(result).values()) == ["folded"] * NETWORKS[name]
    assert result.verification.status == "equivalent"
    assert "BatchNormalization" not in {node.op_type for node in result.model.graph}
