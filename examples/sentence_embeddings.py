"""Make a sentence encoder fast on a server: RMSNorms for LayerNorms, eight-bit products, sentences of any length.

python examples/sentence_embeddings.py; an encoder of random weights stands for yours, random tokens for your sentences.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

import normfold

WORDS, WIDTH, LAYERS = 2000, 128, 2


class Encoder(nn.Module):
    """Tokens [batch, length] to the mean of their states [batch, width]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.ModuleList(nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).layers)
        self.norm = nn.LayerNorm(WIDTH)
        for norm in (module for module in self.modules() if isinstance(module, nn.LayerNorm)):
            nn.init.normal_(norm.weight, 1.0, 0.2)
            nn.init.normal_(norm.bias, 0.0, 0.2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The sentence's vector."""
        states = self.words(tokens)
        for layer in self.layers:
            states = layer(states)
        return self.norm(states).mean(1)


def sentences() -> Iterator[dict[str, np.ndarray]]:
    """Calibration data: sentences one by one, each of its own length."""
    rng = np.random.default_rng(0)
    for _ in range(64):
        yield {"tokens": rng.integers(0, WORDS, (1, rng.integers(8, 64)))}


def main(folder: Path) -> None:
    """Export with a free length, make RMSNorms of the LayerNorms where that is exact, quantise."""
    torch.manual_seed(0)
    exported, lean, small = folder / "encoder.onnx", folder / "encoder-rms.onnx", folder / "encoder-int8.onnx"
    example = (torch.randint(WORDS, (2, 32)),)
    free = {"tokens": {0: "batch", 1: "length"}}
    result = normfold.export(Encoder().eval(), example, dynamic=free, input_names=["tokens"], output=exported)
    converted = normfold.convert(exported, to="rms", shapes={"tokens": (1, 32)}, output=lean)
    for one in (*result.decisions, *converted.decisions):
        print(f"{one.outcome:12} {one.site}")
    done = normfold.quantize(lean, calibrate=sentences, shapes={"tokens": (1, 32)}, output=small, force=True)
    print(done)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
