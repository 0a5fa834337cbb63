"""Norms with stored statistics become weight norms of what makes their input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import normfold
from folding import array, model
from normfold.backends.torch.modules import BatchLayerNorm, FrozenBatchNorm
from normfold.records import Decision

CHANNELS = 6
X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def bound(norm: nn.Module) -> float:
    """What float64 allows: a large mean over a small deviation cancels digits."""
    mean, variance = norm.running_mean, norm.running_var
    return max(1e-12, 1e-13 * (1 + float((mean.abs() / (variance + norm.eps).sqrt()).max())))


def running_instance(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True, track_running_stats=True)


def shaken(norm: nn.Module, *before: nn.Module, behind: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    row = before or (nn.Conv2d(3, CHANNELS, 3),)
    net = nn.Sequential(*row, norm, behind or nn.ReLU())
    for parameter in norm.parameters():
        parameter.data = torch.randn_like(parameter)
    norm.running_mean.data = torch.randn(CHANNELS) * 3
    norm.running_var.data = torch.rand(CHANNELS) + 0.1
    return net.double().eval()


def only(decisions: tuple[Decision, ...]) -> Decision:
    (decision,) = decisions
    return decision


def premises(decisions: tuple[Decision, ...]) -> set[str]:
    return {one.premise for one in only(decisions).refused_by}


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm, running_instance])
@pytest.mark.parametrize(
    "producer",
    [
        lambda: nn.Conv2d(3, CHANNELS, 3),
        lambda: nn.Conv2d(3, CHANNELS, 3, groups=3, bias=False),
        lambda: nn.ConvTranspose2d(3, CHANNELS, 3),
    ],
    ids=["conv", "grouped", "transposed"],
)
def test_a_norm_becomes_a_weight_norm(norm: Callable[[int], nn.Module], producer: Callable[[], nn.Module]) -> None:
    source = shaken(norm(CHANNELS), producer())
    done = normfold.convert(source, (X,), to="weight")
    decision = only(done.decisions)
    assert decision.refused_by == ()
    assert (decision.site, decision.outcome, decision.to, decision.label) == ("1", "converted", "weight", "exact-if")
    assert decision.into == ("0",)
    new = done.model[0]
    assert parametrize.is_parametrized(new, "weight")
    assert type(done.model[1]) is nn.Identity
    wanted, got = source(X).detach(), done.model(X)
    error = float((got - wanted).detach().abs().max() / (wanted.max() - wanted.min()))
    assert error <= bound(source[1])
    lengths = new.parametrizations.weight.original0
    axes = (0, 2, 3) if isinstance(new, nn.ConvTranspose2d) else (1, 2, 3)
    torch.testing.assert_close(lengths.flatten(), new.weight.square().sum(axes).sqrt())
    got.sum().backward()
    assert all(parameter.grad is not None for parameter in done.model.parameters())


def test_behind_a_matrix_product() -> None:
    source = shaken(nn.BatchNorm1d(CHANNELS), nn.Linear(4, CHANNELS))
    x = torch.randn(5, 4, dtype=torch.float64)
    done = normfold.convert(source, (x,), to="weight", source="batch")
    assert only(done.decisions).outcome == "converted"
    wanted, got = source(x).detach(), done.model(x).detach()
    assert float((got - wanted).abs().max() / (wanted.max() - wanted.min())) <= bound(source[1])


def test_adverse_statistics() -> None:
    source = shaken(nn.BatchNorm2d(CHANNELS))
    source[1].running_mean.data[0], source[1].running_var.data[1] = 1e4, 1e-12
    done = normfold.convert(source, (X,), to="weight")
    assert only(done.decisions).outcome == "converted"
    wanted, got = source(X).detach(), done.model(X).detach()
    assert float((got - wanted).abs().max() / (wanted.max() - wanted.min())) <= bound(source[1])


def test_static_batch_layer_normalization() -> None:
    norm = BatchLayerNorm((CHANNELS, 1, 1), 4.0, static_batch=True, static_features=True)
    norm.batch_mean.data = torch.randn_like(norm.batch_mean)
    source = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), norm, nn.ReLU()).double().eval()
    done = normfold.convert(source, (X,), to="weight")
    assert only(done.decisions).outcome == "converted"
    wanted, got = source(X).detach(), done.model(X).detach()
    assert float((got - wanted).abs().max() / (wanted.max() - wanted.min())) <= 1e-12


def test_two_norms_behind_one_convolution() -> None:
    source = shaken(nn.BatchNorm2d(CHANNELS), behind=nn.BatchNorm2d(CHANNELS).eval())
    done = normfold.convert(source, (X,), to="weight")
    assert [decision.outcome for decision in done.decisions] == ["converted", "converted"]
    wanted, got = source(X).detach(), done.model(X).detach()
    assert float((got - wanted).abs().max() / (wanted.max() - wanted.min())) <= bound(source[1])


@pytest.mark.parametrize("scale", [0.0, 1e-200])
def test_a_scale_of_zero_is_refused(scale: float) -> None:
    source = shaken(nn.BatchNorm2d(CHANNELS))
    source[1].weight.data[2] = scale
    done = normfold.convert(source, (X,), to="weight")
    (refusal,) = only(done.decisions).refused_by
    assert refusal.premise == "nonzero-rows"
    assert "channel 2" in refusal.because
    assert torch.equal(done.model(X), source(X))


def test_in_float32_a_length_whose_square_vanishes_is_refused() -> None:
    source = shaken(nn.BatchNorm2d(CHANNELS)).float()
    source[1].weight.data[2] = 1e-25
    assert premises(normfold.convert(source, (X.float(),), to="weight").decisions) == {"nonzero-rows"}


def test_without_a_linear_operation_before() -> None:
    norm = nn.BatchNorm2d(3)
    source = nn.Sequential(norm, nn.Conv2d(3, CHANNELS, 3)).double().eval()
    assert premises(normfold.convert(source, (X,), to="weight").decisions) == {"linear-producer"}
    assert premises(normfold.convert(nn.Sequential(nn.GELU(), norm).eval(), (X,), to="weight").decisions) == {
        "linear-producer"
    }


def test_where_another_reads_the_convolution() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, CHANNELS, 3), nn.BatchNorm2d(CHANNELS)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.norm(y) + y.tanh()

    assert "single-use" in premises(normfold.convert(Forked().double().eval(), (X,), to="weight").decisions)


def test_a_class_of_its_own_is_refused() -> None:
    class Own(nn.Conv2d):
        pass

    source = shaken(nn.BatchNorm2d(CHANNELS), Own(3, CHANNELS, 3))
    assert premises(normfold.convert(source, (X,), to="weight").decisions) == {"needs-structure"}


def test_a_file_stores_the_computed_weight() -> None:
    held = {"w": array(4, 3, 3, 3), **{name: array(4, seed=k) for k, name in enumerate("gbm", 1)}}
    held["v"] = np.abs(array(4, seed=5)) + np.float32(0.1)
    body = ["h = Conv(x, w)", "[norm] y = BatchNormalization(h, g, b, m, v)"]
    done = normfold.convert(model("float[1,3,6,6] x", body, held), to="weight")
    (refusal,) = only(done.decisions).refused_by
    assert refusal.premise == "meaningful"
    assert "a file stores the computed weight" in refusal.because


def test_trains_what_was_trained() -> None:
    source = shaken(nn.BatchNorm2d(CHANNELS))
    source[0].weight.requires_grad = False
    done = normfold.convert(source, (X,), to="weight")
    assert not any(one.requires_grad for one in done.model[0].parametrizations.parameters())


def test_restored_from_a_file(tmp_path: Path) -> None:
    source = shaken(nn.BatchNorm2d(CHANNELS), nn.Conv2d(3, CHANNELS, 3, bias=False))
    done = normfold.convert(source, (X,), to="weight", output=tmp_path / "converted.safetensors")
    made = shaken(nn.BatchNorm2d(CHANNELS), nn.Conv2d(3, CHANNELS, 3, bias=False))
    restored = normfold.restore(made, tmp_path / "converted.safetensors")
    assert parametrize.is_parametrized(restored[0], "weight")
    assert torch.equal(restored(X), done.model(X))


def test_a_table_that_would_take_the_norm_is_not_normalised() -> None:
    net = nn.Sequential(nn.Embedding(9, CHANNELS), nn.BatchNorm1d(CHANNELS), nn.ReLU()).eval()
    done = normfold.convert(net, (torch.arange(4),), to="weight")
    assert "linear-producer" in premises(done.decisions)
    assert "no weight that could be normalised" in " ".join(one.because for one in only(done.decisions).refused_by)
