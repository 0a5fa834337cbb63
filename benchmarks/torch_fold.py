"""Time to fold a module: normfold against ``torch.fx.experimental.optimization.fuse``, on one thread.

    python benchmarks/torch_fold.py

Both get the same network and hand back a copy. normfold is timed with and without its comparison of the two, the peer
compares nothing. Prints milliseconds, the median of the runs, and the norms that each leaves.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Final

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

import normfold

LAYERS: Final = 500
"""Convolutions, and as many norms, of the deep network."""


class Bottleneck(nn.Module):
    """Three convolutions with norms around a shortcut, as in resnet50."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, s, k // 2, bias=False) for i, o, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in sizes)
        down = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
        self.down = down if stride != 1 or inputs != 4 * width else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both ways, ``[N, 4 * width, H / stride, W / stride]``."""
        y = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = norm(conv(torch.relu(y) if y is not x else y))
        return torch.relu(y + self.down(x))


def resnet50() -> nn.Module:
    """The layers of resnet50, with random weights."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for k in range(count):
            layers.append(Bottleneck(channels, 64 << stage, 2 if stage and not k else 1))
            channels = 256 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def deep() -> nn.Module:
    """A row of small convolutions, each with a norm."""
    layers = ((nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)) for _ in range(LAYERS))
    return nn.Sequential(nn.Conv2d(3, 8, 1), *(layer for pair in layers for layer in pair))


def milliseconds(job: Callable[[], object], runs: int) -> float:
    """The median time of ``job``, after one run that is not counted."""
    job()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        job()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def norms(module: nn.Module) -> int:
    """Batch norms in ``module``."""
    return sum(isinstance(inner, nn.modules.batchnorm._BatchNorm) for inner in module.modules())  # noqa: SLF001


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    for name, make, side in (("resnet50", resnet50, 64), (f"{2 * LAYERS} layers", deep, 16)):
        net, x = make().eval(), torch.randn(1, 3, side, side)
        rows = {
            "normfold": lambda net=net, x=x: normfold.fold(net, (x,)).model,
            "normfold, not compared": lambda net=net, x=x: normfold.fold(net, (x,), verify=False).model,
            "torch.fx fuse": lambda net=net: fuse(net),
        }
        print(f"{name}: {norms(net)} norms")
        for tool, job in rows.items():
            print(f"  {tool:<24}{milliseconds(job, runs):9.0f} ms   {norms(job())} norms left")


if __name__ == "__main__":
    main()
