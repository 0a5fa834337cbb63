"""How far source and folded model are from the truth: the network computed by PyTorch in float64.

    python benchmarks/fold_truth.py --json out/fold_truth.json

Every network of the zoo is made anew from its seed, which gives the weights that its file holds, and run in float64 on
a few pictures. ONNX Runtime, without optimisations and with one thread, runs the source and normfold's result on the
same pictures in float32. Errors are relative to the range of each output: *apart* is the largest difference between
the two models, *source* and *folded* are root mean squares of the distance from the truth. A result is *as good* where
the two models differ by less than 1e-5, or where the folded one is no further from the truth than the source is;
anything else makes the exit 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
import peers
import zoo

CLOSE: Final = 1e-5
PICTURES: Final = 4
SAME_WEIGHTS: Final = 1e-2
"""Distance of a source from the truth beyond which its file does not hold the weights of the network made here."""


@dataclass(frozen=True, slots=True)
class Row:
    """One network; errors are relative to the range of each output."""

    model: str
    apart: float = 0.0
    source: float = 0.0
    folded: float = 0.0
    problem: str = ""

    @property
    def verdict(self) -> str:
        """What the errors say."""
        if self.problem:
            return self.problem
        if self.apart < CLOSE:
            return "as good"
        return "as good" if self.folded <= self.source else f"{self.folded / self.source:.2f} times as far"


def run(path: Path, pictures: Any) -> list[Any]:
    """All outputs of ``path``, flattened, for each picture."""
    session = common.session(path, level=common.PLAIN)
    name = session.get_inputs()[0].name
    return [np.concatenate([y.ravel() for y in session.run(None, {name: x[None]})]) for x in pictures]


def truths(architecture: zoo.Architecture, pictures: Any) -> list[Any]:
    """The outputs in float64, flattened, for each picture."""
    import torch

    torch.manual_seed(zoo.SEED)
    model = zoo.create(architecture)
    zoo.enliven(model, architecture.size)
    model.double()
    with torch.no_grad():
        made = [model(torch.from_numpy(x[None]).double()) for x in pictures]
    return [np.concatenate([y.numpy().ravel() for y in (one if isinstance(one, tuple) else (one,))]) for one in made]


def measure(architecture: zoo.Architecture, folder: Path, limit: float) -> Row:
    """Fold one network of the zoo and compare both models with the truth."""
    source, name = folder / f"{architecture.name}.onnx", architecture.name
    pictures = np.random.default_rng(zoo.SEED).standard_normal((PICTURES, 3, *[architecture.size] * 2), np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        folded = Path(scratch) / "folded.onnx"
        done = peers.run(peers.NORMFOLD, source, folded, limit)
        if done.status != "done":
            return Row(name, problem=done.error)
        outputs = [run(path, pictures) for path in (source, folded)]
    exact = truths(architecture, pictures)
    spans = [float(np.ptp(one)) for one in exact]
    before, after = (
        float(np.sqrt(np.mean([np.mean(((y - t) / s) ** 2) for y, t, s in zip(made, exact, spans, strict=True)])))
        for made in outputs
    )
    if before > SAME_WEIGHTS:
        return Row(name, problem="the file holds other weights: build the zoo anew")
    apart = max(float(np.abs(a - b).max()) / s for a, b, s in zip(*outputs, spans, strict=True))
    return Row(name, apart, before, after)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 where a result is further from the truth than its source."""
    parser = argparse.ArgumentParser(description="Compare sources and results with a computation in float64.")
    parser.add_argument("--folder", type=Path, default=zoo.FOLDER, help="where the zoo lies (default: %(default)s)")
    parser.add_argument("--models", default="", help="names, separated by commas (default: all of the zoo)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one fold (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    wanted = [name for name in options.models.split(",") if name]
    found = [one for one in zoo.ARCHITECTURES if (options.folder / f"{one.name}.onnx").is_file()]
    if unknown := set(wanted) - {one.name for one in found}:
        parser.error(f"not in {options.folder}: {', '.join(sorted(unknown))}")
    print(f"{'':32} {'apart':>9} {'source':>9} {'folded':>9}")
    rows = []
    for architecture in found:
        if not wanted or architecture.name in wanted:
            rows.append(measure(architecture, options.folder, options.limit))
            row = rows[-1]
            print(f"{row.model:32} {row.apart:9.1e} {row.source:9.1e} {row.folded:9.1e}  {row.verdict}", flush=True)
    bad = [row.model for row in rows if row.verdict != "as good"]
    print(f"{len(rows) - len(bad)} of {len(rows)} as good", *bad, sep="  ")
    if options.json:
        document = {"versions": peers.versions(), "rows": [asdict(row) | {"verdict": row.verdict} for row in rows]}
        common.write_json(options.json, document)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
