"""The same norm has the same findings as a module and as a file."""

from __future__ import annotations

import onnx
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from torch import nn  # noqa: E402

import normfold  # noqa: E402
from folding import array, model, norm  # noqa: E402


def healthy(channels: int = 4) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for k, tensor in enumerate((layer.weight, layer.bias, layer.running_mean)):
            tensor.copy_(torch.from_numpy(array(channels, seed=k)))
        layer.running_var.copy_(torch.arange(1.0, channels + 1))
    return layer.eval()


def broken(name: str, *values: float) -> nn.BatchNorm2d:
    layer = healthy()
    with torch.no_grad():
        getattr(layer, name)[: len(values)] = torch.tensor(values)
    return layer


def as_file(layer: nn.BatchNorm2d) -> onnx.ModelProto:
    names = {"s": layer.weight, "b": layer.bias, "m": layer.running_mean, "v": layer.running_var}
    held = {name: tensor.detach().numpy() for name, tensor in names.items()}
    return model("float[2, 4, 5, 5] x", ["h = Conv(x, w)", norm("h", "y")], held | {"w": array(4, 4, 1, 1)})


CASES = {
    "healthy": (healthy(), 0),
    "dead": (broken("running_var", 0.0, 1e-7), 1),
    "zero gamma": (broken("weight", 0.0), 1),
    "zero and tiny gamma": (broken("weight", 0.0, 1e-12), 2),
    "negative variance": (broken("running_var", -1.0), 1),
    "not a number": (broken("running_mean", float("nan")), 1),
    "never updated": (nn.BatchNorm2d(4).eval(), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_findings_are_the_same_verbatim(name: str) -> None:
    layer, count = CASES[name]
    module = nn.Sequential(nn.Conv2d(4, 4, 1), layer).eval()
    (as_module,) = normfold.inspect(module, (torch.randn(2, 4, 5, 5),)).norms
    (in_file,) = normfold.inspect(as_file(layer)).norms
    assert as_module.health == in_file.health
    assert len(in_file.health) == count
