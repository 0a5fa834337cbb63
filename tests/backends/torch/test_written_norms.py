"""Norms that a forward writes out: sites with decisions, whose own scale and shift move where they can."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import normfold
from normfold.backends.torch import explore
from normfold.backends.torch.written import written_norms
from normfold.passes.fold import module as module_pass
from torch_nets import Forward, decisions, folded, live, outcomes, premises

SIZE = 6


class Written(nn.Module):
    """A norm over the last axis that ``formula`` writes out, of ``x``, a weight and a bias."""

    def __init__(self, formula: Callable[..., torch.Tensor], *, bias: bool = False, start: float = 1.0) -> None:
        super().__init__()
        self.formula = formula
        self.weight = nn.Parameter(torch.full((SIZE,), start))
        self.bias = nn.Parameter(torch.zeros(SIZE)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.formula(x, self.weight) if self.bias is None else self.formula(x, self.weight, self.bias)


def t5(x, w):
    variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
    x = x * torch.rsqrt(variance + 1e-6)
    return w * x


def llama(x, w):
    dtype = x.dtype
    x = x.to(torch.float32)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return w * x.to(dtype)


def gemma(x, w):
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (y * (1.0 + w.float())).type_as(x)


def divided(x, w):
    return x / torch.sqrt((x * x).mean(-1, True) + 1e-5) * w


def raised(x, w):
    return x * (torch.square(x).sum(-1, keepdim=True) / x.shape[-1] + 1e-5) ** -0.5 * w


def scaled_inside(x, w):
    return x * (w * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt())


def layer(x, w, b):
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).pow(2).mean(-1, keepdim=True)
    return w * (x - mean) / torch.sqrt(variance + 1e-5) + b


def layer_by_moments(x, w, b):
    variance, mean = torch.var_mean(x, -1, unbiased=False, keepdim=True)
    return torch.addcmul(b, (x - mean) * torch.rsqrt(variance + 1e-5), w)


def layer_by_variance(x, w, b):
    variance, mean = torch.var_mean(x, -1, unbiased=False, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-5) * w + b


def layer_by_squares(x, w, b):
    mean = x.mean(-1, keepdim=True)
    inverse = ((x * x).mean(-1, keepdim=True) - mean * mean + 1e-5).rsqrt() * w
    return x * inverse + (b - mean * inverse)


RMS = [t5, llama, gemma, divided, raised, scaled_inside]
LAYER = [layer, layer_by_variance, layer_by_squares]


def net(norm: nn.Module) -> nn.Module:
    return live(nn.Sequential(nn.Linear(5, SIZE), norm, nn.Linear(SIZE, 4)))


def rows() -> torch.Tensor:
    return torch.randn(3, 4, 5, dtype=torch.float64)


@pytest.mark.parametrize("formula", RMS)
def test_the_scale_of_an_rms_norm_moves_into_what_reads_it(formula) -> None:
    # In float32, as some of them compute whatever they are given.
    model = net(Written(formula)).float()
    result = normfold.fold(model, (rows().float(),))
    assert outcomes(result) == {"1": "part-folded"}
    assert premises(result, "1") == {"fixed-statistics"}
    unit = 0.0 if formula is gemma else 1.0
    assert torch.equal(result.model[1].weight, torch.full((SIZE,), unit))
    x = rows().float()
    torch.testing.assert_close(result.model(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("formula", LAYER)
def test_scale_and_shift_of_a_layer_norm_move(formula) -> None:
    result = folded(net(Written(formula, bias=True)), rows())
    assert outcomes(result) == {"1": "part-folded"}
    assert torch.equal(result.model[1].weight, torch.ones(SIZE, dtype=torch.float64))
    assert torch.equal(result.model[1].bias, torch.zeros(SIZE, dtype=torch.float64))


def test_scale_and_shift_with_the_same_values_are_told_apart() -> None:
    model = net(Written(layer, bias=True))
    with torch.no_grad():
        model[1].bias.copy_(model[1].weight)
    assert outcomes(folded(model, rows())) == {"1": "part-folded"}


def test_along_another_axis() -> None:
    class Norm2d(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(SIZE)), nn.Parameter(torch.zeros(SIZE))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean(1, keepdim=True)
            x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
            return self.weight[:, None, None] * x + self.bias[:, None, None]

    model = live(nn.Sequential(nn.Conv2d(4, SIZE, 1), Norm2d(), nn.Conv2d(SIZE, 3, 2)))
    result = folded(model, torch.randn(2, 4, 5, 5, dtype=torch.float64))
    assert outcomes(result) == {"1": "part-folded"}
    assert torch.equal(result.model[1].bias, torch.zeros(SIZE, dtype=torch.float64))


def test_in_a_forward_of_its_own() -> None:
    def forward(self, x):
        x = self.first(x)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        return self.second(x)

    model = Forward(forward, first=nn.Linear(5, SIZE), second=nn.Linear(SIZE, 4))
    model.scale = nn.Parameter(torch.rand(SIZE) + 0.5)
    result = folded(live(model), rows())
    assert [decision.outcome for decision in result.decisions] == ["part-folded"]
    assert torch.equal(result.model.scale, torch.ones(SIZE, dtype=torch.float64))


def test_the_stream_beside_it_is_not_its_own() -> None:
    """A cast that does nothing hands on the tensor itself, which the residual addition reads, too."""

    def forward(self, x):
        x = self.first(x)
        return x + self.second(self.norm(x))

    model = Forward(forward, first=nn.Linear(5, SIZE), norm=Written(llama), second=nn.Linear(SIZE, SIZE)).float()
    with torch.no_grad():
        model.norm.weight.copy_(torch.rand(SIZE) + 0.5)
    assert outcomes(normfold.fold(model.eval(), (rows().float(),))) == {"norm": "part-folded"}


def test_without_a_scale_it_is_a_site_all_the_same() -> None:
    class Bare(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    assert premises(folded(net(Bare()), rows()), "1") == {"fixed-statistics"}


def test_a_scale_that_is_tied_stays() -> None:
    model = live(nn.Sequential(nn.Linear(5, SIZE), Written(t5), nn.Linear(SIZE, SIZE), Written(t5), nn.Linear(SIZE, 4)))
    model[3].weight = model[1].weight
    result = normfold.fold(model, (rows(),))
    assert set(outcomes(result).values()) == {"kept"}


def test_a_scale_that_is_read_elsewhere_stays() -> None:
    model = Forward(
        lambda self, x: self.second(self.norm(self.first(x))) + self.norm.weight.sum(),
        first=nn.Linear(5, SIZE),
        norm=Written(divided),
        second=nn.Linear(SIZE, 4),
    )
    assert outcomes(folded(live(model), rows())) == {"norm": "kept"}


def test_a_product_that_something_else_reads_as_well_takes_no_scale() -> None:
    def forward(self, x):
        y = self.norm(self.first(x))
        return self.second(y), y.sum()

    model = Forward(forward, first=nn.Linear(5, SIZE), norm=Written(divided), second=nn.Linear(SIZE, 4))
    result = normfold.fold(live(model), (rows(),))
    assert decisions(result)["norm"].outcome == "kept"


NEAR_MISSES = [
    lambda x, w: x * torch.rsqrt(x.var(-1, keepdim=True) + 1e-6) * w,
    lambda x, w: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)) * w,
    lambda x, w: x * torch.rsqrt(x.pow(2).mean(-2, keepdim=True) + x.pow(2).mean(-1, keepdim=True) + 1e-6) * w,
    lambda x, w: x * torch.rsqrt(x.abs().mean(-1, keepdim=True) + 1e-6) * w,
    lambda x, w: (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w,
    lambda x, w: x.relu() * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w,
    lambda x, w: torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w,
]


@pytest.mark.parametrize("formula", NEAR_MISSES)
def test_what_is_almost_a_norm_is_none(formula) -> None:
    model = net(Written(formula))
    assert list(written_norms(explore(model, (rows(),), {}))) == []
    folded(model, rows())


@pytest.mark.parametrize("formula", [*RMS, *LAYER])
def test_as_a_program(formula) -> None:
    model = net(Written(formula, bias=formula in LAYER)).float()
    result = normfold.fold_program(model, (rows().float(),))
    assert next(one for one in result.decisions if one.site == "1").outcome == "part-folded"


def test_a_batch_norm_behind_a_written_one_goes_in_a_program() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.bn, self.conv = Written(divided), nn.BatchNorm1d(SIZE), nn.Conv1d(SIZE, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.bn(self.norm(x).transpose(1, 2)))

    result = normfold.fold_program(live(Block()), (torch.randn(2, 5, SIZE, dtype=torch.float64),))
    assert {one.site: one.outcome for one in result.decisions}["bn"] == "folded"


def test_an_alias_behind_it_belongs_to_whoever_made_it() -> None:
    model = Forward(
        lambda self, x: self.second(self.norm(self.first(x))[:, slice(None), :]),
        first=nn.Linear(5, SIZE),
        norm=Written(divided),
        second=nn.Linear(SIZE, 4),
    )
    assert outcomes(folded(live(model), rows())) == {"norm": "part-folded"}


def test_a_layer_norm_says_that_no_one_operation_can_take_its_place() -> None:
    """In a file it would become one; an RMSNorm would not, below opset 23."""
    for formula, bias, said in ((layer, True, True), (llama, False, False)):
        model = Forward(
            lambda self, x: self.norm(self.first(x)), first=nn.Linear(5, SIZE), norm=Written(formula, bias=bias)
        )
        result = normfold.fold(live(model), (rows(),))
        assert outcomes(result) == {"norm": "kept"}
        assert ("needs-structure" in premises(result, "norm")) is said


def in_double(norm: nn.Module) -> nn.Module:
    """Two products in float64, and between them a norm that computes in float32."""
    return live(nn.Sequential(nn.Linear(5, SIZE), norm, nn.Linear(SIZE, 4)))


@pytest.mark.parametrize("formula", [gemma, llama, t5])
def test_casts_inside_a_module_in_float64_decide_how_close_it_is_held(formula: Callable) -> None:
    result = normfold.fold(in_double(Written(formula)), (rows(),))
    assert outcomes(result) == {"1": "part-folded"}
    assert (result.verification.status, result.verification.rtol) == ("equivalent", 1e-4)


def test_casts_before_what_changes_do_not() -> None:
    def forward(self, x):
        return self.second(self.norm(self.first(x.float().double())))

    model = Forward(forward, first=nn.Linear(5, SIZE), norm=Written(divided), second=nn.Linear(SIZE, 4))
    result = normfold.fold(live(model), (rows(),))
    assert outcomes(result) == {"norm": "part-folded"}
    assert result.verification.rtol == 1e-9


@pytest.mark.parametrize("formula", [gemma, t5, divided])
def test_what_rounding_inside_would_hide_is_found(formula: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that is wrong by less than float32 tells, but more than float64 does."""
    right = module_pass.write

    def wrong(graph, module):
        done = right(graph, module)
        with torch.no_grad():
            module[2].weight[0] *= 1 + 1e-6
        return done

    monkeypatch.setattr(module_pass, "write", wrong)
    result = normfold.fold(in_double(Written(formula)), (rows(),))
    assert (outcomes(result), premises(result, "1")) == ({"1": "kept"}, {"verification-failed"})


def test_constants_in_float32_are_taken_over_as_they_are() -> None:
    """``1 + w`` in float32 is what the module multiplies by, and what the product gets."""
    model = in_double(Written(gemma))
    scale = (1.0 + model[1].weight.detach().float()).double()
    result = normfold.fold(model, (rows(),))
    assert torch.equal(result.model[2].weight, model[2].weight * scale)
