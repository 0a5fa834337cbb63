"""Convolutions whose modules compute the weight from what they store: baked, where a plain one does the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

import normfold
from normfold.backends.torch.computed import computed_weights
from normfold.backends.torch.tracer import trace
from normfold.records import Refusal
from torch_nets import Forward, define_vision_operators, live


class Standardised(nn.Conv2d):
    """A convolution whose weight has a mean of zero and a variance of one in each output channel."""

    def computed(self) -> torch.Tensor:
        rows = self.weight.flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) / torch.sqrt(rows.var(1, keepdim=True, unbiased=False) + 1e-6)
        return rows.view_as(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.computed(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class Directions(nn.Module):
    """Weight norm, in a module that is no convolution by its class: a direction and a length."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.g, self.shift = (nn.Parameter(torch.randn(s)) for s in ((4, 2, 3), (4, 1, 1), (4,)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        unit = self.v / self.v.norm(dim=(1, 2), keepdim=True)
        return functional.conv1d(x, self.g * unit, 2 * self.shift, stride=2, groups=2)


class Padded(Standardised):
    """One that puts zeros around its input itself."""

    def __init__(self, *args: Any, around: Callable[[torch.Tensor], tuple[int, ...]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.around = around

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        around = self.around(x)
        return super().forward(functional.pad(x, around) if any(around) else x)


class Low(nn.Module):
    """A matrix of rank one: the weight takes more memory than what it is made from."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(6, 1)), nn.Parameter(torch.randn(1, 36))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, (self.left @ self.right).view(6, 4, 3, 3))


class ByInput(Standardised):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.computed() * x.mean(), self.bias)


class Twice(Standardised):
    """The result is more than a convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Scaled(Standardised):
    def forward(self, x: torch.Tensor, by: float | None = None) -> torch.Tensor:
        return super().forward(x) if by is None else super().forward(x) * by


class Halved(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.weight / 2)


class Clamped(nn.Conv2d):
    """One that keeps its weight within bounds at each call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.weight.clamp_(-1, 1)
        return functional.conv2d(x, self.weight / 2)


class Halves(nn.Module):
    """What a parametrization computes."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


def net(conv: nn.Module, channels: int = 6) -> nn.Module:
    return live(nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU()))


def image(size: int = 7) -> torch.Tensor:
    return torch.randn(2, 4, size, size, dtype=torch.float64)


def proven(module: nn.Module, x: torch.Tensor) -> Any:
    """The result of a fold that is right, also at sizes that it has not seen, and has not touched its source."""
    state, random = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    result = normfold.fold(module, (x,))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    names = set(module.state_dict()) - set(result.removed) | set(result.added)
    assert names == set(result.model.state_dict())
    with torch.no_grad():
        for more in range(3):
            wider = functional.pad(x, (0, more) * (x.ndim - 2), value=0.3)
            torch.testing.assert_close(result.model(wider), module(wider), rtol=1e-10, atol=1e-10)
    return result


@pytest.mark.parametrize(
    ("settings", "bias"),
    [
        ({}, False),
        ({"stride": 2, "padding": 1}, True),
        ({"dilation": 2, "groups": 2}, False),
        ({"padding": "same"}, False),
    ],
)
def test_a_norm_folds_into_a_computed_weight(settings: dict[str, Any], bias: bool) -> None:
    result = proven(net(Standardised(4, 6, 3, bias=bias, **settings)), image())
    assert [type(module) for module in result.model] == [nn.Conv2d, nn.Identity, nn.ReLU]
    assert [(d.site, d.outcome, d.into) for d in result.decisions] == [("1", "folded", ("0",))]
    assert result.verification.status == "equivalent"


def test_the_baked_weight_is_the_computed_one_bit_for_bit() -> None:
    module = nn.Sequential(Standardised(4, 6, 3), nn.ReLU()).eval()
    module[0].weight.requires_grad_(False)
    module[0].bias.requires_grad_(False)
    x = torch.randn(2, 4, 7, 7)
    result = normfold.fold(module, (x,))
    assert type(result.model[0]) is nn.Conv2d
    assert torch.equal(result.model[0].weight, module[0].computed())
    assert torch.equal(result.model[0].bias, module[0].bias)
    assert torch.equal(result.model(x), module(x))
    assert not result.model[0].weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_a_small_type(dtype: torch.dtype) -> None:
    module = nn.Sequential(Standardised(4, 6, 3), nn.ReLU()).eval().to(dtype)
    result = normfold.fold(module, (torch.randn(2, 4, 7, 7, dtype=dtype),))
    assert type(result.model[0]) is nn.Conv2d
    assert torch.equal(result.model[0].weight, module[0].computed())


def test_a_module_that_is_no_convolution_by_its_class() -> None:
    module = live(nn.Sequential(Directions(), nn.BatchNorm1d(4)))
    result = proven(module, torch.randn(2, 4, 9, dtype=torch.float64))
    assert [type(inner) for inner in result.model] == [nn.Conv1d, nn.Identity]
    assert set(result.removed) > {"0.v", "0.g", "0.shift"}
    assert set(result.added) == {"0.weight", "0.bias"}


def test_a_call_for_every_input_keeps_one_weight() -> None:
    """The weight is baked for both calls; a norm behind one of them stays."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)) + self.conv(x.flip(-1))

    for bias in (False, True):
        module = live(Forward(forward, conv=Standardised(4, 6, 3, bias=bias), bn=nn.BatchNorm2d(6)))
        result = proven(module, image())
        assert type(result.model.conv) is nn.Conv2d
        assert torch.equal(result.model.conv.weight, module.conv.computed())
        (decision,) = result.decisions
        assert decision.outcome == "kept"
        assert "called-once" in {refusal.premise for refusal in decision.refused_by}


def test_zeros_around_the_input_become_a_padding() -> None:
    conv = Padded(4, 6, 3, padding=(0, 1), around=lambda _: (1, 1, 2, 2))
    result = proven(net(conv), image())
    assert type(result.model[0]) is nn.Conv2d
    assert result.model[0].padding == (2, 2)


def test_no_zeros_at_any_size_are_no_padding() -> None:
    conv = Padded(4, 6, 1, stride=2, around=lambda _: (0, 0, 0, 0))
    assert type(proven(net(conv), image()).model[0]) is nn.Conv2d


def _shared() -> nn.Module:
    first, second = Standardised(4, 4, 3), Standardised(4, 4, 3)
    second.weight = first.weight
    return live(nn.Sequential(first, nn.BatchNorm2d(4), second))


def _held_elsewhere() -> nn.Module:
    """Another module has the parameter, too, and does not read it."""
    module = live(nn.Sequential(Standardised(4, 6, 3), nn.BatchNorm2d(6)))
    module[1].register_parameter("other", module[0].weight)
    return module


def _sometimes_scaled() -> nn.Module:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)) + self.conv(x, 2.0)

    return live(Forward(forward, conv=Scaled(4, 6, 3), bn=nn.BatchNorm2d(6)))


def _read_elsewhere() -> nn.Module:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)) * self.conv.weight.mean()

    return live(Forward(forward, conv=Standardised(4, 6, 3), bn=nn.BatchNorm2d(6)))


def _looked_at() -> nn.Module:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.conv(x))
        return y * 2 if isinstance(self.conv, Standardised) else y

    return live(Forward(forward, conv=Standardised(4, 6, 3), bn=nn.BatchNorm2d(6)))


def _read_at_another_batch() -> nn.Module:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.conv(x))
        return y if x.shape[0] > 1 else y * self.conv.weight.sum()

    return live(Forward(forward, conv=Standardised(4, 6, 3), bn=nn.BatchNorm2d(6)))


def _parametrised() -> nn.Module:
    conv = Standardised(4, 6, 3)
    parametrize.register_parametrization(conv, "weight", Halves())
    return net(conv)


def _hooked() -> nn.Module:
    module = net(Standardised(4, 6, 3))
    module[0].register_forward_hook(lambda *_: None)
    return module


def _in_training() -> nn.Module:
    module = net(Standardised(4, 6, 3))
    module[0].training = True
    return module


def _attribute() -> nn.Module:
    """What the weight is computed from is no state of the module."""
    conv = Standardised(4, 6, 3)
    weight = conv.weight.detach().double()
    del conv.weight
    conv.weight = weight
    return net(conv)


def _named() -> nn.Module:
    """A plain convolution calls its argument otherwise."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x=x))

    return live(Forward(forward, conv=Standardised(4, 6, 3), bn=nn.BatchNorm2d(6)))


def _rest(x: torch.Tensor) -> tuple[int, ...]:
    """As much as a stride of two asks for: nothing at odd sizes."""
    return (0, 1 - x.shape[-1] % 2, 0, 1 - x.shape[-2] % 2)


STAYS: dict[str, tuple[Callable[[], nn.Module], str | None]] = {
    "shared": (_shared, "parameter-untied"),
    "held elsewhere": (_held_elsewhere, "parameter-untied"),
    "called in two ways": (_sometimes_scaled, "called-once"),
    "kept within bounds": (lambda: net(Clamped(4, 6, 3)), "constant"),
    "read elsewhere": (_read_elsewhere, "parameter-untied"),
    "read at another batch": (_read_at_another_batch, "called-once"),
    "looked at": (_looked_at, "not-looked-at"),
    "parametrised": (_parametrised, "constant"),
    "hooked": (_hooked, "not-output"),
    "in training mode": (_in_training, "eval-mode"),
    "of its input": (lambda: net(ByInput(4, 6, 3)), "constant"),
    "no state": (_attribute, "constant"),
    "called by name": (_named, "needs-structure"),
    "does more": (lambda: net(Twice(4, 6, 3)), "needs-structure"),
    "of a low rank": (lambda: net(Low()), "constant"),
    "pads by size": (lambda: net(Padded(4, 6, 3, stride=2, around=_rest)), "needs-structure"),
    "pads on one side": (lambda: net(Padded(4, 6, 3, around=lambda _: (0, 1, 0, 1))), "needs-structure"),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_as_it_is(name: str) -> None:
    make, premise = STAYS[name]
    module = make()
    if name == "in training mode":
        result = normfold.inspect(module, (image(),))
        (decision,) = result.decisions
    else:
        result = proven(module, image())
        decision = result.decisions[0]
        kept = [type(inner) for inner in result.model.modules()]
        assert [type(inner) for inner in module.modules()] == kept
    assert decision.outcome == "kept"
    assert premise in {refusal.premise for refusal in decision.refused_by}, decision.refused_by


def test_a_complex_weight_is_not_baked() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x.to(torch.complex128)).real)

    module = live(Forward(forward, conv=nn.Identity(), bn=nn.BatchNorm2d(6)))
    module.conv = Halved(4, 6, 3, bias=False, dtype=torch.complex128)
    assert type(proven(module, image()).model.conv) is Halved


class ClampedAfter(nn.Conv2d):
    """One that brings its weight back within bounds once it has used it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.conv2d(x, self.weight / 2)
        with torch.no_grad():
            self.weight.clamp_(-1, 1)
        return y


@pytest.mark.parametrize(
    ("make", "premise"), [(lambda: net(ClampedAfter(4, 6, 3)), "constant"), (_sometimes_scaled, "called-once")]
)
def test_what_is_not_offered(make: Callable[[], nn.Module], premise: str) -> None:
    found = computed_weights(trace(make(), (image(),), {}))
    assert found
    for one in found.values():
        assert isinstance(one, Refusal)
    assert premise in {one.premise for one in found.values() if isinstance(one, Refusal)}


def test_a_padding_by_size_is_the_reason() -> None:
    result = proven(net(Padded(4, 6, 3, stride=2, around=_rest)), image())
    assert any("as its size asks for" in refusal.because for refusal in result.decisions[0].refused_by)


def test_in_place() -> None:
    module = net(Standardised(4, 6, 3))
    x = image()
    with torch.no_grad():
        wanted = module(x)
        assert normfold.fold(module, (x,), in_place=True).model is module
        torch.testing.assert_close(module(x), wanted, rtol=1e-10, atol=1e-10)
    assert type(module[0]) is nn.Conv2d


@pytest.mark.parametrize("make", [lambda: net(Standardised(4, 6, 3, bias=False)), lambda: net(Directions2d())])
def test_its_file_is_restored(make: Callable[[], nn.Module], tmp_path) -> None:
    pytest.importorskip("safetensors")
    x, module, fresh = image(), make(), make()
    result = normfold.fold(module, (x,))
    result.save(tmp_path / "folded.safetensors")
    restored = normfold.restore(fresh, tmp_path / "folded.safetensors")
    assert [type(inner) for inner in restored] == [nn.Conv2d, nn.Identity, nn.ReLU]
    with torch.no_grad():
        assert torch.equal(restored(x), result.model(x))


class Directions2d(nn.Module):
    """Weight norm with names of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Parameter(torch.randn(6, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.g * self.v / self.v.square().sum((1, 2, 3), keepdim=True).sqrt(), padding=1)


@pytest.fixture(scope="module")
def timm() -> Any:
    define_vision_operators()
    return pytest.importorskip("timm", reason="timm is for benchmarks")


@pytest.mark.parametrize(
    ("name", "settings", "goes"),
    [
        ("StdConv2d", {"stride": 2}, True),
        ("StdConv2dSame", {}, True),
        ("StdConv2dSame", {"stride": 2}, False),
        ("ScaledStdConv2d", {"groups": 2}, True),
        ("ScaledStdConv2dSame", {}, True),
        ("ScaledStdConv2dSame", {"stride": 2}, False),
    ],
)
def test_those_of_timm(timm: Any, name: str, settings: dict[str, Any], goes: bool) -> None:
    result = proven(net(getattr(timm.layers, name)(4, 6, 3, **settings)), image())
    assert type(result.model[0]).__name__ == ("Conv2d" if goes else name)
    assert [decision.outcome for decision in result.decisions] == ["folded" if goes else "kept"]


@pytest.mark.slow
def test_the_square(timm: Any) -> None:
    """Baking, then exporting, and exporting, which bakes, leave the same and agree with the network."""
    pytest.importorskip("onnxscript")
    module, x = timm.create_model("nf_resnet26").eval(), torch.randn(1, 3, 64, 64)
    result = normfold.fold(module, (x,))
    assert result.verification.status == "equivalent"
    assert not [inner for inner in result.model.modules() if "Std" in type(inner).__name__]
    operators = []
    for source in (module, result.model):
        exported = normfold.export(source, (x,))
        assert exported.verification.status == "equivalent"
        operators.append(Counter(node.op_type for node in exported.model.graph))
    assert operators[0] == operators[1]
    assert "BatchNormalization" not in operators[0]
