"""RMSNorms that another RMSNorm makes redundant: their division goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import normfold
from folding import array, model, run

WIDTH = 12
X = np.random.default_rng(0).normal(0.2, 1.0, (64, 5, WIDTH))


class Pair(nn.Module):
    def __init__(self, between: nn.Module, *, bias: bool = False, epsilon: float = 1e-9) -> None:
        super().__init__()
        self.up, self.first = nn.Linear(WIDTH, 16), nn.RMSNorm(16, epsilon)
        self.middle, self.between = nn.Linear(16, 8, bias=bias), between
        self.second, self.down = nn.RMSNorm(8, epsilon), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.second(self.between(self.middle(self.first(self.up(x))))))


def made(between: nn.Module | None = None, **options: object) -> Pair:
    torch.manual_seed(0)
    net = Pair(between or nn.ReLU(), **options).double().eval()
    nn.init.uniform_(net.first.weight, 0.5, 1.5)
    return net


def converted(net: nn.Module, **options: object) -> normfold.FoldResult:
    return normfold.convert(net, (torch.from_numpy(X[:2]),), to="static", source="rms", calibrate=X, **options)


@pytest.mark.parametrize("between", [nn.Identity(), nn.ReLU(), nn.LeakyReLU(), nn.Flatten(0, 1)])
def test_the_first_of_two_goes(between: nn.Module) -> None:
    net = made(between)
    done = converted(net)
    first, second = done.decisions
    assert (first.outcome, first.label, first.to) == ("converted", "exact-if", "static")
    assert "mean square" in first.certificate.condition
    assert second.outcome == "kept"
    assert isinstance(done.model.first, nn.Identity)
    x = torch.from_numpy(X)
    with torch.no_grad():
        wanted, got = net(x), done.model(x)
    assert float(((got - wanted).abs() / wanted.abs().max()).max()) <= first.certificate.bound


def test_the_bound_is_reached_within_a_factor_of_ten() -> None:
    net = made(nn.Identity(), epsilon=1e-6)
    done = converted(net)
    with torch.no_grad():
        rows = torch.from_numpy(X).reshape(-1, WIDTH)
        one, other = (
            torch.nn.functional.linear(
                one.between(one.middle(one.first(one.up(rows)))), torch.eye(8, dtype=torch.float64)
            )
            for one in (net, done.model)
        )
        wanted, got = net.second(one), net.second(other)
        error = float(((got - wanted).norm(dim=1) / wanted.norm(dim=1)).max())
    assert 0.01 * done.decisions[0].certificate.bound <= error <= done.decisions[0].certificate.bound


@pytest.mark.parametrize(
    ("net", "premise"),
    [
        (made(bias=True), "linear-consumer"),
        (made(nn.GELU()), "linear-consumer"),
        (made(nn.Identity(), epsilon=0.5), "bounded-error"),
    ],
)
def test_what_sees_the_size(net: nn.Module, premise: str) -> None:
    first = converted(net).decisions[0]
    assert first.outcome == "kept"
    assert premise in {one.premise for one in first.refused_by}


def test_without_inputs_nobody_knows_how_small_they_are() -> None:
    first = normfold.convert(made(), (torch.from_numpy(X[:2]),), to="static", source="rms").decisions[0]
    assert "calibration-data" in {one.premise for one in first.refused_by}


def test_no_fold_does_this() -> None:
    assert {one.outcome for one in normfold.fold(made(), (torch.from_numpy(X[:2]),)).decisions} <= {
        "kept",
        "part-folded",
    }


def test_in_a_file() -> None:
    held = {"w": array(6, 6), "u": array(6, 4), "g": np.abs(array(6)) + 0.5, "h": np.ones(4, np.float32)}
    held |= {"two": np.array(2.0, np.float32), "e": np.array(1e-8, np.float32)}
    body = ["p = MatMul(x, w)"]
    for read, tail, out in (("p", "g", "a"), ("c", "h", "y")):
        body += [
            f"q{out} = Pow({read}, two)",
            f"m{out} = ReduceMean <axes = [-1]> (q{out})",
            f"s{out} = Add(m{out}, e)",
        ]
        body += [f"r{out} = Sqrt(s{out})", f"d{out} = Div({read}, r{out})", f"{out} = Mul(d{out}, {tail})"]
        body += ["b = MatMul(a, u)", "c = LeakyRelu(b)"] if out == "a" else []
    source = model("float[n,6] x", body, held, opset=17)
    x = np.random.default_rng(1).normal(size=(64, 6)).astype(np.float32)
    done = normfold.convert(source, to="static", source="rms", calibrate=x)
    assert [one.outcome for one in done.decisions] == ["converted", "kept"]
    wanted, got = (next(iter(run(one, {"x": x}).values())) for one in (source, done.model))
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert sum(node.op_type == "Sqrt" for node in done.model.graph.node) == 1


def tied() -> nn.Module:
    net = made(nn.Identity())
    net.middle, net.second = nn.Linear(16, 16, bias=False).double(), nn.RMSNorm(16, 1e-9).double()
    net.down, net.second.weight = nn.Linear(16, 4).double(), net.first.weight
    return net


def over_two_axes() -> nn.Module:
    net = made()
    net.first = nn.RMSNorm((5, 16), 1e-9).double()
    return net


@pytest.mark.parametrize(("net", "premise"), [(tied(), "room"), (over_two_axes(), "one-axis")])
def test_what_is_not_read_as_the_norm_of_one_axis_with_a_scale(net: nn.Module, premise: str) -> None:
    first = converted(net.eval()).decisions[0]
    assert first.refused_by[0].premise == premise
