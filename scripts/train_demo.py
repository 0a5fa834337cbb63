"""Train the demo network on scikit-learn's digits and export it with every norm left in place.

Writes ``digits.onnx`` and ``digits.npz`` into ``src/normfold/verbs/demo``. The same packages on the same kind of
machine give the same bytes: one thread, fixed seeds, deterministic algorithms. Takes about a minute.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from normfold import SessionProfile, open_session

DEMO: Final = Path(__file__).resolve().parents[1] / "src" / "normfold" / "verbs" / "demo"
SEED: Final = 20
HELD_OUT: Final = 450
EPOCHS: Final = 60
BATCH: Final = 64
GREY_LEVELS: Final = 16
OPSET: Final = 17


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias, padded to keep the picture's size, and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Digits(nn.Module):
    """Every common way to wire a norm, in one small network: float32 [N, 1, 8, 8] to [N, 10] scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(1, 16)
        self.residual1 = conv_norm(16, 16)
        self.residual2 = conv_norm(16, 16)
        self.depthwise = conv_norm(16, 16, stride=2, groups=16)
        self.pointwise = conv_norm(16, 32, kernel=1)
        self.late = nn.Conv2d(32, 32, 3, padding=1)
        self.late_norm = nn.BatchNorm2d(32)
        self.narrow = nn.Conv2d(32, 32, 3)
        self.narrow_norm = nn.BatchNorm2d(32)
        self.up = nn.ConvTranspose2d(32, 32, 2, stride=2, bias=False)
        self.up_norm = nn.BatchNorm2d(32)
        self.merge_norm = nn.BatchNorm2d(32)
        self.hidden = nn.Linear(128, 64)
        self.hidden_norm = nn.BatchNorm1d(64)
        self.scores = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The scores of a batch of pictures."""
        x = functional.relu(self.stem(x))
        x = functional.relu(x + self.residual2(functional.relu(self.residual1(x))))
        x = functional.relu(self.depthwise(x))
        wide = self.pointwise(x)
        # The norm after the ReLU, before a convolution without padding: only the consumer can absorb it.
        deep = self.narrow(self.late_norm(functional.relu(self.late(wide))))
        deep = functional.relu(self.narrow_norm(deep))
        # The norm after an addition whose other side has further use: no single producer can absorb it.
        x = functional.relu(self.merge_norm(wide + self.up_norm(self.up(deep))))
        x = functional.max_pool2d(x, 2).flatten(1)
        return self.scores(functional.relu(self.hidden_norm(self.hidden(x))))


def shifted(pictures: Tensor) -> Tensor:
    """The pictures, moved by up to one pixel each way: each batch by one common step."""
    down, right = (int(step) for step in torch.randint(0, 3, (2,)))
    padded = functional.pad(pictures, (1, 1, 1, 1))
    return padded[..., down : down + 8, right : right + 8]


def train(pictures: Tensor, labels: Tensor) -> Digits:
    """A trained network in evaluation mode."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    network = Digits()
    steps = EPOCHS * (len(pictures) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.01, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(pictures))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            loss = functional.cross_entropy(network(shifted(pictures[batch])), labels[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def export(network: Digits) -> bytes:
    """The network as ONNX with a free batch dimension, not one norm folded by the exporter."""
    buffer = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(2, 1, 8, 8),),
        buffer,
        dynamo=False,
        # PRESERVE keeps each module's own mode: an exporter in evaluation mode folds Conv -> BatchNorm itself.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=OPSET,
        input_names=["x"],
        output_names=["scores"],
        dynamic_axes={"x": {0: "N"}, "scores": {0: "N"}},
    )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(model, full_check=True)
    if count_norms(model) != sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in network.modules()):
        raise RuntimeError(f"the exporter left only {count_norms(model)} of the network's norms in inference mode")
    return model.SerializeToString(deterministic=True)


def count_norms(model: onnx.ModelProto) -> int:
    """Number of BatchNormalization nodes in inference mode."""
    norms = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    return sum(not any(a.name == "training_mode" and a.i for a in node.attribute) for node in norms)


def accuracy(model: bytes, pictures: np.ndarray, labels: np.ndarray) -> float:
    """Share of pictures that the exported model names correctly, in ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        (scores,) = open_session(path, SessionProfile()).run(None, {"x": pictures})
    return float((scores.argmax(axis=1) == labels).mean())


def main() -> None:
    """Train, export, check, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEMO, help="folder to write into")
    out = parser.parse_args().out

    digits = load_digits()
    pictures, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    fit_x, test_x, fit_y, test_y = train_test_split(
        pictures, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels
    )
    scaled = {name: p.astype(np.float32)[:, None] / GREY_LEVELS for name, p in (("fit", fit_x), ("test", test_x))}
    network = train(torch.from_numpy(scaled["fit"]), torch.from_numpy(fit_y))
    model = export(network)

    out.mkdir(parents=True, exist_ok=True)
    (out / "digits.onnx").write_bytes(model)
    np.savez_compressed(out / "digits.npz", pictures=test_x, labels=test_y.astype(np.uint8))
    held_out = accuracy(model, scaled["test"], test_y)
    norms = count_norms(onnx.load_from_string(model))
    print(f"{len(model)} bytes, {norms} norms, {held_out:.2%} of {len(test_y)} held-out pictures right")


if __name__ == "__main__":
    main()
