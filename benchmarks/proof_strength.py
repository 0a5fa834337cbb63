"""How many wrong folds the proof of a module finds, on how many forward passes, and what each kind of input finds.

    python benchmarks/proof_strength.py
    python benchmarks/proof_strength.py --json out/proof_strength.json

Each network is folded, and the result spoiled before it is compared: another epsilon, channels in another order,
another border of a padding, the sign of one channel, one channel off by a thousandth, and others. A fault is found if a
norm is kept in the end because of it, or the fold refused.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import common
import torch
from torch import nn

import normfold
from normfold.passes.fold import module as module_pass

Spoil = Callable[[Any, nn.Module], None]


class Block(nn.Module):
    """Two convolutions with norms around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.two, self.bn2 = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` and what the convolutions make of it."""
        return x + self.bn2(self.two(self.bn1(self.one(x)).relu()))


class Behind(nn.Module):
    """Norms behind an activation, which only the next, padded convolution can take."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.bn1 = nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels)
        self.two = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, channels, H - 2, W - 2]``."""
        return self.two(self.bn1(self.one(x).relu()))


def plain() -> nn.Module:
    """Convolutions and norms in a row."""
    rows = [(3, 8), (8, 16), (16, 16)]
    layers = [m for i, o in rows for m in (nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())]
    return nn.Sequential(*layers)


def residual() -> nn.Module:
    """Blocks with shortcuts, and a classifier."""
    blocks = [Block(16) for _ in range(4)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *blocks, *head)


def dense() -> nn.Module:
    """Linear layers with batch norms."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 256, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Linear(32, 32), nn.BatchNorm1d(32)
    )


def tokens() -> nn.Module:
    """A row of linear layers with layer norms between."""
    layers = [m for _ in range(3) for m in (nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU())]
    return nn.Sequential(*layers, nn.LayerNorm(16), nn.Linear(16, 4))


NETWORKS: Final[Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]] = {
    "plain": (plain, (1, 3, 16, 16)),
    "residual": (residual, (2, 3, 16, 16)),
    "behind": (lambda: Behind(8), (1, 3, 16, 16)),
    "dense": (dense, (4, 3, 16, 16)),
    "tokens": (tokens, (2, 7, 16)),
}


def linear(module: nn.Module) -> Any:
    """The last layer with a weight and a bias, that a norm went into."""
    return [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None][-1]


def first(module: nn.Module) -> Any:
    """The first one."""
    return next(m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None)


def scaled(k: int, by: float, pick: Callable[[nn.Module], Any] = linear) -> Spoil:
    """One channel of one layer times ``by``."""

    def spoil(_: Any, module: nn.Module) -> None:
        layer = pick(module)
        layer.weight.data[k] *= by
        layer.bias.data[k] *= by

    return spoil


def shifted(k: int, by: float, pick: Callable[[nn.Module], Any] = linear) -> Spoil:
    """One number of the bias of one layer off by ``by`` of the spread of all."""

    def spoil(_: Any, module: nn.Module) -> None:
        layer = pick(module)
        layer.bias.data[k] += by * (layer.bias.data.std() + layer.weight.data.std())

    return spoil


def reordered(_: Any, module: nn.Module) -> None:
    """The channels of the last layer the other way round."""
    layer = linear(module)
    layer.bias.data = layer.bias.data.flip(0)


def epsilon(_: Any, module: nn.Module) -> None:
    """As if the epsilon were 1e-3 and the variance 1: channels less by a factor of 0.9995."""
    layer = first(module)
    layer.weight.data *= (1 + 1e-5) ** 0.5 / (1 + 1e-3) ** 0.5


def padding(_: Any, module: nn.Module) -> None:
    """The border of what the first padded convolution reads is not zero, as where a shift is carried behind it."""
    layer = next(m for m in module.modules() if isinstance(m, nn.Conv2d) and m.padding == (1, 1))
    layer.padding_mode = "replicate"


def dropped_bias(_: Any, module: nn.Module) -> None:
    """The bias of the first layer is gone."""
    first(module).bias.data.zero_()


FAULTS: Final[Mapping[str, Spoil]] = {
    "epsilon 1e-3 for 1e-5": epsilon,
    "channel order of the bias": reordered,
    "border of a padding": padding,
    "no bias": dropped_bias,
    "sign of one channel, last": scaled(1, -1),
    "sign of one channel, first": scaled(1, -1, first),
    "1e-3 on one channel, last": scaled(1, 1 + 1e-3),
    "1e-3 on one channel, first": scaled(1, 1 + 1e-3, first),
    "1e-2 on one channel, first": scaled(1, 1 + 1e-2, first),
    "1e-3 of the bias of one channel, last": shifted(1, 1e-3),
    "1e-2 of the bias of one channel, last": shifted(1, 1e-2),
    "1e-2 of the bias of one channel, first": shifted(1, 1e-2, first),
}


def live(net: nn.Module) -> nn.Module:
    """``net`` in evaluation mode, its norms far from the identity."""
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):  # noqa: SLF001
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.3)
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.5, 1.5)
    return net.eval()


class Counted(nn.Module):
    """``inner``, and how often all its copies were called."""

    calls = 0
    samples = 0

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What ``inner`` makes of ``x``."""
        Counted.calls += 1
        Counted.samples += len(x)
        return self.inner(x)


def outcome(net: nn.Module, x: torch.Tensor, spoil: Spoil) -> tuple[bool, int, float]:
    """Whether the proof finds the fault, on how many calls, and samples per sample of the example."""
    right = module_pass.write

    def wrong(graph: Any, module: nn.Module) -> Any:
        change = right(graph, module)
        if graph.committed:
            with torch.no_grad():
                spoil(graph, module)
        return change

    module_pass.write = wrong
    Counted.calls = Counted.samples = 0
    try:
        result = normfold.fold(Counted(net), (x,))
        found = any(no.premise == "verification-failed" for one in result.decisions for no in one.refused_by)
    except normfold.NormfoldError:
        found = True
    finally:
        module_pass.write = right
    return found, Counted.calls, Counted.samples / len(x)


def rows() -> Iterator[tuple[str, str, bool, int]]:
    """Network, fault, whether it was found, and after how many calls."""
    for name, (make, shape) in NETWORKS.items():
        torch.manual_seed(0)
        net, x = live(make()), torch.randn(shape)
        _, calls, samples = outcome(net, x, lambda *_: None)
        print(f"{name:<10} {'nothing wrong':<42} {calls:3} forward passes, {samples:g} times the example", flush=True)
        for fault, spoil in FAULTS.items():
            if fault == "border of a padding" and name not in ("plain", "residual"):
                continue
            found, calls, _ = outcome(net, x, spoil)
            yield name, fault, found, calls


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tally: collections.Counter[bool] = collections.Counter()
    document = []
    for name, fault, found, calls in rows():
        tally[found] += 1
        document.append({"network": name, "fault": fault, "found": found, "calls": calls})
        print(f"{name:<10} {fault:<42} {'found' if found else 'MISSED'}", flush=True)
    print(f"{tally[True]} of {sum(tally.values())} found")
    common.write_json(options.json, {"benchmark": "proof_strength", "faults": document})


if __name__ == "__main__":
    main()
