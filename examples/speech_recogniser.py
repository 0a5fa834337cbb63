"""A speech network of convolutions, LayerNorms and an LSTM: what folds into what, and what the norms cost.

python examples/speech_recogniser.py; a network of random weights stands for yours.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

import normfold


class Recogniser(nn.Module):
    """Features [batch, 40, frames] to scores of 30 letters for each second frame."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(40, 64, 5, 2, padding=2), nn.BatchNorm1d(64), nn.ReLU())
        self.input_norm = nn.BatchNorm1d(64)
        self.lstm = nn.LSTM(64, 64, batch_first=True)
        self.norm = nn.LayerNorm(64)
        self.letters = nn.Linear(64, 30)
        nn.init.normal_(self.norm.weight, 1.0, 0.2)
        nn.init.normal_(self.norm.bias, 0.0, 0.2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Scores [batch, frames / 2, 30]."""
        states, _ = self.lstm(self.input_norm(self.front(features)).transpose(1, 2))
        return self.letters(self.norm(states))


def recogniser() -> nn.Module:
    """The network, its BatchNorms with statistics."""
    torch.manual_seed(0)
    net = Recogniser()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 40, 64))
    return net.eval()


def main(folder: Path) -> None:
    """Export and fold, say what each norm became, and where the last one's statistics could go."""
    path = folder / "recogniser.onnx"
    result = normfold.export(recogniser(), (torch.randn(1, 40, 64),), output=path)
    for decision in result.decisions:
        print(f"{decision.outcome:12} {decision.site:12} {', '.join(decision.into)}")
    print(result.verification.status)
    print(normfold.advise(path, use="edge"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
