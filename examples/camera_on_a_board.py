"""Make a classifier ready for a camera: raw bytes in, eight bits inside, standard operators only.

python examples/camera_on_a_board.py; a network of random weights stands for yours, noise for your pictures.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

import normfold

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def block(channels: int, out: int, stride: int) -> nn.Module:
    """A separable convolution, as small networks have them."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


def classifier() -> nn.Module:
    """Pictures of 3x96x96 to scores of ten classes; its norms have seen a few pictures."""
    torch.manual_seed(0)
    widths = (16, 32, 64, 96)
    body = [block(a, b, 2) for a, b in pairwise(widths)]
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *body,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, 3, 96, 96))
    return net.eval()


def main(folder: Path) -> None:
    """Export, take the preprocessing in, quantise, and time it as a board would run it."""
    exported, camera, small = folder / "net.onnx", folder / "camera.onnx", folder / "camera-int8.onnx"
    normfold.export(classifier(), (torch.randn(1, 3, 96, 96),), output=exported)
    preprocess = normfold.Preprocess(mean=MEAN, std=DEVIATION, scale=1 / 255, layout="NHWC", dtype="uint8")
    folded = normfold.fold(exported, preprocess=preprocess, output=camera)
    print(folded.verification.status, [f"{one.name} {one.shape}" for one in folded.model.graph.inputs])

    pictures = np.random.default_rng(0).integers(0, 256, (128, 96, 96, 3), dtype=np.uint8)
    done = normfold.quantize(camera, output=small, calibrate=pictures, format="qdq", batch=1)
    print(done)  # a network as small as this one may well be faster as it is: then nothing is written
    if done.refused is None:
        print(normfold.compare(camera, small, use="edge", effort=normfold.Effort(first=3, most=3, per_process=0.3)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
