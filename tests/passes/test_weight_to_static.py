"""Weights that are normalised at each call are computed once, and stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import normfold
from folding import array, model
from normfold.backends.torch.modules import FrozenBatchNorm

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


LINEAR = {
    "conv": (lambda: nn.Conv2d(3, 4, 3, bias=False), (2, 3, 8, 8)),
    "circular": (lambda: nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular"), (2, 3, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), (2, 3, 8, 8)),
    "linear": (lambda: nn.Linear(3, 4), (2, 3)),
}
NORMS = {
    "weight": nn.utils.parametrizations.weight_norm,
    "spectral": nn.utils.parametrizations.spectral_norm,
    "older weight": nn.utils.weight_norm,
    "older spectral": nn.utils.spectral_norm,
}


def normalised(norm: str, module: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = LINEAR[module]
    return nn.Sequential(NORMS[norm](make()), nn.Tanh()).to(dtype).eval(), torch.randn(shape, dtype=dtype)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("module", LINEAR)
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_of_pytorch_is_computed_once(norm: str, module: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source, x = normalised(norm, module, dtype)
    done = normfold.convert(source, (x,), to="static", source="weight", output=tmp_path / "converted.safetensors")
    (decision,) = done.decisions
    assert (decision.site, decision.norm, decision.outcome) == ("0", "WeightNorm", "converted")
    assert (decision.to, decision.label) == ("static", "exact")
    new, plain = done.model[0], LINEAR[module][0]()
    assert type(new) is type(plain)
    assert new.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(done.model(x), source(x))
    assert new.weight.requires_grad
    restored = normfold.restore(normalised(norm, module, dtype)[0], tmp_path / "converted.safetensors")
    assert torch.equal(restored(x), source(x))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_of_a_weight_in_training_stays(norm: str) -> None:
    source, x = normalised(norm, "conv")
    source[0].train()
    (decision,) = normfold.convert(source, (x,), to="static", source="weight").decisions or (None,)
    assert decision is None or decision.outcome == "kept"


class Halves(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


def test_two_parametrizations_stay() -> None:
    source, x = normalised("weight", "conv")
    nn.utils.parametrize.register_parametrization(source[0], "weight", Halves())
    assert normfold.convert(source, (x,), to="static", source="weight").decisions == ()


def test_a_norm_whose_length_another_reads_stays() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.conv.parametrizations.weight.original0.sum()

    module = Read().double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    done = normfold.convert(module, (x,), to="static", source="weight")
    assert not any(decision.outcome == "converted" for decision in done.decisions)
    assert torch.equal(done.model(x), module(x))


def test_a_hook_beside_the_norm_stays() -> None:
    source, x = normalised("weight", "conv")
    source[0].register_forward_hook(lambda _module, _args, out: out + 1)
    done = normfold.convert(source, (x,), to="static", source="weight")
    assert not any(decision.outcome == "converted" for decision in done.decisions)


def test_a_norm_that_is_called_twice_is_computed_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x).tanh())

    torch.manual_seed(0)
    source, x = Twice().double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    done = normfold.convert(source, (x,), to="static", source="weight")
    assert {decision.outcome for decision in done.decisions} == {"converted"}
    assert type(done.model.conv) is nn.Conv2d
    assert torch.equal(done.model(x), source(x))


def test_a_norm_behind_is_folded_into_the_computed_weight() -> None:
    torch.manual_seed(0)
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    source = nn.Sequential(conv, nn.BatchNorm2d(4)).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    done = normfold.fold(source, (x,))
    assert [decision.outcome for decision in done.decisions] == ["folded"]
    assert type(done.model[0]) is nn.Conv2d
    assert float((done.model(x) - source(x)).detach().abs().max()) <= EXACT


@pytest.mark.parametrize(("to", "kind"), [("batch", nn.BatchNorm2d), ("frozen", FrozenBatchNorm)])
def test_a_batch_norm_takes_its_place(to: str, kind: type[nn.Module]) -> None:
    source, x = net(), torch.randn(16, 3, 8, 8, dtype=torch.float64)
    done = normfold.convert(source, (x[:2],), to=to, source="weight", calibrate=x.numpy())
    (decision,) = done.decisions
    assert (decision.outcome, decision.to, decision.label) == ("converted", to, "exact-if")
    assert done.verification.status == "equivalent"
    linear, norm = done.model[0]
    assert type(linear) is nn.Conv2d
    assert isinstance(norm, kind)
    with torch.no_grad():
        wanted, got, seen = source(x), done.model(x), source[0](x)
    assert float((got - wanted).abs().max()) <= EXACT * float(wanted.max() - wanted.min())
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)))
    assert torch.allclose(norm.running_var, seen.var((0, 2, 3), correction=0))
    assert torch.equal(source[0].weight, net()[0].weight)


def test_without_inputs_it_has_statistics_that_change_nothing() -> None:
    source, x = net(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    done = normfold.convert(source, (x,), to="batch", source="weight")
    norm = done.model[0][1]
    assert torch.equal(norm.running_mean, torch.zeros(8, dtype=torch.float64))
    assert torch.allclose(done.model(x), source(x), rtol=1e-10)


def test_a_linear_layer_whose_channels_come_last_has_no_batch_norm_behind_it() -> None:
    torch.manual_seed(0)
    source = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 4)).eval()
    done = normfold.convert(source, (torch.randn(2, 5, 6),), to="batch", source="weight")
    assert [one.premise for one in done.decisions[0].refused_by] == ["known-rank"]


def test_a_file_has_no_use_for_one() -> None:
    body = ["m = ReduceMean <axes = [1, 2, 3]> (w)", "k = Sub(w, m)", "q = Mul(k, k)"]
    body += ["v = ReduceMean <axes = [1, 2, 3]> (q)", "a = Add(v, e)", "d = Sqrt(a)", "n = Div(k, d)"]
    body += ["[conv] y = Conv(x, n)"]
    held = {"w": array(4, 3, 3, 3), "e": np.array(1e-5, np.float32)}
    done = normfold.convert(model("float[1,3,6,6] x", body, held, opset=17), to="batch", source="weight")
    assert [one.premise for one in done.decisions[0].refused_by] == ["needs-structure"]
