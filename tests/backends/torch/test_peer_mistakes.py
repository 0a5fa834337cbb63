"""Modules that other tools fold wrongly or break on: refused with the premise, or right."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from torch_nets import Forward, folded, live, outcomes, picture, premises


def conv(bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, bias=bias)


def test_a_convolution_called_twice() -> None:
    """torch.fx.experimental.optimization.fuse."""
    net = live(Forward(lambda self, x: self.bn(self.conv(x)) + self.conv(x + 1), conv=conv(), bn=nn.BatchNorm2d(4)))
    assert "called-once" in premises(folded(net, picture()), "bn")


def test_linear_whose_norm_is_over_another_axis() -> None:
    """torch.fx.experimental.optimization.fuse: BatchNorm1d on (N, C, L) normalises C, Linear makes L."""
    net = live(nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)))
    assert "per-output-channel" in premises(folded(net, torch.randn(2, 5, 5, dtype=torch.float64)), "1")


def test_a_convolution_with_another_consumer() -> None:
    """torchao."""

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y

    net = live(Forward(forward, conv=conv(), bn=nn.BatchNorm2d(4)))
    assert "single-use" in premises(folded(net, picture()), "bn")


def test_a_convolution_shared_by_two_norms() -> None:
    """torchao."""
    norms = {"one": nn.BatchNorm2d(4), "two": nn.BatchNorm2d(4)}

    def forward(self, x):
        y = self.conv(x)
        return self.one(y) * self.two(y)

    net = live(Forward(forward, conv=conv(), **norms))
    result = folded(net, picture())
    assert "single-use" in premises(result, "two")


def test_a_convolution_shared_by_two_norms_in_two_calls() -> None:
    """torchao."""
    norms = {"one": nn.BatchNorm2d(4), "two": nn.BatchNorm2d(4)}
    net = live(Forward(lambda self, x: self.one(self.conv(x)) * self.two(self.conv(x + 1)), conv=conv(), **norms))
    assert outcomes(folded(net, picture())) == {"one": "kept", "two": "kept"}


def test_a_convolution_used_once_with_and_once_without_a_norm() -> None:
    """Inductor."""
    net = live(
        Forward(
            lambda self, x: functional.relu(self.bn(self.conv(x))) + self.conv(-x), conv=conv(), bn=nn.BatchNorm2d(4)
        )
    )
    assert "called-once" in premises(folded(net, picture()), "bn")


def test_the_bias_of_a_convolution_is_scaled() -> None:
    """optimum."""
    net = live(nn.Sequential(conv(), nn.BatchNorm2d(4)))
    with torch.no_grad():
        net[0].bias.copy_(torch.tensor([100.0, -50, 25, 75]))
    assert outcomes(folded(net, picture())) == {"1": "folded"}


@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_transposed_convolution(groups: int) -> None:
    """coremltools permutes its channels, fuse_conv_bn_eval(transpose=True) breaks."""
    net = live(nn.Sequential(nn.ConvTranspose2d(4, 8, 3, 2, groups=groups), nn.BatchNorm2d(8)))
    assert outcomes(folded(net, picture())) == {"1": "folded"}


def test_a_scale_along_another_axis_of_the_same_size() -> None:
    """A LayerScale along the width, whose size equals the number of channels."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.linspace(0.5, 2, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.gamma

    net = live(nn.Sequential(conv(), Scale()))
    assert "per-output-channel" in premises(folded(net, picture(size=4)), "1")


def test_a_synchronised_norm_is_one_like_others() -> None:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(conv(), nn.BatchNorm2d(4)))
    assert outcomes(folded(live(net), picture())) == {"1": "folded"}
