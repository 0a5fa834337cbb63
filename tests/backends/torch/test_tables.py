"""Embeddings and recurrences as modules: what is read, what is refused, and what stays as it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from normfold.backends.torch import TorchGraph, trace
from normfold.core.views import Embedding, Opaque, Recurrent, View
from torch_nets import Forward


def views(net: nn.Module, *inputs: torch.Tensor) -> list[View]:
    """What the operations of ``net`` are lifted to, but for those that make zeros."""
    graph = TorchGraph(trace(net.eval(), inputs, {}))
    return [graph.view(op) for op in graph.nodes() if op.kind != "zeros"]


def refusals(view: View) -> set[str]:
    return {refusal.premise for refusal in view.refusals}


TOKENS = torch.tensor([[0, 3, 3], [6, 1, 0]])
SEQUENCE = torch.randn(2, 5, 4)


def test_an_embedding_is_read() -> None:
    (view,) = views(nn.Embedding(7, 4, padding_idx=0), TOKENS)
    assert isinstance(view, Embedding)
    assert view.table.shape == (7, 4)


def test_a_table_that_the_call_changes() -> None:
    """``max_norm`` scales rows down in place as they are read."""
    net = nn.Embedding(7, 4, max_norm=0.5)
    assert "constant" in refusals(views(net, TOKENS)[-1])


def test_a_table_that_is_a_weight_as_well() -> None:
    net = Forward(lambda self, x: self.head(self.table(x)), table=nn.Embedding(7, 4), head=nn.Linear(4, 7, bias=False))
    net.head.weight = net.table.weight
    assert "parameter-untied" in refusals(views(net, TOKENS)[0])


def test_a_table_that_is_read_twice() -> None:
    net = Forward(lambda self, x: self.table(x) + self.table(x.flip(0)), table=nn.Embedding(7, 4))
    assert "called-once" in refusals(next(view for view in views(net, TOKENS) if view.op == "embedding"))


def test_an_embedding_of_bags() -> None:
    view = next(view for view in views(nn.EmbeddingBag(7, 4), TOKENS) if view.op == "embedding_bag")
    assert isinstance(view, Opaque)
    assert refusals(view) == {"linear-producer"}


def recurrent(net: nn.Module, *inputs: torch.Tensor) -> Recurrent:
    (found,) = (view for view in views(net, *inputs) if isinstance(view, Recurrent))
    return found


def test_only_the_first_layer_reads_the_input() -> None:
    net = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)
    view = recurrent(net, SEQUENCE)
    for weight, name in zip(view.weights, ("weight_ih_l0", "weight_ih_l0_reverse"), strict=True):
        assert torch.equal(torch.from_numpy(weight.native()[0]).float(), getattr(net, name))
    for bias, name in zip(view.biases, ("bias_ih_l0", "bias_ih_l0_reverse"), strict=True):
        assert torch.equal(torch.from_numpy(bias).float(), getattr(net, name))


def test_a_projection_stands_behind_the_other_weights_of_its_layer() -> None:
    net = nn.LSTM(4, 3, proj_size=2, num_layers=2, bidirectional=True, batch_first=True)
    second = recurrent(net, SEQUENCE).weights[1]
    assert torch.equal(torch.from_numpy(second.native()[0]).float(), net.weight_ih_l0_reverse)


def test_without_a_bias() -> None:
    view = recurrent(nn.GRU(4, 3, bias=False), SEQUENCE)
    assert view.biases == (None,)
    assert not view.bias_slot


def test_a_packed_sequence() -> None:
    """A named tuple that looks at its tensors when it is made."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(pack_padded_sequence(x, [5, 3], batch_first=True))[0].data

    view = recurrent(Forward(forward, rnn=nn.RNN(4, 3, nonlinearity="relu")), SEQUENCE)
    assert view.op == "rnn_relu"


def test_a_recurrence_with_a_state_of_its_own() -> None:
    net = Forward(lambda self, x, h: self.rnn(x, h)[0], rnn=nn.GRU(4, 3, batch_first=True))
    view = recurrent(net, SEQUENCE, torch.randn(1, 2, 3))
    assert [value.name for value in view.inputs] == ["input 0", "input 1"]
