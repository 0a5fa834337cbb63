"""Accuracy of trained networks before and after folding, picture by picture.

Reads a *garden*: a folder with ``onnx/NAME.onnx`` (input [N, 3, 32, 32]) and ``test.npz``, JPEG pictures of
CIFAR-10 with their labels. For every network it prints top-1 of source and folded model and every picture
whose prediction changed, with the margin between the two best logits of the source: a flip at a margin
of rounding size is a tie. The network named *denoiser* is scored by its mean squared error on noisy pictures.

    python benchmarks/garden_accuracy.py --garden path/to/garden
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import common
import peers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

GARDEN: Final = Path(os.environ.get("NORMFOLD_GARDEN", Path(__file__).resolve().parents[2] / "shared" / "garden"))
MEAN: Final = (0.4914, 0.4822, 0.4465)
STD: Final = (0.2470, 0.2435, 0.2616)
NOISE: Final = 0.5
BATCH: Final = 100
TIE: Final = 1e-4
"""A margin below this part of the logits' range is a tie."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A picture whose predicted class changed; ``margin`` is relative to the range of the source's logits."""

    picture: int
    label: int
    before: int
    after: int
    margin: float

    @property
    def is_tie(self) -> bool:
        """Whether the source's two best classes were equal up to rounding."""
        return self.margin < TIE


@dataclass(frozen=True, slots=True)
class Score:
    """One network: its metric on the source and on the folded model, and what changed."""

    network: str
    metric: str
    before: float | None
    after: float | None
    largest_error: float | None
    """Largest difference of an output, relative to the range of all outputs."""
    flips: tuple[Flip, ...] = ()
    error: str = ""


def pictures(garden: Path, count: int, split: str = "test") -> tuple[Floats, NDArray[np.int64]]:
    """The first ``count`` pictures of ``split``, normalised, float32 [count, 3, 32, 32], and their labels."""
    import numpy as np
    from PIL import Image

    with np.load(garden / f"{split}.npz") as archive:
        jpeg, offset = archive["jpeg"].tobytes(), archive["offset"]
        labels = archive["label"][:count].astype(np.int64)
    decoded = [
        np.asarray(Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]])).convert("RGB")) for i in range(len(labels))
    ]
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    scaled = (np.stack(decoded).astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), labels


def outputs(model: Path, values: Floats) -> Floats:
    """Outputs of ``model`` with ONNX Runtime, optimisations off, in batches."""
    import numpy as np

    session = common.session(model, level=common.PLAIN)
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: values[i : i + BATCH]})[0] for i in range(0, len(values), BATCH)]
    return np.concatenate(parts)


def flips_between(before: Floats, after: Floats, labels: NDArray[np.int64]) -> tuple[Flip, ...]:
    """Every picture whose best class differs between two sets of logits [N, classes]."""
    import numpy as np

    changed = np.flatnonzero(before.argmax(1) != after.argmax(1))
    spread = float(np.ptp(before))
    return tuple(
        Flip(
            int(i),
            int(labels[i]),
            int(before[i].argmax()),
            int(after[i].argmax()),
            float(before[i].max() - before[i, after[i].argmax()]) / spread,
        )
        for i in changed
    )


def score(network: Path, values: Floats, labels: NDArray[np.int64], tool: str) -> Score:
    """Fold one network with ``tool`` and score it before and after."""
    import numpy as np

    denoises = network.stem == "denoiser"
    metric = "mse" if denoises else "top-1"
    noise = np.random.default_rng(0).standard_normal(values.shape, np.float32) * np.float32(NOISE)
    fed = values + noise if denoises else values
    with tempfile.TemporaryDirectory(prefix="garden_") as scratch:
        target = Path(scratch) / network.name
        ended = peers.run(tool, network, target, 300.0)
        if ended.status != "done":
            return Score(network.stem, metric, None, None, None, error=f"{ended.status}: {ended.error}")
        before, after = outputs(network, fed), outputs(target, fed)
    error = float(np.abs(before - after).max() / np.ptp(before))
    if denoises:
        return Score(network.stem, metric, squared_error(before, values), squared_error(after, values), error)
    flips = flips_between(before, after, labels)
    return Score(network.stem, metric, top1(before, labels), top1(after, labels), error, flips)


def squared_error(result: Floats, wanted: Floats) -> float:
    """Mean squared error of ``result``."""
    import numpy as np

    return float(np.square(result - wanted, dtype=np.float64).mean())


def top1(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Part of the pictures whose best class is their label."""
    return float((logits.argmax(1) == labels).mean())


def _cells(row: Score) -> tuple[str, ...]:
    if row.before is None or row.after is None or row.largest_error is None:
        return row.network, row.metric, "-", "-", "-", "-", row.error or ""
    ties = sum(flip.is_tie for flip in row.flips)
    figures = (f"{row.before:.6f}", f"{row.after:.6f}", f"{row.largest_error:.1e}")
    return row.network, row.metric, *figures, str(len(row.flips)), str(ties)


def show(scores: Sequence[Score]) -> None:
    """Print the table and the flips."""
    heads = ("network", "metric", "before", "after", "largest error", "flips", "ties among them")
    common.show_table("Accuracy before and after folding", heads, map(_cells, scores), left=("metric",))
    for row in scores:
        for flip in row.flips:
            print(
                f"{row.network}: picture {flip.picture} (label {flip.label}) {flip.before} -> {flip.after}, "
                f"margin {flip.margin:.1e}{' (tie)' if flip.is_tie else ''}"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 when a network fails to fold or a flip is not a tie."""
    parser = argparse.ArgumentParser(description="Score trained networks before and after folding.")
    parser.add_argument("--garden", type=Path, default=GARDEN, help="folder of the garden")
    parser.add_argument("--tool", default=peers.NORMFOLD, choices=peers.TOOLS, help="what folds")
    parser.add_argument("--pictures", type=int, default=5000, help="test pictures (default: all of %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args(arguments)
    networks = sorted((options.garden / "onnx").glob("*.onnx"))
    if not networks:
        parser.error(f"no networks in {options.garden / 'onnx'}")
    values, labels = pictures(options.garden, options.pictures)
    scores = [score(network, values, labels, options.tool) for network in networks]
    show(scores)
    if options.json is not None:
        document: dict[str, Any] = {
            "benchmark": "garden_accuracy",
            "tool": options.tool,
            "version": peers.version_of(options.tool),
            "pictures": len(labels),
            "networks": [asdict(row) for row in scores],
        }
        common.write_json(options.json, document)
    bad = any(row.error or not all(flip.is_tie for flip in row.flips) for row in scores)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
