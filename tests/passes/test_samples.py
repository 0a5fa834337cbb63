"""What textbooks show: a norm between two layers, inputs scaled to [0, 1], a U-Net of groups, an LSTM between norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normfold
from normfold.backends.torch.modules import Regrouped

EXACT = 1e-12


def shaken(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.data, norm.running_var.data = torch.randn(16), torch.rand(16) + 0.1
    return module.double().eval()


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).abs().max() / (wanted.max() - wanted.min()))


class MinMax(nn.Module):
    """Inputs scaled to [0, 1] by the least and the greatest that training has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", 1 / (torch.rand(8) + 0.5))
        self.register_buffer("low", torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.low) * self.scale


class Classifier(nn.Module):
    def __init__(self, *, scaled: bool) -> None:
        super().__init__()
        self.scaling = MinMax() if scaled else nn.Identity()
        self.fc1, self.bn1, self.fc2 = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.relu(self.bn1(self.fc1(self.scaling(x)))))


@pytest.mark.parametrize("scaled", [False, True])
def test_a_classifier(scaled: bool) -> None:
    net, x = shaken(Classifier(scaled=scaled)), torch.randn(4, 8, dtype=torch.float64)
    done = normfold.convert(net, (x,), to="static")
    decision = next(one for one in done.decisions if one.site == "bn1")
    assert (decision.outcome, decision.into, decision.label) == ("converted", ("fc1",), "exact")
    assert error(done.model(100 * x), net(100 * x)) <= EXACT
    folded = normfold.fold(net, (x,))
    assert {one.outcome for one in folded.decisions} == {"folded"}
    assert error(folded.model(x), net(x)) <= EXACT


class Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, before), nn.Conv2d(before, after, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(nn.functional.silu(self.norm(x)))


class UNet(nn.Module):
    """Down, up, and across, with a GroupNorm and a SiLU before every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.middle = nn.Conv2d(3, 8, 3, padding=1), Block(8, 16), Block(16, 16)
        self.up, self.last = Block(24, 8), Block(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = self.first(x)
        low = self.middle(nn.functional.avg_pool2d(self.down(high), 2))
        return self.last(self.up(torch.cat([high, nn.functional.interpolate(low, scale_factor=2.0)], 1)))


@pytest.mark.parametrize("to", ["instance", "layer"])
def test_a_u_net(to: str) -> None:
    net, x = shaken(UNet()), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    done = normfold.convert(net, (x,), to=to)
    assert [(one.outcome, one.label) for one in done.decisions] == [("converted", "exact")] * 4
    assert sum(isinstance(inner, Regrouped) for inner in done.model.modules()) == 4
    assert error(done.model(x), net(x)) <= EXACT


class Sequence(nn.Module):
    """Tokens, a projection, and an LSTM with a LayerNorm before it and one behind."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.project = nn.Embedding(20, 12), nn.Linear(12, 8)
        self.before, self.lstm, self.behind = nn.LayerNorm(8), nn.LSTM(8, 6, batch_first=True), nn.LayerNorm(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.behind(self.lstm(self.before(self.project(self.words(x))))[0]))


def test_an_lstm_between_layer_norms() -> None:
    net, x = shaken(Sequence()), torch.randint(0, 20, (3, 5))
    done = normfold.convert(net, (x,), to="rms")
    decisions = {one.site: one for one in done.decisions}
    assert (decisions["before"].outcome, decisions["before"].label) == ("converted", "exact")
    assert "linear-producer" in {one.premise for one in decisions["behind"].refused_by}
    assert error(done.model(x), net(x)) <= EXACT
    other = normfold.convert(net, (x,), to="group")
    assert {one.outcome for one in other.decisions} == {"converted"}
    assert error(other.model(x), net(x)) <= EXACT
