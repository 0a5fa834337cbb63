"""Weights that are normalised at each call are computed once, and stored."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import normfold
from folding import array, model

EXACT = 1e-12


class Standardised(nn.Conv2d):
    """Weight standardisation, as networks write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        variance = self.weight.var((1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-5)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Standardised(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).double().eval()


def test_a_standardised_weight() -> None:
    source, x = net(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    done = normfold.convert(source, (x,), to="static", source="weight")
    (decision,) = done.decisions
    assert (decision.site, decision.norm) == ("0", "WeightNorm")
    assert (decision.outcome, decision.to, decision.label) == ("converted", "static", "exact")
    assert type(done.model[0]) is nn.Conv2d
    wanted, got = source(x), done.model(x)
    assert float((got - wanted).abs().max()) <= EXACT * float(wanted.max() - wanted.min())


def test_in_a_file() -> None:
    mean = "ReduceMean <axes = [1, 2, 3]>"
    body = [f"m = {mean} (w)", "c = Sub(w, m)", "q = Mul(c, c)", f"v = {mean} (q)", "a = Add(v, e)"]
    body += ["d = Sqrt(a)", "k = Div(c, d)", "[conv] y = Conv(x, k)"]
    held = {"w": array(4, 3, 3, 3), "e": np.array(1e-5, np.float32)}
    done = normfold.convert(model("float[1,3,6,6] x", body, held, opset=17), to="static", source="weight")
    (decision,) = done.decisions
    assert (decision.site, decision.outcome, decision.to) == ("conv", "converted", "static")
    assert [node.op_type for node in done.model.graph.node] == ["Conv"]


def test_other_targets_are_refused_by_name() -> None:
    done = normfold.convert(net(), (torch.randn(2, 3, 8, 8, dtype=torch.float64),), to="layer", source="weight")
    assert {one.premise for decision in done.decisions for one in decision.refused_by} == {"meaningful"}


def test_a_weight_is_no_norm_where_none_was_asked_about() -> None:
    done = normfold.convert(net(), (torch.randn(2, 3, 8, 8, dtype=torch.float64),), to="layer")
    assert done.decisions == ()


def test_left_out() -> None:
    done = normfold.convert(net(), (torch.randn(2, 3, 8, 8, dtype=torch.float64),), to="static", only=["nothing"])
    assert {one.premise for decision in done.decisions for one in decision.refused_by} == {"selected"}
