"""What an operation must be like to be lifted: where it is not, the premise that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import normfold
from normfold.backends.torch import TorchGraph, trace
from normfold.backends.torch.program import ProgramGraph, prepare
from normfold.core.plan import Plan, Replace
from normfold.core.views import Norm, Opaque, View
from torch_nets import Forward, folded, live, picture, premises

PICTURE = torch.zeros(2, 4, 6, 6)


class Held(nn.Module):
    """Tensors for a forward to read."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


class Scaled(nn.Module):
    """One affine map by stored constants."""

    def __init__(self, *scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(scale).reshape(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Logged(torch.Tensor):
    """A tensor of another class, as quantised or distributed ones are."""


def lifted(net: nn.Module, kind: str, *inputs: torch.Tensor) -> View:
    """The view of the one operation of ``kind``, be it of stored tensors alone."""
    run = trace(net.eval(), inputs, {})
    graph = TorchGraph(run)
    (found,) = {op for op in (*graph.nodes(), *run.ops) if op.kind == kind}
    return graph.view(found)


def computed(self: Any, x: torch.Tensor) -> torch.Tensor:
    bn = self.bn
    return functional.batch_norm(x, x.mean((0, 2, 3)), bn.running_var, bn.weight, bn.bias)


def changed(self: Any, x: torch.Tensor) -> torch.Tensor:
    bn = self.bn
    bn.running_mean.mul_(1.0)
    return functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)


def enlarged(self: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.maximum(x[:, :1], self.held.k)


VECTOR = torch.ones(4)
CASES: dict[str, tuple[str, str, Callable[..., Any], Mapping[str, nn.Module], torch.Tensor]] = {
    # What is different, the premise and the kind of the operation, the forward, what it reads, and the input.
    "a product with a factor": (
        "linear-consumer",
        "addmm",
        lambda self, x: torch.addmm(self.held.c, x, self.held.k, alpha=2.0),
        {"held": Held(c=VECTOR, k=torch.ones(4, 4))},
        torch.zeros(2, 4),
    ),
    "a bias with a factor": (
        "linear-consumer",
        "addmm",
        lambda self, x: torch.addmm(self.held.c, x, self.held.k, beta=2.0),
        {"held": Held(c=VECTOR, k=torch.ones(4, 4))},
        torch.zeros(2, 4),
    ),
    "a product with a vector": (
        "matrix",
        "linear",
        lambda self, x: functional.linear(x, self.held.k),
        {"held": Held(k=VECTOR)},
        torch.zeros(2, 4),
    ),
    "a bias of one element": (
        "per-output-channel",
        "addmm",
        lambda self, x: torch.addmm(self.held.c, x, self.held.k),
        {"held": Held(c=torch.ones(1), k=torch.ones(4, 4))},
        torch.zeros(2, 4),
    ),
    "whole numbers": (
        "floating-point",
        "linear",
        lambda self, x: functional.linear(x, self.held.k),
        {"held": Held(k=torch.ones(4, 4, dtype=torch.int64))},
        torch.zeros(2, 4, dtype=torch.int64),
    ),
    "a weight of another class": (
        "constant",
        "conv2d",
        lambda self, x: functional.conv2d(x, self.held.k),
        {"held": Held(k=torch.ones(4, 4, 1, 1).as_subclass(Logged))},
        PICTURE,
    ),
    "a dropout at work": ("eval-mode", "dropout", lambda _, x: functional.dropout(x, training=True), {}, PICTURE),
    "an average by a divisor of its own": (
        "every-tap",
        "avg_pool2d",
        lambda _, x: functional.avg_pool2d(x, 2, divisor_override=3),
        {},
        PICTURE,
    ),
    "computed statistics": ("constant", "batch_norm", computed, {"bn": nn.BatchNorm2d(4)}, PICTURE),
    "changed statistics": ("constant", "batch_norm", changed, {"bn": nn.BatchNorm2d(4)}, PICTURE),
    "a variance of zero": ("finite", "batch_norm", lambda self, x: self.bn(x), {"bn": nn.BatchNorm2d(4)}, PICTURE),
    "a scale that is no number": (
        "finite",
        "affine",
        lambda self, x: self.scaled(x),
        {"scaled": Scaled(1.0, float("nan"), 1.0, 1.0)},
        PICTURE,
    ),
    "bounds that are tensors": (
        "constant",
        "clamp",
        lambda self, x: torch.clamp(x, min=self.held.k),
        {"held": Held(k=torch.zeros(4, 1, 1))},
        PICTURE,
    ),
    "the larger of two values": ("constant", "maximum", lambda _, x: torch.maximum(x, x + x), {}, PICTURE),
    "a bound that enlarges the value": (
        "same-shape",
        "maximum",
        enlarged,
        {"held": Held(k=torch.zeros(4, 1, 1))},
        PICTURE,
    ),
    "a bound that is no number": (
        "same-shape",
        "minimum",
        lambda self, x: torch.minimum(x, self.held.k),
        {"held": Held(k=torch.tensor([1.0, float("inf"), 1.0, 1.0]).reshape(4, 1, 1))},
        PICTURE,
    ),
    "a product with a stored tensor": (
        "needs-structure",
        "mul",
        lambda self, x: functional.relu(x) * self.held.k,
        {"held": Held(k=torch.ones(4, 1, 1))},
        PICTURE,
    ),
    "a product of a matrix with a vector": (
        "matrix",
        "matmul",
        lambda _, x: torch.matmul(x, x[0]),
        {},
        torch.zeros(4, 4),
    ),
    "a product with a stored matrix": (
        "matrix",
        "bmm",
        lambda self, x: torch.bmm(x, self.held.k),
        {"held": Held(k=torch.ones(2, 4, 4))},
        torch.zeros(2, 4, 4),
    ),
    "a repeated value": ("linear-producer", "expand", lambda _, x: x[:1].exp().expand(3, -1, -1, -1), {}, PICTURE),
    "a row that is repeated along another axis": (
        "row-axis",
        "expand",
        lambda self, x: torch.cat([self.held.k.expand(2, 4, -1), x], 1),
        {"held": Held(k=torch.ones(1, 1, 6))},
        torch.zeros(2, 4, 6),
    ),
    "several rows that are repeated": (
        "row-axis",
        "expand",
        lambda self, x: torch.cat([self.held.k.expand(3, 2, 4), x], 1),
        {"held": Held(k=torch.ones(2, 4))},
        torch.zeros(3, 2, 4),
    ),
    "an empty part of another rank": (
        "known-parts",
        "cat",
        lambda self, x: torch.cat([self.held.k, x], 1),
        {"held": Held(k=torch.zeros(0))},
        PICTURE,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_lifted(case: str) -> None:
    premise, kind, forward, modules, x = CASES[case]
    net = Forward(forward, **modules)
    if case == "a variance of zero":
        net.bn.eps, net.bn.running_var[2] = 0.0, 0.0
    view = lifted(net, kind, x)
    assert isinstance(view, Opaque)
    assert {refusal.premise for refusal in view.refusals} == {premise}


def program_of(net: nn.Module, x: torch.Tensor) -> ProgramGraph:
    program = prepare(torch.export.export(net.eval(), (x,)).module())
    return ProgramGraph(trace(program, (x,), {}), net)


def test_a_norm_of_a_program_becomes_no_other() -> None:
    graph = program_of(nn.Sequential(nn.LayerNorm(4, bias=False)), torch.zeros(2, 4))
    (view,) = (graph.view(node) for site in graph.sites() for node in site.nodes)
    assert isinstance(view, Norm)
    refusal = graph.unable(Plan((Replace(replace(view, kind="rms")),)))
    assert refusal is not None
    assert refusal.premise == "needs-structure"


def test_a_layout_that_a_view_relies_on_stays_in_a_program() -> None:
    """``view`` fails where neighbours in the tensor are none in memory."""
    net = Forward(lambda self, x: self.bn(self.conv(x)).transpose(1, 2).contiguous().view(2, -1), **layers())
    x = picture()
    result = normfold.fold_program(live(net), (x,))
    torch.testing.assert_close(result.model(x), net(x))


def layers() -> dict[str, nn.Module]:
    return {"conv": nn.Conv2d(4, 6, 1), "bn": nn.BatchNorm2d(6)}


def test_nothing_is_put_into_a_program() -> None:
    """A padded convolution takes the norm behind an addition only."""
    net = live(nn.Sequential(nn.GELU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)))
    assert "needs-structure" in premises(normfold.fold_program(net, (picture(),)), "1")


def rotated(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """A rotary embedding."""
    left, right = x.chunk(2, -1)
    return x * cosine + torch.cat((-right, left), -1) * sine


def angles(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.arange(4, dtype=x.dtype)


@pytest.mark.parametrize(
    ("table", "fixed"),
    [
        (angles, True),
        (lambda x: angles(x) + x.mean(), False),
        (lambda x: angles(x) * torch.rand(4), False),
    ],
    ids=["of sizes", "of values", "drawn"],
)
def test_a_table_that_is_the_same_whatever_the_data_could_take_a_scale(table: Callable, *, fixed: bool) -> None:
    """In a file of fixed sizes it is a constant; a module computes it."""

    def forward(self, x):
        y = self.norm(self.first(x))
        angle = table(x)
        return self.second(rotated(y, angle.cos(), angle.sin()))

    model = Forward(forward, first=nn.Linear(4, 4), norm=nn.RMSNorm(4), second=nn.Linear(4, 3))
    torch.manual_seed(0)
    result = normfold.fold(live(model), (torch.randn(2, 3, 4, dtype=torch.float64),), verify=False)
    assert ("needs-structure" in premises(result, "norm")) is fixed
    assert "no-scale" in premises(result, "norm")


def test_a_scale_passes_a_negation_and_a_shift_does_not() -> None:
    for norm, outcome in ((nn.RMSNorm(4), "part-folded"), (nn.LayerNorm(4), "kept")):
        model = Forward(
            lambda self, x: self.second(-self.norm(self.first(x))),
            first=nn.Linear(4, 4),
            norm=norm,
            second=nn.Linear(4, 3),
        )
        result = folded(live(model), torch.randn(2, 3, 4, dtype=torch.float64))
        assert {decision.outcome for decision in result.decisions} == {outcome}
