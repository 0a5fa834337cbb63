"""Calibrated conversions of modules, from the call to the result."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import normfold  # noqa: E402
from normfold.errors import UsageError  # noqa: E402
from normfold.passes.convert.calibrated.distill import Distillation, distill  # noqa: E402
from normfold.pipeline.prove import DiffersError  # noqa: E402

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(96, 3, 8, 8)) * RNG.uniform(0.5, 1.5, (96, 1, 1, 1)) + RNG.normal(size=(96, 3, 1, 1))).astype(
    np.float32
)
EXAMPLE = (torch.from_numpy(X[:2]),)


class Net(nn.Module):
    """Conv -> BN -> ReLU twice, and a classifier."""

    def __init__(self, width=8):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.c2, self.b2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 4)

    def forward(self, x):
        x = torch.relu(self.b2(self.c2(torch.relu(self.b1(self.c1(x))))))
        return self.fc(x.mean((2, 3)))


def trained(seed=0, width=8):
    """A network whose running statistics are those of the data."""
    torch.manual_seed(seed)
    net = Net(width)
    for norm in (net.b1, net.b2):
        norm.momentum = None
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.5)
    with torch.no_grad():
        for _ in range(2):
            net.train()(torch.from_numpy(X))
    return net.eval()


def labels(net):
    with torch.no_grad():
        return net(torch.from_numpy(X)).argmax(1).numpy()


def drift(net, result):
    with torch.no_grad():
        wanted, found = net(torch.from_numpy(X)), result(torch.from_numpy(X))
    return float(((found - wanted).square().mean() / wanted.var()).sqrt())


@pytest.mark.parametrize(
    ("to", "kind"), [("group", nn.GroupNorm), ("group:count=2", nn.GroupNorm), ("layer", nn.Module), ("rms", nn.Module)]
)
def test_batch_norms_become_norms_with_live_statistics(to, kind):
    net = trained()
    result = normfold.convert(net, EXAMPLE, to=to, calibrate=X)
    assert [(one.outcome, one.label) for one in result.decisions] == [("converted", "calibrated")] * 2
    assert isinstance(result.model.b1, kind)
    assert not any(isinstance(one, nn.BatchNorm2d) for one in result.model.modules())
    assert all(0.5 < one.certificate.r2 <= 1.0 for one in result.decisions)
    assert all(0.0 < one.certificate.constant_share < 0.85 for one in result.decisions)
    assert result.verification.status == "within-budget"
    assert drift(net, result.model) == pytest.approx(result.drift, abs=0.15)
    assert not result.model.training
    assert isinstance(net.b1, nn.BatchNorm2d)


def variance_of(norm):
    """The geometric mean of the channels' variances, as the norm divides by them."""
    return float((norm.running_var.double() + norm.eps).log().mean().exp())


def test_groups_are_those_asked_for_and_offset_zero_is_live():
    result = normfold.convert(trained(), EXAMPLE, to="group:size=4", calibrate=X, max_offset=0.0)
    assert (result.model.b1.num_groups, result.model.b1.num_channels) == (2, 8)
    # What writes the norm's input keeps its size, so that a training can go on; epsilon goes with it.
    assert result.model.b1.eps == pytest.approx(1e-5 * variance_of(trained().b1))
    assert all(one.certificate.constant_share < 0.01 for one in result.decisions)
    assert "live" in str(result.report())


def test_the_result_is_far_closer_than_the_same_constants_in_another_norm():
    net = trained()
    copied = trained()
    for name in ("b1", "b2"):
        norm = nn.GroupNorm(1, 8)
        norm.weight.data, norm.bias.data = getattr(net, name).weight.data, getattr(net, name).bias.data
        setattr(copied, name, norm)
    result = normfold.convert(net, EXAMPLE, to="group", calibrate=X)
    assert drift(net, result.model) < 0.3 * drift(net, copied)


def test_without_data_the_running_statistics_have_to_do():
    net = trained()
    result = normfold.convert(net, EXAMPLE, to="group")
    assert [one.certificate.r2 for one in result.decisions] == [None, None]
    assert result.model.b1.eps == pytest.approx(variance_of(net.b1))
    assert drift(net, result.model) < 0.5


def test_an_rms_norm_with_a_large_epsilon_is_exact_if_and_inert():
    net = trained()
    result = normfold.convert(net, EXAMPLE, to="rms")
    certificate = result.decisions[0].certificate
    assert (certificate.label, certificate.bound) == ("exact-if", 0.5 / 16)
    assert certificate.constant_share > 0.9
    assert drift(net, result.model) < 0.1
    assert "inert" in str(result.report())


def test_the_bound_of_an_inert_norm_is_reached_and_not_passed():
    epsilon = 16.0
    worst = max(abs(np.sqrt((1 + epsilon) / (m + epsilon)) - 1.0) for m in np.linspace(0.0, 2.0, 201))
    assert 0.05 / epsilon < worst <= 0.5 / epsilon


@pytest.mark.parametrize(
    ("to", "because"),
    [("group:count=3", "do not go into groups"), ("group:size=5", "do not go into groups")],
)
def test_groups_that_do_not_divide_the_channels_are_refused(to, because):
    result = normfold.convert(trained(), EXAMPLE, to=to, calibrate=X)
    assert all(one.outcome == "kept" and because in one.refused_by[0].because for one in result.decisions)
    assert result.verification.status == "equivalent"


def test_a_group_of_one_value_is_refused():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(3, 8), nn.BatchNorm1d(8)

        def forward(self, x):
            return self.norm(self.fc(x.mean((2, 3))))

    result = normfold.convert(Flat().eval(), EXAMPLE, to="group:count=8", calibrate=X)
    assert "would be one value" in result.decisions[0].refused_by[0].because


def test_a_norm_that_nothing_absorbs_scales_before_is_fitted_as_it_stands():
    class After(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

        def forward(self, x):
            return self.norm(torch.tanh(self.conv(x)))

    torch.manual_seed(0)
    net = After()
    net.norm.momentum = None
    with torch.no_grad():
        net.train()(torch.from_numpy(X))
    net.eval()
    weight = net.conv.weight.detach().clone()
    result = normfold.convert(net, EXAMPLE, to="group", calibrate=X)
    assert result.decisions[0].outcome == "converted"
    assert torch.equal(result.model.conv.weight, weight)
    assert 0.0 < result.decisions[0].certificate.r2 < 1.0


def test_the_metric_judges_and_the_norm_fitted_worst_stays():
    net = trained(2)
    data = {"x": X, "label": labels(net)}
    asked = {"to": "group:count=8", "calibrate": X, "max_offset": 0.0, "evaluate": data}
    free = normfold.convert(net, EXAMPLE, **asked, max_drop=100)
    assert (free.score.metric, free.score.before) == ("top1", 100.0)
    assert free.document()["evaluation"]["drop"] == pytest.approx(free.score.drop)
    worst = min(free.decisions, key=lambda one: one.certificate.r2)
    rest = normfold.convert(net, EXAMPLE, **asked, max_drop=100, skip=[worst.site])
    assert rest.score.drop < free.score.drop
    result = normfold.convert(net, EXAMPLE, **asked, max_drop=rest.score.drop)
    kept = [one for one in result.decisions if one.outcome == "kept"]
    assert [one.site for one in kept] == [worst.site]
    assert kept[0].refused_by[0].premise == "within-budget"
    assert result.score.drop == rest.score.drop
    assert (result.verification.status, result.verification.budget) == ("within-budget", rest.score.drop)


def test_a_budget_that_nothing_meets_is_a_finding():
    net = trained()
    with pytest.raises(DiffersError) as caught:
        normfold.convert(net, EXAMPLE, to="group:count=8", evaluate={"x": X, "label": labels(net)}, max_drop=0.0)
    assert caught.value.verification.status == "different"
    assert "a drop of" in caught.value.verification.because


def test_distillation_brings_a_module_closer_to_its_source():
    source, result = trained(), trained()
    with torch.no_grad():
        for one in result.parameters():
            one.add_(0.3 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0)))
    result.fc.weight.requires_grad = False
    said, before = [], drift(source, result)
    job = Distillation(
        inputs=(torch.from_numpy(X),),
        call=lambda module, tensors: module(*tensors),
        features=["b1", "b2"],
        agreement=lambda module: -drift(source, module),
        seconds=2.0,
        seed=0,
        progress=said.append,
    )
    found = distill(source, result, job)
    assert -found == pytest.approx(drift(source, result))
    assert -found < before
    assert said
    assert not result.fc.weight.requires_grad
    assert all(one.grad is None for one in result.parameters())


def test_a_conversion_is_reproducible():
    first, second = (normfold.convert(trained(), EXAMPLE, to="group", calibrate=X).model for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"distill": 1.0}, "no inputs to distil"),
        ({"max_offset": -1.0}, "max_offset"),
        ({"max_drop": float("nan")}, "max_drop"),
        ({"calibrate": X, "in_place": True}, "in place"),
    ],
)
def test_options_that_cannot_hold_are_usage_errors(given, match):
    with pytest.raises(UsageError, match=match):
        normfold.convert(trained(), EXAMPLE, to="group", **given)
