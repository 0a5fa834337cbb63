"""Residual streams of modules: the same as those of the files that they are exported to."""

from __future__ import annotations

import importlib.util
from os import environ
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional

from normfold.backends.onnx import OnnxGraph
from normfold.backends.torch import TorchGraph
from normfold.backends.torch.tracer import trace
from normfold.core.graph import Graph
from normfold.core.streams import Stream, streams
from normfold.core.views import AffineOp, Linear, Norm
from normfold.runtime import CHECKER

GARDEN = Path(environ.get("NORMFOLD_GARDEN", Path(__file__).resolve().parents[4] / "shared" / "garden"))
BLOCKS = 6
WIDTH = 8


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(functional.scaled_dot_product_attention(q, k, v))


class Block(nn.Module):
    """A transformer's, with its norms first, or last."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.attention, self.norm1, self.norm2 = Attention(), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.down(functional.gelu(self.up(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            x = x + self.attention(self.norm1(x))
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed(x))


class Decoder(nn.Module):
    """GPT's shape: a table of positions, blocks whose norms come first, a last norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Linear(5, WIDTH), nn.Parameter(torch.randn(4, WIDTH))
        self.blocks = nn.Sequential(Block(first=True), Block(first=True))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.positions)))


def traced(module: nn.Module, x: torch.Tensor) -> TorchGraph:
    return TorchGraph(trace(module.eval(), (x,), {}))


def names(graph: Graph, stream: Stream) -> tuple[list[str], list[str]]:
    """Writers and readers by name, and what has none by its kind."""
    writers, readers = (
        [graph.value_name(port.value) if port.node is None else graph.name(port.node) for port in ports]
        for ports in (stream.writers, stream.readers)
    )
    return writers, readers


def test_a_decoder_has_one_stream() -> None:
    graph = traced(Decoder(), torch.randn(2, 4, 5))
    (stream,) = streams(graph)
    assert names(graph, stream) == (
        [
            "embed",
            "add",
            "blocks.0.attention.out",
            "blocks.0.down",
            "blocks.1.attention.out",
            "blocks.1.down",
        ],
        ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm"],
    )
    assert len(stream.additions) == 4
    assert not stream.stops


def test_an_encoder_whose_norms_come_last_has_a_stream_for_each() -> None:
    graph = traced(nn.Sequential(nn.Linear(5, WIDTH), Block(first=False)), torch.randn(2, 4, 5))
    assert [names(graph, stream) for stream in streams(graph)] == [
        (["0", "1.attention.out"], ["1.attention.qkv", "1.norm1"]),
        (["1.norm1", "1.down"], ["1.up", "1.norm2"]),
    ]


@pytest.mark.skipif(not GARDEN.exists(), reason="the trained networks are not here")
@pytest.mark.parametrize("as_file", [True, False])
def test_a_vision_transformer(as_file: bool) -> None:
    """Every block writes twice, each reader is a norm; in the file, biases are additions of their own."""
    graph: Graph
    if as_file:
        graph = OnnxGraph(ir.load(GARDEN / "onnx" / "vit.onnx"), CHECKER.infer)
    else:
        spec = importlib.util.spec_from_file_location("garden", GARDEN / "garden.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        graph = traced(module.GARDEN["vit"](), torch.randn(2, 3, 32, 32))
    (stream,) = streams(graph)
    views = [graph.view(port.node) for port in stream.readers if port.node is not None]
    assert len(views) == len(stream.readers) == 2 * BLOCKS + 1
    assert all(isinstance(view, Norm) for view in views)
    assert len(stream.additions) == 2 * BLOCKS
    written = [graph.view(port.node) for port in stream.writers if port.node is not None]
    assert len(written) == len(stream.writers)
    linear = [view for view in written if isinstance(view, Linear)]
    assert len(linear) == 2 * BLOCKS + 1
    assert not stream.stops
    assert all(isinstance(view, Linear | AffineOp) for view in written)
