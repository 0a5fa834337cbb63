"""One module makes way for another: a norm of another kind, a linear operation with a bias or without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from normfold.backends.torch import TorchGraph
from normfold.backends.torch.tracer import trace
from normfold.backends.torch.write import Change, write
from normfold.core.algebra import Affine
from normfold.core.plan import Plan, Replace, SetView
from normfold.core.views import Linear, Norm, NormKind, View

TOKENS = (2, 3, 4)


def replaced(module: nn.Module, shape: tuple[int, ...], change: View | None = None) -> tuple[TorchGraph, View]:
    """The graph of ``module``, and the view of its last operation, or that of the same node as ``change``."""
    graph = TorchGraph(trace(module.eval(), (torch.zeros(shape),), {}))
    return graph, change or graph.view(graph.nodes()[-1])


def committed(graph: TorchGraph, view: View, module: nn.Module) -> Change:
    plan = Plan((Replace(view),))
    assert graph.unable(plan) is None
    graph.commit(plan)
    return write(graph, module)


def norm_of(view: View, kind: NormKind, *, holds_shift: bool) -> Norm:
    assert isinstance(view, Norm)
    assert view.tail is not None
    return replace(view, kind=kind, holds_shift=holds_shift, tail=Affine(2 * view.tail.scale, 0 * view.tail.shift))


def test_a_layer_norm_becomes_an_rms_norm() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, eps=1e-3))
    graph, view = replaced(module, TOKENS)
    assert committed(graph, norm_of(view, "rms", holds_shift=False), module) == Change(("1.bias",), ())
    new = module[1]
    assert isinstance(new, nn.RMSNorm)
    assert new.eps == 1e-3
    assert not new.training
    assert torch.equal(new.weight, torch.full((4,), 2.0))
    x = torch.randn(TOKENS)
    h = module[0](x)
    wanted = 2 * h / torch.sqrt(h.square().mean(-1, keepdim=True) + 1e-3)
    torch.testing.assert_close(module(x), wanted)


def test_an_rms_norm_becomes_a_layer_norm() -> None:
    module = nn.Sequential(nn.RMSNorm(4, eps=1e-3)).double()
    graph, view = replaced(module.float(), TOKENS)
    assert committed(graph, norm_of(view, "layer", holds_shift=True), module) == Change((), ("0.bias",))
    assert isinstance(module[0], nn.LayerNorm)
    assert module[0].eps == 1e-3


def test_a_norm_without_constants() -> None:
    module = nn.Sequential(nn.LayerNorm(4, elementwise_affine=False))
    graph, view = replaced(module, TOKENS)
    assert isinstance(view, Norm)
    assert committed(graph, replace(view, kind="rms"), module) == Change((), ())
    assert isinstance(module[0], nn.RMSNorm)
    assert module[0].weight is None


@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.Linear(4, 3, bias=False), TOKENS), (nn.Conv2d(4, 3, 2, bias=False), (1, 4, 5, 5))],
)
def test_a_linear_operation_gains_a_bias(module: nn.Module, shape: tuple[int, ...]) -> None:
    net = nn.Sequential(module)
    before = net(torch.ones(shape)).detach()
    graph, view = replaced(net, shape)
    assert isinstance(view, Linear)
    spread = (3, *[1] * len(view.weight.taps))
    with_bias = replace(view, bias=np.array([1.0, 2.0, 3.0]).reshape(spread))
    assert committed(graph, with_bias, net) == Change((), ("0.bias",))
    shift = torch.tensor([1.0, 2.0, 3.0]).reshape(spread)
    torch.testing.assert_close(net(torch.ones(shape)), before + shift)


def test_a_linear_operation_loses_its_bias() -> None:
    """A module tree has no place for that but where one module may be replaced by another."""
    module = nn.Sequential(nn.Linear(4, 3))
    graph, view = replaced(module, TOKENS)
    assert isinstance(view, Linear)
    without = replace(view, bias=None)
    refusal = graph.unable(Plan((SetView(without),)))
    assert refusal is not None
    assert refusal.premise == "needs-structure"
    assert committed(graph, without, module) == Change(("0.bias",), ())
    assert module[0].bias is None


def test_a_module_at_two_paths_stays_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4, elementwise_affine=False)
            self.same = self.norm

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x)

    module = Twice()
    graph, view = replaced(module, TOKENS)
    assert isinstance(view, Norm)
    committed(graph, replace(view, kind="rms"), module)
    assert isinstance(module.norm, nn.RMSNorm)
    assert module.norm is module.same


def test_a_later_change_goes_into_the_new_module() -> None:
    module = nn.Sequential(nn.LayerNorm(4))
    graph, view = replaced(module, TOKENS)
    graph.commit(Plan((Replace(norm_of(view, "rms", holds_shift=False)),)))
    again = graph.view(view.node)
    assert isinstance(again, Norm)
    graph.commit(Plan((SetView(replace(again, tail=Affine.of(np.full(4, 5.0)))),)))
    assert write(graph, module) == Change(("0.bias",), ())
    assert torch.equal(module[0].weight, torch.full((4,), 5.0))


def test_a_norm_that_is_called_twice_stays() -> None:
    twice = nn.LayerNorm(4)
    graph, view = replaced(nn.Sequential(twice, twice), TOKENS)
    assert isinstance(view, Norm)
    refusal = graph.unable(Plan((Replace(replace(view, kind="rms")),)))
    assert refusal is not None
    assert refusal.premise == "called-once"


def test_a_norm_whose_scale_is_not_its_own() -> None:
    first, second = nn.LayerNorm(4), nn.LayerNorm(4)
    second.weight = first.weight
    graph, view = replaced(nn.Sequential(first, second), TOKENS)
    assert isinstance(view, Norm)
    refusal = graph.unable(Plan((Replace(replace(view, kind="rms")),)))
    assert refusal is not None
    assert refusal.premise in ("parameter-untied", "room")


def test_an_epsilon_that_is_no_number() -> None:
    graph, view = replaced(nn.Sequential(nn.RMSNorm(4)), TOKENS)
    refusal = graph.unable(Plan((Replace(norm_of(view, "layer", holds_shift=True)),)))
    assert refusal is not None
    assert refusal.premise == "needs-structure"


def test_a_norm_that_has_no_scale() -> None:
    graph, view = replaced(nn.Sequential(nn.LayerNorm(4, elementwise_affine=False)), TOKENS)
    assert isinstance(view, Norm)
    refusal = graph.unable(Plan((Replace(replace(view, kind="rms", tail=Affine.of(2.0))),)))
    assert refusal is not None
    assert refusal.premise == "room"
