"""What can go from a style-transfer network: scales and shifts of its InstanceNorms, not their statistics.

python examples/style_transfer.py; a network of random weights stands for yours.
"""

from __future__ import annotations

import torch
from torch import nn

import normfold


def layer(channels: int, out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A padded convolution and a norm with a scale and a shift of its own."""
    norm = nn.InstanceNorm2d(out, affine=True)
    nn.init.normal_(norm.weight, 1.0, 0.2)
    nn.init.normal_(norm.bias, 0.0, 0.2)
    return [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(channels, out, kernel, stride), norm]


class Residual(nn.Module):
    """Two convolutions beside a way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*layer(channels, channels, 3), nn.ReLU(), *layer(channels, channels, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The picture with what the convolutions add."""
        return x + self.body(x)


def network() -> nn.Module:
    """Pictures of 3x64x64 to pictures of another style."""
    torch.manual_seed(0)
    down = [*layer(3, 16, 9), nn.ReLU(), *layer(16, 32, 3, 2), nn.ReLU()]
    up = [nn.Upsample(scale_factor=2), *layer(32, 16, 3), nn.ReLU(), nn.ReflectionPad2d(4), nn.Conv2d(16, 3, 9)]
    return nn.Sequential(*down, Residual(32), Residual(32), *up).eval()


if __name__ == "__main__":
    result = normfold.fold(network(), (torch.randn(1, 3, 64, 64),))
    for decision in result.decisions:
        kept = ", ".join(str(refusal.premise) for refusal in decision.refused_by)
        print(f"{decision.outcome:12} {decision.site:12} {kept}")
    print(result.verification.status)
