"""Two networks that the zoo lacks, for `quantize.py --zoo`: a detector whose head mixes ranges, and a U-Net.

    python benchmarks/quantize_nets.py            # into out/zoo

Weights are random and statistics live, as in `zoo.py`. The detector's output holds boxes in pixels beside scores
between 0 and 1: one scale for both would drown the scores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import torch
import zoo
from torch import nn

SIZE: Final = 224
CELL: Final = 16
"""Pixels between two cells of the detector."""
CLASSES: Final = 20


def block(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    """Convolution, norm, activation."""
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU())


class Detector(nn.Module):
    """``[N, 3, 224, 224]`` to ``[N, 196, 4 + 20]``: corners in pixels, and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            block(3, 32, 2), block(32, 64, 2), block(64, 128, 2), block(128, 128), block(128, 192, 2)
        )
        self.head = block(192, 192)
        self.boxes = nn.Conv2d(192, 4, 1)
        self.scores = nn.Conv2d(192, CLASSES, 1)
        cells = (torch.arange(SIZE // CELL) + 0.5) * CELL
        rows, columns = torch.meshgrid(cells, cells, indexing="ij")
        self.register_buffer("centres", torch.stack([columns, rows]).unsqueeze(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Boxes and scores of every cell."""
        features = self.head(self.body(x))
        offsets = self.boxes(features).sigmoid() * (4 * CELL)
        low, high = self.centres - offsets[:, :2], self.centres + offsets[:, 2:]
        whole = torch.cat([low, high, self.scores(features).sigmoid()], 1)
        return whole.flatten(2).transpose(1, 2)


class UNet(nn.Module):
    """``[N, 3, 224, 224]`` to as many pixels of one channel, with skips by Concat and transposed convolutions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(
            nn.Sequential(block(inner, outer), block(outer, outer))
            for inner, outer in zip([3, *sizes[:-1]], sizes, strict=True)
        )
        self.middle = block(sizes[-1], 8 * width)
        wide = [8 * width, *sizes[:0:-1]]
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(inner, outer, 2, 2), nn.BatchNorm2d(outer), nn.ReLU())
            for inner, outer in zip(wide, sizes[::-1], strict=True)
        )
        self.join = nn.ModuleList(block(2 * outer, outer) for outer in sizes[::-1])
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The map."""
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.middle(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), skips.pop()], 1))
        return self.last(x)


NETS: Final = {"detector": Detector, "unet": UNet}


def main() -> None:
    """Write those that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=zoo.FOLDER, help="(default: %(default)s)")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in NETS.items():
        target = folder / f"{name}.onnx"
        if not target.is_file():
            torch.manual_seed(zoo.SEED)
            model = make().train()
            zoo.enliven(model, SIZE)
            print(f"{target}: {zoo.export(model, SIZE, target)} exporter")


if __name__ == "__main__":
    main()
