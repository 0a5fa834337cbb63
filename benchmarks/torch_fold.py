"""Folding a module: normfold against ``torch.fx`` and torchao, the time it takes and what the result is worth.

    python benchmarks/torch_fold.py
    python benchmarks/torch_fold.py --compile --json out/torch_fold.json

Everything runs on one thread, in one process, in turns: one run of each candidate makes a round, and a ratio is the
median over the rounds of the candidate's time over that of the reference in the same round. Machines drift; within a
round they hardly do.

*Time to fold*: each gets the same network and hands back a copy. normfold is timed with and without its comparison of
the two; the peers compare nothing. torchao works on what ``torch.export`` makes of a module, so both are in its time.

*Latency*: the results against the source, run eagerly, and through ``torch.compile`` (which folds what it can by
itself when its weights are frozen, and does not by default). A result that differs from the source says so.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import common
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

import normfold

LAYERS: Final = 500
"""Convolutions, and as many norms, of the deep network."""
REFERENCE: Final = "torch.fx fuse"
SOURCE: Final = "source"
WRONG: Final = 1e-3
"""Largest deviation from the source, of its output's range, that still counts as the same function."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One candidate: median milliseconds, its ratio to the reference, norms left, and deviation from the source."""

    milliseconds: float
    ratio: float
    norms: int | None = None
    deviation: float | None = None


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


class Late(nn.Module):
    """Convolutions whose norm comes behind the activation, so that only the next one can take it."""

    def __init__(self, channels: int = 64, depth: int = 8) -> None:
        super().__init__()
        sizes = [(3, channels), *[(channels, channels)] * (depth - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3 if k == 0 else 1) for k, (i, o) in enumerate(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in sizes)
        self.head = nn.Conv2d(channels, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ten numbers for each place, ``[N, 10, H - 2, W - 2]``."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(torch.relu(conv(x)))
        return self.head(x)


def deep() -> nn.Module:
    """A row of small convolutions, each with a norm."""
    layers = ((nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)) for _ in range(LAYERS))
    return nn.Sequential(nn.Conv2d(3, 8, 1), *(layer for pair in layers for layer in pair))


NETWORKS: Final[Mapping[str, tuple[Callable[[], nn.Module], int]]] = {
    "resnet50": (resnet50, 64),
    f"{2 * LAYERS} layers": (deep, 16),
    "norms behind relu": (Late, 64),
}
"""What builds each network, and the side of its picture."""


def live(net: nn.Module) -> nn.Module:
    """``net`` in evaluation mode, its norms far from the identity."""
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.8, 1.2)
                norm.bias.normal_(0, 0.1)
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.8, 1.2)
    return net.eval()


def torchao_fuse(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """What torchao makes of ``net`` before it quantises; the function is its own, as no other does that alone."""
    from torchao.quantization.pt2e.utils import _fuse_conv_bn_

    program = torch.export.export(copy.deepcopy(net), (x,)).module()
    _fuse_conv_bn_(program)
    return program


def candidates(net: nn.Module, x: torch.Tensor) -> dict[str, Callable[[], nn.Module]]:
    """Name of a tool to what folds ``net`` with it."""
    found = {
        "normfold": lambda: normfold.fold(net, (x,)).model,
        "normfold, not compared": lambda: normfold.fold(net, (x,), verify=False).model,
        REFERENCE: lambda: fuse(net),
    }
    if importlib.util.find_spec("torchao") is not None:
        found["torchao"] = lambda: torchao_fuse(net, x)
    return found


def figures(times: Mapping[str, Sequence[float]], reference: str) -> dict[str, Figure]:
    """Medians, and medians of the ratios within the rounds."""
    return {
        name: Figure(
            round(1e3 * statistics.median(own), 3),
            round(common.median_ratio(own, times[reference]), 3),
        )
        for name, own in times.items()
    }


def norms(module: nn.Module) -> int:
    """Batch norms in ``module``, or in the operations of an exported one."""
    if isinstance(module, torch.fx.GraphModule):
        calls = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
        inner = dict(module.named_modules())
        called = [inner[str(node.target)] for node in module.graph.nodes if node.op == "call_module"]
        return sum("batch_norm" in call for call in calls) + sum(map(is_norm, called))
    return sum(map(is_norm, module.modules()))


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a batch norm."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001


def deviation(net: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    """How far ``other`` is from ``net``, of the range of the output."""
    with torch.no_grad():
        wanted, got = net(x), other(x)
    return float(f"{float((wanted - got).abs().max()) / float(wanted.max() - wanted.min()):.2g}")


def fold_times(net: nn.Module, x: torch.Tensor, rounds: int) -> dict[str, Figure]:
    """How long each tool takes, what it leaves, and how right it is."""
    jobs = candidates(net, x)
    out = figures(common.in_turns(jobs, rounds), REFERENCE)
    results = {name: job() for name, job in jobs.items()}
    return {
        name: Figure(found.milliseconds, found.ratio, norms(results[name]), deviation(net, results[name], x))
        for name, found in out.items()
    }


def latencies(net: nn.Module, x: torch.Tensor, rounds: int, *, compiled: bool) -> dict[str, Figure]:
    """How long the source and each tool's result take for one call."""
    jobs = candidates(net, x)
    jobs.pop("normfold, not compared")
    models = {SOURCE: net, **{name: job() for name, job in jobs.items()}}
    if compiled:
        torch.compiler.reset()
        models = {name: torch.compile(model) for name, model in models.items()}
    with torch.no_grad():
        times = common.in_turns({name: lambda model=model: model(x) for name, model in models.items()}, rounds)
    return figures(times, SOURCE)


def show(title: str, rows: Mapping[str, Figure]) -> None:
    """Print one block of the table."""
    print(title)
    for name, found in rows.items():
        remarks = [] if found.norms is None else [f"{found.norms} norms left"]
        if found.deviation is not None and found.deviation > WRONG:
            remarks.append(f"WRONG: differs by {found.deviation:.0e}")
        print(f"  {name:<24}{found.milliseconds:10.2f} ms  x{found.ratio:<7g} {', '.join(remarks)}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of folding; five times as many of running")
    parser.add_argument("--names", default="*", metavar="GLOB", help="these networks only")
    parser.add_argument("--compile", action="store_true", help="also through torch.compile, but for the deep network")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    document: dict[str, dict[str, dict[str, Any]]] = {}
    for name, (make, side) in NETWORKS.items():
        if not fnmatch(name, options.names):
            continue
        net, x = live(make()), torch.randn(1, 3, side, side)
        blocks = {"time to fold": fold_times(net, x, options.rounds)}
        blocks["eager latency"] = latencies(net, x, 5 * options.rounds, compiled=False)
        if options.compile and make is not deep:
            blocks["compiled latency"] = latencies(net, x, 5 * options.rounds, compiled=True)
        for block, rows in blocks.items():
            show(f"{name} ({norms(net)} norms), {block}", rows)
        document[name] = {block: {k: asdict(v) for k, v in rows.items()} for block, rows in blocks.items()}
    if importlib.util.find_spec("torchao") is None:
        print("torchao is not installed, and left out")
    common.write_json(options.json, {"benchmark": "torch_fold", **document})


if __name__ == "__main__":
    main()
