"""Conversions between norm types on trained networks: accuracy of every calibrated cell, and what copying gives.

Reads a *garden*: a folder with ``garden.py``, ``load.py``, ``calibration.npz`` and ``test.npz``. Each cell is
converted with 512 unlabelled calibration pictures (or without data) on one CPU thread, and compared with its source on
the same test pictures. Beside it stands the same norm with gamma and beta copied. Results are added to the JSON file
as they come, so that cells can be measured one at a time.

    python benchmarks/convert.py --garden path/to/garden [--only resnet20] [--pictures 5000] [-o docs/data/convert.json]
    python benchmarks/convert.py --garden path/to/garden --fine-tune
    python benchmarks/convert.py --matrix

The last one needs no garden: every cell of the matrix on a small network with random weights, one norm between two
convolutions, in float64, and how far its outputs are from those of its source, by root mean square over deviation.
Seconds of distillation are those of the processor, since other programs may run beside this one.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

GARDEN: Final = Path(os.environ.get("NORMFOLD_GARDEN", Path(__file__).resolve().parents[2] / "shared" / "garden"))
BATCH: Final = 32
CALIBRATION: Final = 512
SMALLEST_BATCH: Final = 2
RATE: Final = 3e-5
"""Of SGD, without momentum."""
SEEDS: Final = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Cell:
    """One conversion. ``most`` are the points below the source that it may cost."""

    network: str
    to: str
    most: float
    options: Mapping[str, Any] = field(default_factory=dict)
    data: bool = True

    @property
    def name(self) -> str:
        """What the results are listed by."""
        said = [f"{name}={value:g}" for name, value in self.options.items() if not isinstance(value, bool)]
        return " ".join([self.network, self.to, *said, *([] if self.data else ["no data"])])


def _cells() -> Iterator[Cell]:
    live, default, far = {"max_offset": 0.0}, {"max_offset": 1.0}, {"max_offset": 3.0}
    for network, one, sixteen in (("resnet20", 2.5, 3.0), ("mobilenetv2", 2.5, 100.0)):
        yield Cell(network, "group", one, live)
        yield Cell(network, "group:size=16", sixteen, live)
    yield Cell("resnet20", "group:count=8", 6.0, live)
    yield Cell("resnet20", "group", 0.8, default)
    yield Cell("resnet20", "group:size=16", 1.5, default)
    yield Cell("mobilenetv2", "group", 1.8, default)
    yield Cell("mobilenetv2", "group:size=16", 2.0, default)
    yield Cell("resnet20", "group", 0.5, far)
    yield Cell("resnet20", "group:size=16", 1.0, far)
    yield Cell("resnet20", "layer", 1.5, far)
    yield Cell("mobilenetv2", "layer", 2.5, far)
    yield Cell("resnet20", "group", 3.0, data=False)
    yield Cell("resnet20", "rms", 0.3, data=False)
    yield Cell("convnext", "rms", 0.6)
    yield Cell("resnet20", "group:count=8", 3.0, live | {"distill": 75.0})
    yield Cell("resnet20", "group:count=8", 2.0, live | {"distill": 600.0})
    for network in ("vit", "convnext"):
        yield Cell(network, "dyt", 1.5, {"distill": 75.0})
        yield Cell(network, "static", 5.5, {"distill": 70.0})


class Garden:
    """The networks and their pictures."""

    def __init__(self, folder: Path, pictures: int) -> None:
        sys.path.insert(0, str(folder))
        self._load = importlib.import_module("load")
        self.x, self.y = self._load.images("test", pictures)
        self.calibration, self.labels = self._load.images("calibration")
        self._right: dict[str, Any] = {}

    def network(self, name: str) -> Any:
        """A trained network."""
        return self._load.network(name)

    def right(self, module: Any) -> Any:
        """Which test pictures ``module`` gets right."""
        import torch

        module.eval()
        with torch.no_grad():
            found = [
                module(torch.from_numpy(self.x[k : k + BATCH])).argmax(1).numpy() for k in range(0, len(self.x), BATCH)
            ]
        return np.concatenate(found) == self.y

    def source(self, name: str) -> Any:
        """Which test pictures the network gets right."""
        if name not in self._right:
            self._right[name] = self.right(self.network(name))
        return self._right[name]


def copied(network: Any, to: str) -> Any:
    """``network`` with gamma and beta of its BatchNorms in GroupNorms; None where that says nothing."""
    from torch import nn

    kind, _, setting = to.partition(":")
    if kind != "group":
        return None
    key, _, number = setting.partition("=")
    result = copy.deepcopy(network)
    for path, norm in list(result.named_modules()):
        if isinstance(norm, nn.BatchNorm2d):
            channels = norm.num_features
            count = int(number) if key == "count" else channels // int(number) if key == "size" else 1
            new = nn.GroupNorm(max(count, 1), channels, norm.eps)
            new.weight.data, new.bias.data = norm.weight.data, norm.bias.data
            parent, _, own = path.rpartition(".")
            setattr(result.get_submodule(parent), own, new)
    return result


def measured(garden: Garden, cell: Cell) -> dict[str, Any]:
    """What the conversion costs."""
    import torch

    import normfold

    network = garden.network(cell.network)
    given = {"calibrate": garden.calibration[:CALIBRATION]} if cell.data else {}
    started, used = time.monotonic(), time.process_time()
    result = normfold.convert(
        network,
        (torch.zeros(2, *garden.x.shape[1:]),),
        to=cell.to,
        verify=False,
        time_limit=3600,
        **given,
        **cell.options,
    )
    seconds, processor = time.monotonic() - started, time.process_time() - used
    before, after = garden.source(cell.network), garden.right(result.model)
    done = [one.certificate for one in result.decisions if one.certificate is not None]
    r2 = [one.r2 for one in done if one.r2 is not None]
    shares = [one.constant_share for one in done if one.constant_share is not None]
    other = copied(network, cell.to)
    change = after.astype(int) - before.astype(int)
    return {
        "cell": cell.name,
        "labels": sorted({one.label for one in done}),
        "norms": len(result.decisions),
        "converted": len(done),
        "before": 100 * float(before.mean()),
        "after": 100 * float(after.mean()),
        "drop": -100 * float(change.mean()),
        "interval": 196 * float(change.std(ddof=1)) / len(change) ** 0.5,
        "most": cell.most,
        "copied": None if other is None else 100 * float(garden.right(other).mean()),
        "pictures": len(before),
        "r2": [min(r2), float(np.mean(r2))] if r2 else None,
        "constant_share": float(np.mean(shares)) if shares else None,
        "seconds": seconds,
        "cpu_seconds": processor,
    }


CHANNELS: Final = 16
SAMPLES: Final = 256


def _sources() -> dict[str, Any]:
    """A module for each kind of norm, by its name."""
    from torch import nn

    from normfold.backends.torch.modules import BatchLayerNorm, DynamicTanh, FrozenBatchNorm, PositionNorm

    shape = (CHANNELS, 1, 1)
    return {
        "batch": nn.BatchNorm2d(CHANNELS),
        "frozen": FrozenBatchNorm(CHANNELS),
        "layer": PositionNorm(shape),
        "rms": PositionNorm(shape, centred=False),
        "group": nn.GroupNorm(1, CHANNELS),
        "instance": nn.InstanceNorm2d(CHANNELS, affine=True),
        "running-instance": nn.InstanceNorm2d(CHANNELS, affine=True, track_running_stats=True),
        "static-bln": BatchLayerNorm(shape, 8.0),
        "live-bln": BatchLayerNorm(shape, 8.0, static_features=False),
        "dyt": DynamicTanh(shape),
    }


def _targets() -> dict[str, Any]:
    """A module that gamma and beta can be copied into, for each target that has one."""
    from normfold.backends.torch.modules import StaticAffine

    found = {name: one for name, one in _sources().items() if name not in ("running-instance", "live-bln")}
    return {**found, "bln": found.pop("static-bln"), "static": StaticAffine((CHANNELS, 1, 1))}


def _network(norm: Any, *, normalised: bool = False) -> Any:
    """``norm`` between two convolutions, all with random constants, in float64."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    first = nn.Conv2d(3, CHANNELS, 3)
    first = nn.utils.parametrizations.weight_norm(first) if normalised else first
    net = nn.Sequential(first, norm, nn.ReLU(), nn.Conv2d(CHANNELS, 8, 3)).double()
    for name, one in (*norm.named_parameters(), *norm.named_buffers()):
        if one.is_floating_point() and name != "alpha":
            one.data = torch.rand_like(one) + 0.5 if name.endswith(("weight", "var")) else 0.3 * torch.randn_like(one)
    with torch.no_grad():
        x = net[0](torch.from_numpy(_inputs(0)))
        if getattr(norm, "running_mean", None) is not None:
            norm.running_mean.copy_(x.mean((0, 2, 3)))
            norm.running_var.copy_(x.var((0, 2, 3)))
    return net.eval()


def _inputs(seed: int) -> Any:
    """Pictures with some contrast and brightness of their own."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(SAMPLES, 3, 10, 10)) * generator.uniform(0.5, 1.5, (SAMPLES, 1, 1, 1))
    return x + 0.5 * generator.normal(size=(SAMPLES, 3, 1, 1))


def _deviation(source: Any, result: Any) -> float:
    """Root mean square deviation of outputs over that of the source, on inputs that nothing was fitted to."""
    import torch

    x = torch.from_numpy(_inputs(1))
    with torch.no_grad():
        wanted, found = source(x), result(x)
    return float(((found - wanted).square().mean() / wanted.var()).sqrt())


def _copy(source: Any, kind: str) -> float | None:
    """How far a network is from ``source`` whose norm is of ``kind``, with gamma and beta copied."""
    norm, held = _targets().get(kind), source[1]
    if norm is None or not hasattr(held, "weight"):
        return None
    result = copy.deepcopy(source)
    result[1] = norm.double()
    for name in ("weight", "bias"):
        getattr(norm, name).data = getattr(held, name).data.reshape(getattr(norm, name).shape).clone()
    return _deviation(source, result.eval())


def matrix_cell(kind: str, target: str) -> dict[str, Any]:
    """What becomes of a norm of ``kind`` that is to be a ``target``."""
    import torch
    from torch import nn

    import normfold

    norm = nn.Identity() if kind == "weight" else _sources()[kind]
    source = _network(norm, normalised=kind == "weight")
    x = _inputs(0)
    found: dict[str, Any] = {"from": kind, "to": target, "copied": None if kind == "weight" else _copy(source, target)}
    try:
        given = {"needs_training": True, "calibrate": x, "source": kind}
        result = normfold.convert(source, (torch.from_numpy(x[:4]),), to=target, **given)
    except normfold.NormfoldError as error:
        return found | {"label": None, "deviation": None, "because": str(error)}
    one = result.decisions[0]
    because = "; ".join(refusal.because for refusal in one.refused_by)
    if one.outcome != "converted":
        return found | {"label": None, "deviation": None, "because": because}
    return found | {"label": one.label, "deviation": _deviation(source, result.model), "because": ""}


def matrix(path: Path) -> int:
    """Print every cell, and put it into the file at ``path``."""
    from normfold.passes.convert import KINDS, TARGETS

    rows = []
    for kind in KINDS:
        for target in TARGETS:
            found = matrix_cell(kind, target)
            rows.append(found)
            beside = "-" if found["copied"] is None else f"{found['copied']:.2g}"
            what = f"{found['label']} {found['deviation']:.2g}" if found["label"] else f"kept: {found['because']}"
            print(f"{kind} -> {target}: {what} (gamma and beta copied: {beside})", flush=True)
    held = json.loads(path.read_text()) if path.exists() else {"cells": []}
    path.write_text(json.dumps(held | {"matrix": rows}, indent=1) + "\n")
    return 0


def trained(network: Any, garden: Garden, seed: int, epochs: int) -> Any:
    """``network`` fine-tuned on the calibration pictures and their labels, two at a time."""
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    result = copy.deepcopy(network).train()
    optimiser = torch.optim.SGD(result.parameters(), RATE)
    x, y = torch.from_numpy(garden.calibration), torch.from_numpy(garden.labels)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(SMALLEST_BATCH):
            optimiser.zero_grad()
            functional.cross_entropy(result(x[chosen]), y[chosen]).backward()
            optimiser.step()
    return result.eval()


def fine_tuned(garden: Garden, epochs: int) -> dict[str, Any]:
    """Points that a network with BatchNorms and its converted copy lose when trained two pictures at a time."""
    import torch

    import normfold

    network = garden.network("resnet20")
    result = normfold.convert(
        network,
        (torch.zeros(2, *garden.x.shape[1:]),),
        to="group",
        verify=False,
        max_offset=0.0,
        calibrate=garden.calibration[:CALIBRATION],
    )
    lost: dict[str, list[float]] = {}
    for name, module in (("batch", network), ("group", result.model)):
        before = garden.right(module).mean()
        lost[name] = [
            100 * float(before - garden.right(trained(module, garden, seed, epochs)).mean()) for seed in SEEDS
        ]
        print(f"{name}: {', '.join(f'{one:.2f}' for one in lost[name])} points lost", flush=True)
    return {
        "cell": f"fine-tuning resnet20 at batch {SMALLEST_BATCH}",
        "lost": lost,
        "mean": {name: float(np.mean(points)) for name, points in lost.items()},
        "epochs": epochs,
        "pictures": len(garden.y),
    }


def store(path: Path, result: Mapping[str, Any]) -> None:
    """Put ``result`` into the file, in place of what it held of that cell."""
    held = json.loads(path.read_text()) if path.exists() else {"cells": []}
    kept = [one for one in held["cells"] if one["cell"] != result["cell"]]
    path.write_text(json.dumps(held | {"cells": [*kept, dict(result)]}, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--garden", type=Path, default=GARDEN)
    parser.add_argument("--only", default="", help="cells whose names hold this")
    parser.add_argument("--skip", default="\0", help="cells whose names do not hold this")
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--fine-tune", action="store_true", help="the fine-tuning at small batches instead")
    parser.add_argument("--matrix", action="store_true", help="every cell of the matrix on a small random network")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/data/convert.json"))
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    if options.matrix:
        return matrix(options.output)
    from normfold.passes.convert.calibrated import distill

    distill.CLOCK = time.process_time
    garden = Garden(options.garden, options.pictures)
    if options.fine_tune:
        store(options.output, fine_tuned(garden, options.epochs))
        return 0
    missed = 0
    for cell in _cells():
        if options.only not in cell.name or options.skip in cell.name:
            continue
        found = measured(garden, cell)
        store(options.output, found)
        missed += found["drop"] > cell.most
        share = "-" if found["constant_share"] is None else f"{found['constant_share']:.2f}"
        beside = "-" if found["copied"] is None else f"{found['copied']:.1f}"
        print(
            f"{cell.name}: {found['before']:.2f} -> {found['after']:.2f} (drop {found['drop']:.2f} +- "
            f"{found['interval']:.2f}, at most {cell.most:g}), copied {beside}, constant share {share}, "
            f"{found['cpu_seconds']:.0f} s of CPU",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
