"""What comes back from folding a module: the same tree, other weights, and nothing else changed."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import normfold
from normfold.errors import UsageError
from torch_nets import ConvNorm, Forward, decisions, folded, live, outcomes, picture, premises

PRODUCERS = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d, (2, 4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d, (2, 4, 7, 7)),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 2, groups=2), nn.BatchNorm3d, (2, 4, 4, 4, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), nn.BatchNorm1d, (2, 4, 9)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2), nn.BatchNorm2d, (2, 4, 5, 5)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 6, 2, groups=2, bias=False), nn.BatchNorm3d, (2, 4, 3, 3, 3)),
    "Linear": (lambda: nn.Linear(4, 6), nn.BatchNorm1d, (3, 4)),
    "no bias": (lambda: nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d, (2, 4, 7, 7)),
    "reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d, (2, 4, 7, 7)),
    "same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d, (2, 4, 7, 7)),
}


@pytest.mark.parametrize("name", PRODUCERS)
def test_into_every_producer(name: str) -> None:
    make, norm, shape = PRODUCERS[name]
    result = folded(live(nn.Sequential(make(), norm(6))), torch.randn(shape, dtype=torch.float64))
    assert outcomes(result) == {"1": "folded"}
    assert decisions(result)["1"].into == ("0",)
    assert type(result.model[1]) is nn.Identity


CONSUMERS = {
    "Conv2d": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 6, 3, padding=2, groups=2),
    "no bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
}


@pytest.mark.parametrize("name", CONSUMERS)
def test_into_every_consumer(name: str) -> None:
    net = live(nn.Sequential(nn.GELU(), nn.BatchNorm2d(4), CONSUMERS[name]()))
    assert outcomes(folded(net, picture())) == {"1": "folded"}


def test_the_module_keeps_its_class_and_every_other_name() -> None:
    net = live(ConvNorm())
    before, state = copy.deepcopy(net.state_dict()), set(net.state_dict())
    result = folded(net, picture())
    assert type(result.model) is ConvNorm
    assert type(result.model.bn) is nn.Identity
    assert not result.model.bn.training
    assert set(result.removed) == {
        f"bn.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert result.added == ("conv.bias",)
    assert set(result.model.state_dict()) == state - set(result.removed) | set(result.added)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert result.verification.status == "equivalent"


def test_the_source_is_left_alone_and_in_place_is_not() -> None:
    net, x = live(ConvNorm()), picture()
    weight = net.conv.weight
    assert folded(net, x, in_place=True).model is net
    assert net.conv.weight is weight
    assert type(net.bn) is nn.Identity


def test_a_dry_run_changes_nothing_even_in_place() -> None:
    net = live(ConvNorm())
    result = normfold.fold(net, (picture(),), dry_run=True, in_place=True)
    assert outcomes(result) == {"bn": "folded"}
    assert type(net.bn) is nn.BatchNorm2d


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_type_is_kept(dtype: torch.dtype) -> None:
    net = live(ConvNorm()).to(dtype)
    result = normfold.fold(net, (picture().to(dtype),))
    assert {tensor.dtype for tensor in result.model.state_dict().values()} == {dtype}
    assert outcomes(result) == {"bn": "folded"}


def test_channels_last_is_kept() -> None:
    net = live(ConvNorm()).to(memory_format=torch.channels_last)
    result = folded(net, picture().to(memory_format=torch.channels_last))
    assert result.model.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_what_needs_no_gradient_gets_none() -> None:
    net = live(ConvNorm())
    net.conv.weight.requires_grad_(False)
    result = folded(net, picture())
    assert not result.model.conv.weight.requires_grad
    assert not result.model.conv.bias.requires_grad


def test_names_can_be_left_out() -> None:
    result = folded(live(nn.Sequential(ConvNorm(), nn.Conv2d(6, 4, 1), ConvNorm())), picture(), skip=["0.*"])
    assert outcomes(result) == {"0.bn": "kept", "2.bn": "folded"}
    assert premises(result, "0.bn") == {"selected"}


def test_inspect() -> None:
    (report,) = normfold.inspect(live(ConvNorm()), (picture(),)).norms
    assert (report.site, report.norm, report.would.outcome) == ("bn", "BatchNorm2d", "folded")
    fresh = nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)).eval()
    (report,) = normfold.inspect(fresh, (picture().float(),)).norms
    assert report.health == ("running statistics were never updated (mean 0, variance 1)",)


@pytest.mark.parametrize("inputs", ["tuple", "list", "tensor", "mapping"])
def test_inputs_in_every_form(inputs: str) -> None:
    x = picture()
    given = {"tuple": (x,), "list": [x], "tensor": x, "mapping": {"x": x}}[inputs]
    assert outcomes(normfold.fold(live(ConvNorm()), given)) == {"bn": "folded"}


def test_structures_in_and_out() -> None:
    net = live(
        Forward(
            lambda self, batch: {"y": [self.bn(self.conv(batch["x"])) + batch["k"]]},
            **dict(ConvNorm().named_children()),
        )
    )
    assert outcomes(normfold.fold(net, ({"x": picture(), "k": 2},))) == {"bn": "folded"}


def test_the_affine_of_a_layer_norm_goes_and_its_core_stays() -> None:
    net = live(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3, bias=False)))
    result = folded(net, torch.randn(2, 5, 4, dtype=torch.float64))
    assert outcomes(result) == {"1": "part-folded"}
    assert torch.equal(result.model[1].weight, torch.ones(6, dtype=torch.float64))
    assert torch.equal(result.model[1].bias, torch.zeros(6, dtype=torch.float64))
    assert result.added == ("2.bias",)


def test_a_bias_that_a_norm_subtracts_again_stays() -> None:
    net = live(nn.Sequential(nn.Conv2d(4, 6, 1), nn.InstanceNorm2d(6), nn.GELU()))
    assert torch.equal(folded(net, picture()).model[0].bias, net[0].bias)


class Reversed(nn.Module):
    """The Linear of GPT-2, its weight ``[in, out]``."""

    def __init__(self, bias: tuple[int, ...] = (6,)) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x, self.weight)


def test_a_weight_the_other_way_round() -> None:
    result = folded(live(nn.Sequential(nn.LayerNorm(4), Reversed(), nn.BatchNorm1d(6))), torch.randn(3, 4).double())
    assert outcomes(result) == {"0": "part-folded", "2": "folded"}


def test_a_bias_that_is_no_bias() -> None:
    result = folded(live(nn.Sequential(Reversed((3, 1)), nn.BatchNorm1d(6))), torch.randn(3, 4).double())
    assert outcomes(result) == {"1": "kept"}
    assert "per-output-channel" in premises(result, "1")


class Activated(nn.BatchNorm2d):
    """A batch norm with an activation inside."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stored = (self.running_mean, self.running_var, self.weight, self.bias)
        x = nn.functional.batch_norm(x, *stored, self.training, self.momentum, self.eps)
        return self.act(self.drop(x))


def test_a_norm_with_an_activation_inside_leaves_its_activation() -> None:
    net = live(nn.Sequential(nn.Conv2d(4, 6, 1), Activated(6)))
    result = folded(net, picture())
    assert outcomes(result) == {"1": "folded"}
    assert [type(child) for child in result.model[1]] == [nn.Identity, nn.SiLU]
    assert type(result.model.get_submodule("1.act")) is nn.SiLU


class Frozen(nn.Module):
    """FrozenBatchNorm2d as detection models write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w, b, m, v = (k.reshape(1, -1, 1, 1) for k in (self.weight, self.bias, self.running_mean, self.running_var))
        scale = w * (v + 1e-5).rsqrt()
        return x * scale + (b - m * scale)


class LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.linspace(-1, 1, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


def test_a_frozen_batch_norm() -> None:
    result = folded(live(nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), Frozen(6))), picture())
    assert outcomes(result) == {"1": "folded"}
    assert type(result.model[1]) is nn.Identity


def test_a_layer_scale() -> None:
    result = folded(live(nn.Sequential(nn.Linear(4, 6), LayerScale(6))), torch.randn(3, 4, dtype=torch.float64))
    assert outcomes(result) == {"1": "folded"}


class NoNorm(nn.Module):
    """The norm of MobileBERT."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + self.bias


@pytest.mark.parametrize("first", [NoNorm(4), LayerScale(4)], ids=["scale-and-shift", "scale"])
def test_a_scale_by_own_constants_takes_another_one(first: nn.Module) -> None:
    """The first one stays, for its input is the activation's; what comes behind the Relu goes into it."""
    net = live(nn.Sequential(nn.Tanh(), first, nn.ReLU(), LayerScale(4), nn.Sigmoid()))
    with torch.no_grad():
        net[3].gamma.abs_()
    result = folded(net, torch.randn(2, 5, 4, dtype=torch.float64))
    assert outcomes(result) == {"1": "kept", "3": "folded"}
    assert decisions(result)["3"].into == ("1",)


def test_a_scale_by_constants_that_are_shared_takes_none() -> None:
    first = LayerScale(4)
    net = live(nn.Sequential(nn.Tanh(), first, nn.ReLU(), LayerScale(4), nn.Sigmoid(), LayerScale(4), nn.Tanh()))
    with torch.no_grad():
        net[3].gamma.abs_()
    net[5].gamma = first.gamma
    assert outcomes(folded(net, torch.randn(2, 5, 4, dtype=torch.float64)))["3"] == "kept"


def test_through_what_only_moves_elements() -> None:
    def forward(self, x):
        x = self.first(x).transpose(1, 2)
        left, right = self.norm(x).transpose(1, 2).reshape(2, 5, 2, 3).unbind(2)
        return self.second(left), self.second.bias * right.mean()

    net = live(Forward(forward, first=nn.Linear(4, 6), norm=nn.BatchNorm1d(6), second=nn.Linear(3, 3)))
    assert outcomes(folded(net, torch.randn(2, 5, 4, dtype=torch.float64)))["norm"] == "folded"


def test_the_result_exports_and_trains() -> None:
    result = folded(live(ConvNorm()), picture())
    program = torch.export.export(result.model, (picture(),))
    assert not any("batch_norm" in str(node.target) for node in program.graph.nodes)
    result.model(picture()).sum().backward()
    assert result.model.conv.weight.grad is not None


@pytest.mark.slow
def test_the_result_compiles() -> None:
    x = picture()
    model = folded(live(ConvNorm()), x).model
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(x), model(x))


def test_meta_tensors_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        normfold.fold(ConvNorm().to("meta").eval(), (picture().float(),))
    assert caught.value.code == "meta-tensors"


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="does not run on the example inputs") as caught:
        normfold.fold(live(ConvNorm()), (picture(channels=3),))
    assert caught.value.code == "bad-input"


def test_a_module_needs_inputs() -> None:
    with pytest.raises(UsageError, match="example inputs"):
        normfold.fold(live(ConvNorm()))


def test_a_compiled_module_is_refused() -> None:
    with pytest.raises(UsageError, match=r"torch\.compile"):
        normfold.fold(torch.compile(live(ConvNorm())), (picture(),))


def test_a_scripted_module_is_refused() -> None:
    with pytest.raises(UsageError, match=r"torch\.jit") as caught:
        normfold.fold(torch.jit.script(live(nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)))), (picture(),))
    assert caught.value.code == "bad-input"


@dataclass
class Output:
    y: torch.Tensor


def test_a_dataclass_out() -> None:
    net = live(Forward(lambda self, x: Output(self.bn(self.conv(x))), **dict(ConvNorm().named_children())))
    result = normfold.fold(net, (picture(),))
    assert outcomes(result) == {"bn": "folded"}
    assert result.verification.status == "equivalent"


def test_torch_is_not_imported_for_the_others() -> None:
    code = "import sys, normfold.verbs.fold; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
