"""Statistics records of folded modules: exact where the data has the statistics of the norms."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import normfold
from normfold.backends.torch import trace
from normfold.models.module.save import restore
from normfold.records import StatisticsRecord
from torch_nets import live, picture

CLOSE = 1e-6
"""Of the deviation of a channel: records are float32."""


class Forward(nn.Module):
    """Conv -> Tanh -> BatchNorm -> Conv."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn, self.second = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.bn(torch.tanh(self.first(x))))


class Branches(nn.Module):
    """RepVGG's block: two convolutions and what they read, a norm in each branch."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.point, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn1(self.wide(x)) + self.bn2(self.point(x)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, tuple[str, ...]]]] = {
    "backward": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()), {"0:conv2d": ("1",)}),
    "forward": (Forward, {"tanh": ("bn",)}),
    "kept": (
        lambda: nn.Sequential(nn.Tanh(), nn.BatchNorm2d(4), nn.Tanh()),
        {"0:tanh": ("1",), "1:batch_norm": ("1",)},
    ),
    "input": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)), {"input 0": ("0",)}),
    "branches": (Branches, {"wide:conv2d": ("bn1",), "point:conv2d": ("bn2",)}),
}


def calibrated(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network whose norms have the statistics of the input that comes with it."""
    net, x = live(NETWORKS[name][0]()), picture()

    def see(norm: Any, inputs: tuple[torch.Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3), unbiased=False))

    hooks = [norm.register_forward_pre_hook(see) for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return net, x


def check(net: nn.Module, x: torch.Tensor, records: tuple[StatisticsRecord, ...]) -> None:
    measured = trace(net, (x,), {}, [one.value for one in records]).retained
    for one in records:
        value = measured.get(one.value, x).transpose(0, one.axis).flatten(1).numpy()
        deviation = value.std(1)
        assert np.abs(value.mean(1) - one.mean).max() <= CLOSE * deviation.max()
        assert np.abs(deviation - one.deviation).max() <= CLOSE * deviation.max()


@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_is_measured(name: str) -> None:
    net, x = calibrated(name)
    result = normfold.fold(net, (x,))
    check(result.model, x, result.records)
    assert {one.value: one.sites for one in result.records} == NETWORKS[name][1]


@pytest.mark.parametrize("name", NETWORKS)
def test_records_survive_a_second_fold(name: str) -> None:
    net, x = calibrated(name)
    once = normfold.fold(net, (x,))
    again = normfold.fold(copy.deepcopy(once.model), (x,))
    assert set(again.records) == set(once.records)
    assert set(normfold.inspect(once.model, (x,)).records) == set(once.records)


def test_records_are_saved_and_restored(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is an extra")
    net, x = calibrated("backward")
    once = normfold.fold(net, (x,))
    once.save(tmp_path / "folded.safetensors")
    restored = restore(live(NETWORKS["backward"][0](), seed=3), tmp_path / "folded.safetensors")
    assert normfold.fold(restored, (x,)).records == once.records


def test_a_pickled_module_needs_no_normfold() -> None:
    net, x = calibrated("backward")
    file = io.BytesIO()
    torch.save(normfold.fold(net, (x,)).model, file)
    assert b"normfold.records" not in file.getvalue().replace(b"normfold_records", b"")


def test_branches_of_a_program_that_become_one() -> None:
    """Their sum is all that is left: its mean is exact, its deviation as far as the branches are uncorrelated."""
    net, x = calibrated("branches")
    result = normfold.fold_program(net, (x,))
    (one,) = result.records
    assert (one.derived, one.sites) == ("independent", ("bn1", "bn2"))
    assert one.value in {node.name for node in result.model.graph.nodes}
    with torch.no_grad():
        value = (net.bn1(net.wide(x)) + net.bn2(net.point(x))).transpose(0, 1).flatten(1).numpy()
    assert np.abs(value.mean(1) - one.mean).max() <= CLOSE * value.std()
