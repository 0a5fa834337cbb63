"""Norms by stored statistics, DyT and Batch Layer Normalization: what becomes of them, exactly or under a condition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import normfold
from folding import array, model, run
from normfold.backends.torch.modules import BatchLayerNorm, DynamicTanh, FrozenBatchNorm, PositionNorm, StaticAffine
from normfold.passes.convert.batch_to_dyt import REACH, SIGMAS
from normfold.records import Decision

CHANNELS = 6
IMAGE = (2, CHANNELS, 5, 4)
EXACT = 1e-12


def shaken(*modules: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(*modules)
    for name, parameter in net.named_parameters():
        parameter.data = torch.randn_like(parameter) if "alpha" not in name else parameter.data
    for norm in net.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.data = torch.randn(CHANNELS) * 3
            norm.running_var.data = torch.rand(CHANNELS) + 0.1
        if isinstance(norm, DynamicTanh):
            norm.alpha.data = torch.tensor([0.7])
    return net.double().eval()


def only(decisions: tuple[Decision, ...]) -> Decision:
    (decision,) = decisions
    return decision


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).abs().max() / (wanted.max() - wanted.min()))


def test_batch_norm_to_dyt_stays_within_its_bound_and_reaches_it() -> None:
    norm = shaken(nn.BatchNorm2d(CHANNELS))
    done = normfold.convert(norm, (torch.randn(IMAGE, dtype=torch.float64),), to="dyt")
    decision = only(done.decisions)
    assert (decision.outcome, decision.to, decision.label) == ("converted", "dyt", "exact-if")
    certificate = decision.certificate
    assert certificate is not None
    assert certificate.bound == pytest.approx(REACH**2 / 3)
    reach = float((norm[0].running_mean.abs() + SIGMAS * norm[0].running_var.sqrt()).max())
    assert certificate.condition == f"its input is at most {reach:.4g} in magnitude"
    x = torch.linspace(-reach, reach, 40, dtype=torch.float64).reshape(1, 1, 8, 5).expand(1, CHANNELS, 8, 5)
    new = done.model[0]
    assert type(new) is DynamicTanh
    torch.testing.assert_close(new.bias.reshape(-1), norm(torch.zeros_like(x))[0, :, 0, 0])
    with torch.no_grad():
        linear = x * new.weight * new.alpha
        bent = torch.tanh(new.alpha * x) * new.weight
    relative = float(((bent - linear) / linear)[x != 0].abs().max())
    assert certificate.bound / 10 < relative <= certificate.bound + 1e-15
    new.alpha.data *= 1.1  # a parameter, to be trained
    assert new.alpha.requires_grad


def test_batch_norm_to_dyt_in_a_file() -> None:
    held = {"w": array(CHANNELS, 3, 3, 3), "g": array(CHANNELS), "b": array(CHANNELS, seed=1)}
    held |= {"m": array(CHANNELS, seed=2), "v": np.abs(array(CHANNELS, seed=3)) + 1}
    source = model("float[1,3,6,6] x", ["c = Conv(x, w)", "n = BatchNormalization(c, g, b, m, v)", "y = Relu(n)"], held)
    done = normfold.convert(source, to="dyt")
    assert only(done.decisions).label == "exact-if"
    assert [node.op_type for node in done.model.graph.node] == ["Conv", "Mul", "Tanh", "Mul", "Add", "Relu"]
    feeds = {"x": array(1, 3, 6, 6, seed=5)}
    wanted, got = run(source, feeds)["y"], run(done.model, feeds)["y"]
    assert np.abs(wanted - got).max() < 1e-5 * np.ptp(wanted)


def test_half_precision_is_refused() -> None:
    held = {name: array(CHANNELS, seed=k).astype(np.float16) for k, name in enumerate(("g", "b", "m"))}
    held["v"] = np.ones(CHANNELS, np.float16)
    line = "y = BatchNormalization(x, g, b, m, v)"
    source = model(f"float16[1,{CHANNELS},6,6] x", [line], held, outputs="float16[] y")
    decision = only(normfold.convert(source, to="dyt", verify=False).decisions)
    assert [one.premise for one in decision.refused_by] == ["representable"]


def test_a_norm_without_statistics_does_not_become_dyt() -> None:
    module = nn.Sequential(FrozenScale()).eval()
    decision = only(normfold.convert(module, (torch.randn(IMAGE),), to="dyt").decisions)
    assert [one.premise for one in decision.refused_by] == ["running-statistics"]


class FrozenScale(nn.Module):
    """By its name, a norm with fixed statistics; which those were is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(CHANNELS, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def test_dyt_to_tanh_in_a_module() -> None:
    net = shaken(nn.Linear(4, CHANNELS), DynamicTanh((CHANNELS,)), nn.Linear(CHANNELS, 3))
    x = torch.randn(5, 4, dtype=torch.float64)
    done = normfold.convert(net, (x,), to="tanh")
    decision = only(done.decisions)
    assert (decision.outcome, decision.to, decision.label) == ("converted", "tanh", "exact")
    assert [type(one) for one in done.model] == [nn.Linear, nn.Tanh, nn.Linear]
    assert error(done.model(100 * x), net(100 * x)) <= EXACT


@pytest.mark.parametrize(
    ("modules", "premise"),
    [
        ((nn.Softmax(-1), DynamicTanh((CHANNELS,)), nn.Linear(CHANNELS, 3)), "linear-producer"),
        ((nn.Linear(CHANNELS, CHANNELS), DynamicTanh((CHANNELS,)), nn.Softmax(-1)), "linear-consumer"),
    ],
)
def test_dyt_to_tanh_refused(modules: tuple[nn.Module, ...], premise: str) -> None:
    done = normfold.convert(shaken(*modules), (torch.randn(5, CHANNELS, dtype=torch.float64),), to="tanh")
    assert premise in [one.premise for one in only(done.decisions).refused_by]


def test_dyt_to_tanh_in_a_file() -> None:
    body = [
        "h = MatMul(x, w)",
        "s = Mul(h, alpha)",
        "t = Tanh(s)",
        "m = Mul(t, g)",
        "n = Add(m, b)",
        "y = MatMul(n, v)",
    ]
    held = {"w": array(4, CHANNELS), "alpha": np.array([0.7], np.float32), "g": array(CHANNELS)}
    held |= {"b": array(CHANNELS, seed=1), "v": array(CHANNELS, 3)}
    source = model("float[5,4] x", body, held)
    done = normfold.convert(source, to="tanh")
    decision = only(done.decisions)
    assert (decision.norm, decision.outcome, decision.to) == ("DynamicTanh", "converted", "tanh")
    assert {node.op_type for node in done.model.graph.node} <= {"MatMul", "Tanh", "Add", "Gemm"}
    feeds = {"x": array(5, 4, seed=3)}
    wanted, got = run(source, feeds)["y"], run(done.model, feeds)["y"]
    assert np.abs(wanted - got).max() < 1e-5 * np.ptp(wanted)
    assert only(normfold.fold(source).decisions).outcome == "folded"


def test_a_dyt_in_a_module_stays_where_it_is_folded() -> None:
    net = shaken(nn.Linear(4, CHANNELS), DynamicTanh((CHANNELS,)), nn.Linear(CHANNELS, 3))
    decision = only(normfold.fold(net, (torch.randn(5, 4, dtype=torch.float64),)).decisions)
    assert (decision.outcome, [one.premise for one in decision.refused_by]) == ("kept", ["affine"])


def mixed(*, static_batch: bool = True, static_features: bool = True) -> BatchLayerNorm:
    norm = BatchLayerNorm((CHANNELS, 1, 1), 8, 2.0, static_batch=static_batch, static_features=static_features)
    norm.batch_mean.data, norm.batch_var.data = torch.randn(CHANNELS, 1, 1), torch.rand(CHANNELS, 1, 1) + 0.1
    norm.feature_mean.data, norm.feature_var.data = torch.randn(1, 1, 1), torch.rand(1, 1, 1) + 0.1
    return norm


@pytest.mark.parametrize(("to", "kind"), [("batch", nn.BatchNorm2d), ("frozen", FrozenBatchNorm)])
def test_batch_layer_normalization_with_stored_statistics(to: str, kind: type[nn.Module], tmp_path: Path) -> None:
    net = shaken(nn.Tanh(), mixed())
    x = torch.randn(IMAGE, dtype=torch.float64)
    done = normfold.convert(net, (x,), to=to)
    decision = only(done.decisions)
    assert (decision.outcome, decision.label) == ("converted", "exact-if")
    assert decision.certificate is not None
    assert decision.certificate.condition
    assert type(done.model[1]) is kind
    assert error(done.model(10 * x), net(10 * x)) <= EXACT
    done.save(tmp_path / "converted.safetensors")
    restored = normfold.restore(shaken(nn.Tanh(), mixed()), tmp_path / "converted.safetensors").eval()
    assert torch.equal(restored(x), done.model(x))


def test_batch_layer_normalization_folds() -> None:
    net = shaken(nn.Conv2d(CHANNELS, CHANNELS, 1), mixed())
    x = torch.randn(IMAGE, dtype=torch.float64)
    done = normfold.fold(net, (x,))
    assert only(done.decisions).outcome == "folded"
    assert error(done.model(x), net(x)) <= EXACT
    static = normfold.convert(net, (x,), to="static")
    assert (only(static.decisions).outcome, only(static.decisions).label) == ("converted", "exact-if")
    alone = normfold.convert(shaken(nn.Tanh(), mixed()), (x,), to="static")
    assert type(alone.model[1]) is StaticAffine


def test_live_statistics_keep_a_batch_layer_normalization() -> None:
    net = shaken(nn.Conv2d(CHANNELS, CHANNELS, 1), mixed(static_features=False))
    x = torch.randn(IMAGE, dtype=torch.float64)
    decision = only(normfold.fold(net, (x,)).decisions)
    assert [one.premise for one in decision.refused_by] == ["fixed-statistics"]
    decision = only(normfold.convert(net, (x,), to="batch").decisions)
    assert [one.premise for one in decision.refused_by] == ["training-asked"]


def test_statistics_that_differ_by_position_keep_it() -> None:
    norm = mixed()
    norm.batch_mean.data = torch.randn(CHANNELS, 5, 4)
    decision = only(normfold.fold(shaken(norm), (torch.randn(IMAGE, dtype=torch.float64),)).decisions)
    assert [one.premise for one in decision.refused_by] == ["constant"]


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm2d(CHANNELS), IMAGE),
        (nn.BatchNorm1d(CHANNELS), (3, CHANNELS)),
        (nn.LayerNorm(CHANNELS), (2, 5, CHANNELS)),
    ],
)
def test_to_batch_layer_normalization(norm: nn.Module, shape: tuple[int, ...]) -> None:
    net, x = shaken(nn.Identity(), norm), torch.randn(shape, dtype=torch.float64)
    done = normfold.convert(net, (x,), to="bln")
    decision = only(done.decisions)
    assert (decision.outcome, decision.to, decision.label) == ("converted", "bln", "exact-if")
    assert type(done.model[1]) is BatchLayerNorm
    assert error(done.model(x), net(x)) <= 1e-11
    assert decision.certificate is not None
    assert decision.certificate.bound is not None
    back = normfold.convert(done.model, (x,), to="batch") if isinstance(norm, nn.BatchNorm2d) else None
    assert back is None or error(back.model(x), net(x)) <= EXACT


def test_an_rms_norm_becomes_one_only_where_its_input_has_no_mean() -> None:
    net = shaken(nn.Linear(CHANNELS, CHANNELS), nn.RMSNorm(CHANNELS, 1e-5))
    x = torch.randn(3, CHANNELS, dtype=torch.float64)
    decision = only(normfold.convert(net, (x,), to="bln").decisions)
    assert [one.premise for one in decision.refused_by] == ["verification-failed"]
    for parameter in net[0].parameters():
        parameter.data -= parameter.data.mean(0, keepdim=True)
    decision = only(normfold.convert(net, (x,), to="bln").decisions)
    assert decision.certificate is not None
    assert decision.certificate.condition.endswith("and has the mean zero")


def test_a_norm_of_the_channels_of_pictures_becomes_one() -> None:
    net = shaken(PositionNorm((CHANNELS, 1, 1)))
    x = torch.randn(IMAGE, dtype=torch.float64)
    done = normfold.convert(net, (x,), to="bln")
    assert (only(done.decisions).outcome, only(done.decisions).label) == ("converted", "exact-if")
    assert error(done.model(x), net(x)) <= 1e-11


def test_several_axes_and_files_are_refused() -> None:
    x = torch.randn(2, 5, CHANNELS)
    decision = only(normfold.convert(nn.Sequential(nn.LayerNorm((5, CHANNELS))), (x,), to="bln").decisions)
    assert [one.premise for one in decision.refused_by] == ["one-axis"]
    source = model("float[2,6] x", ["y = LayerNormalization(x, g)"], {"g": array(CHANNELS)})
    decision = only(normfold.convert(source, to="bln", verify=False).decisions)
    assert [one.premise for one in decision.refused_by] == ["needs-structure"]


def test_batch_layer_normalization_to_layer_norm() -> None:
    """Back from what a LayerNorm became; refused where the part of the batch has a share."""
    net, x = shaken(nn.Identity(), nn.LayerNorm(CHANNELS)), torch.randn(2, 5, CHANNELS, dtype=torch.float64)
    mixed_net = normfold.convert(net, (x,), to="bln").model
    done = normfold.convert(mixed_net, (x,), to="layer")
    decision = only(done.decisions)
    assert (decision.outcome, decision.to, decision.label) == ("converted", "layer", "exact-if")
    assert type(done.model[1]) is nn.LayerNorm
    assert error(done.model(x), net(x)) <= 1e-11
    mixed_net[1].batch_var.fill_(1.0)
    decision = only(normfold.convert(mixed_net, (x,), to="layer").decisions)
    assert [one.premise for one in decision.refused_by] == ["bounded-error", "training-asked"]
    image = shaken(mixed(static_features=False))
    decision = only(normfold.convert(image, (torch.randn(IMAGE, dtype=torch.float64),), to="layer").decisions)
    assert [one.premise for one in decision.refused_by] == ["trailing-axes", "training-asked"]
    live = BatchLayerNorm((CHANNELS,), 8, static_batch=False, static_features=False)
    decision = only(normfold.convert(shaken(live), (x[0],), to="layer").decisions)
    assert [one.premise for one in decision.refused_by] == ["bounded-error", "training-asked"]


@pytest.mark.parametrize("centred", [True, False])
def test_batch_layer_normalization_to_rms_norm(centred: bool) -> None:
    """Where the mean of its input is zero; elsewhere the comparison finds that it is not."""
    first = nn.Linear(CHANNELS, CHANNELS)
    net, x = shaken(first, nn.LayerNorm(CHANNELS)), torch.randn(2, 5, CHANNELS, dtype=torch.float64)
    if centred:
        for one in (first.weight, first.bias):
            one.data -= one.data.mean(0)
    mixed_net = normfold.convert(net, (x,), to="bln").model
    done = normfold.convert(mixed_net, (x,), to="rms")
    decision = only(done.decisions)
    if not centred:
        assert (decision.outcome, decision.refused_by[0].premise) == ("kept", "verification-failed")
        return
    assert (decision.outcome, decision.label) == ("converted", "exact-if")
    assert "has the mean zero" in decision.certificate.condition
    assert error(done.model(x), net(x)) <= 1e-11
