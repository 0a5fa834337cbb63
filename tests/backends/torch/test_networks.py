"""Whole networks: equal to what they came from, and to what folding their export gives."""

from __future__ import annotations

import sys
from collections import Counter
from os import environ
from pathlib import Path

import pytest
import torch
from torch import nn

import normfold
from torch_nets import define_vision_operators

GARDEN = Path(environ.get("NORMFOLD_GARDEN", Path(__file__).resolve().parents[4] / "shared" / "garden"))
NETWORKS = {
    "resnet20": {"folded": 21},
    "mobilenetv2": {"folded": 40},
    "repvgg": {"folded": 16, "kept": 5},
    "densenet": None,
    "relubn": {"folded": 2, "kept": 3},
    "convnext": None,
    "vit": {"part-folded": 13},
    "denoiser": {"folded": 7},
}
TIMM = {
    "mobilenetv3_small_100": 64,
    "efficientnet_b0": 64,
    "tf_efficientnet_b0": 64,
    "resnet18": 64,
    "regnety_002": 64,
    "densenet121": 64,
    "dpn68": 64,
    "ghostnet_100": 64,
    "hrnet_w18_small": 64,
    "repvgg_a0": 64,
    "resnetv2_50": 64,
    "fastvit_t8": 64,
    "convnext_atto": 64,
    "levit_128s": 224,
    "xcit_nano_12_p16_224": 224,
}


def garden(name: str) -> nn.Module:
    if not (GARDEN / "load.py").exists():
        pytest.skip(f"no trained networks at {GARDEN}")
    pytest.importorskip("safetensors")
    pytest.importorskip("PIL")
    if str(GARDEN) not in sys.path:
        sys.path.append(str(GARDEN))
    from load import network

    return network(name)


@pytest.fixture(scope="module")
def timm():
    define_vision_operators()
    return pytest.importorskip("timm", reason="timm is for benchmarks")


def counted(result) -> dict[str, int]:
    return dict(Counter(decision.outcome for decision in result.decisions))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_trained_network(name: str) -> None:
    net, x = garden(name), torch.randn(2, 3, 32, 32)
    result = normfold.fold(net, (x,))
    assert NETWORKS[name] in (None, counted(result))
    assert result.verification.status == "equivalent"
    assert result.verification.max_rel < 1e-5
    assert set(net.state_dict()) - set(result.removed) | set(result.added) == set(result.model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_an_architecture(timm, name: str) -> None:
    size = TIMM[name]
    net, x = timm.create_model(name), torch.randn(2, 3, size, size)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d):
            norm.weight.data.uniform_(0.5, 1.5)[::10] *= -1
            norm.bias.data.uniform_(-0.5, 0.5)
            norm.momentum = None
    with torch.no_grad():
        net.train()(torch.randn(4, 3, size, size))
    net = net.double().eval()
    result = normfold.fold(net, (x.double(),))
    assert result.verification.status == "equivalent"
    assert result.verification.max_rel < 1e-9
    assert set(net.state_dict()) - set(result.removed) | set(result.added) == set(result.model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_square(name: str) -> None:
    """Folding, then exporting, and exporting, then folding leave the same norms and agree with the network."""
    pytest.importorskip("onnxscript")
    onnx_ir, runtime = pytest.importorskip("onnx_ir"), pytest.importorskip("onnxruntime")
    net, x = garden(name), torch.randn(2, 3, 32, 32)
    before = normfold.fold(net, (x,))

    def exported(module: nn.Module):
        return torch.onnx.export(module, (x,), dynamo=True, optimize=False, verbose=False).model

    def run(model):
        session = runtime.InferenceSession(
            onnx_ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])

    after = normfold.fold(exported(net))
    with torch.no_grad():
        wanted = net(x)
    for model in (exported(before.model), after.model):
        torch.testing.assert_close(run(model), wanted, rtol=1e-4, atol=1e-4)
    batch_norms = [decision for decision in before.decisions if decision.norm.startswith("BatchNorm")]
    theirs = [decision for decision in after.decisions if decision.norm == "BatchNormalization"]
    assert len(batch_norms) == len(theirs)
    for mine, other in zip(batch_norms, theirs, strict=True):
        needs = {"needs-structure"} & {refusal.premise for refusal in mine.refused_by}
        assert mine.outcome == other.outcome or needs, (mine, other)
