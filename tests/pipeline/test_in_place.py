"""Folding a module in place: it does what it did, whatever else looks at its weights, or it is as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

import normfold
from normfold.core.premises import VERIFICATION_FAILED

torch = pytest.importorskip("torch", reason="torch is an extra")
nn = torch.nn

from normfold.models.module.duplicate import duplicate, replica  # noqa: E402 - it needs torch
from normfold.passes.fold import module as module_pass  # noqa: E402 - it needs torch

PICTURE = torch.randn(2, 3, 6, 6)
OUTSIDE: list[torch.Tensor] = []


class Net(nn.Module):
    """Two convolutions with norms, and a second way to the weight of the first."""

    def __init__(self, alias: Callable[[Net], object] = lambda net: None) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.two, self.norm2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        with torch.no_grad():
            for norm in (self.norm1, self.norm2):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2.0)
        self.alias = alias
        self.held = alias(self)
        if isinstance(self.held, torch.Tensor) and not isinstance(self.held, nn.Parameter):
            self.register_buffer("seen", self.held, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.two(self.norm1(self.one(x))))
        held = self.held[0] if isinstance(self.held, list) else self.held
        held = OUTSIDE[0] if held == "outside" else held
        return y if held is None else y + held.sum()


def hold(net: Net) -> str:
    OUTSIDE[:] = [net.one.weight]
    return "outside"


ALIASES: dict[str, Callable[[Net], object]] = {
    "none": lambda net: None,
    "detached": lambda net: net.one.weight.detach(),
    "data": lambda net: net.one.weight.data,
    "view": lambda net: net.one.weight.detach()[1:3].flatten(1),
    "in a list": lambda net: [net.one.weight.detach()],
    "parameter in a list": lambda net: [net.one.weight],
    "parameter of its own": lambda net: nn.Parameter(net.one.weight.detach()),
    "outside": hold,
}


def state(module: nn.Module) -> dict[str, tuple]:
    return {
        name: (id(tensor), tensor.data_ptr(), tensor.tolist())
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }


@pytest.mark.parametrize("alias", ALIASES)
def test_what_else_looks_at_a_weight_sees_what_it_saw(alias: str) -> None:
    net = Net(ALIASES[alias]).eval()
    wanted, weight = net(PICTURE), net.one.weight
    result = normfold.fold(net, PICTURE, in_place=True)
    assert result.model is net
    assert result.verification.status == "equivalent"
    torch.testing.assert_close(net(PICTURE), wanted)
    torch.testing.assert_close(net.eval()(PICTURE), wanted)
    assert net.one.weight is weight
    assert isinstance(net.norm2, nn.Identity)


def test_a_weight_that_is_read_from_outside_is_not_folded_in_place() -> None:
    net = Net(hold).eval()
    wanted = net(PICTURE)
    result = normfold.fold(net, PICTURE, in_place=True)
    outcomes = {one.site: (one.outcome, [no.premise for no in one.refused_by]) for one in result.decisions}
    assert outcomes == {"norm1": ("kept", [VERIFICATION_FAILED]), "norm2": ("folded", [])}
    torch.testing.assert_close(net(PICTURE), wanted)
    copied = normfold.fold(Net(hold).eval(), PICTURE)
    assert [one.outcome for one in copied.decisions] == ["folded", "folded"]


@pytest.mark.parametrize("verify", [True, False])
def test_a_module_made_in_inference_mode(verify: bool) -> None:
    with torch.inference_mode():
        net = Net().eval()
        wanted = net(PICTURE)
    normfold.fold(net, PICTURE, in_place=True, verify=verify)
    assert isinstance(net.norm1, nn.Identity)
    with torch.inference_mode():
        torch.testing.assert_close(net(PICTURE), wanted)


def test_frozen_parameters_stay_frozen() -> None:
    net = Net().eval().requires_grad_(False)
    wanted = net(PICTURE)
    normfold.fold(net, PICTURE, in_place=True)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    torch.testing.assert_close(net(PICTURE), wanted)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_the_middle_leaves_it_as_it_was(
    verify: bool, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, right = Net().eval(), module_pass.write
    before, parts = state(net), dict(net.named_modules())

    def stops(graph, module):
        change = right(graph, module)
        if module is net:
            raise error
        return change

    monkeypatch.setattr(module_pass, "write", stops)
    with pytest.raises(error):
        normfold.fold(net, PICTURE, in_place=True, verify=verify)
    assert state(net) == before
    assert dict(net.named_modules()) == parts
    assert list(net.state_dict()) == list(Net().state_dict())
    assert not hasattr(net, "normfold_records")


def test_a_file_that_cannot_be_written_leaves_it_as_it_was(tmp_path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is an extra")
    net = Net().eval()
    before = state(net)
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.fold(net, PICTURE, in_place=True, output=tmp_path / "missing" / "net.safetensors")
    assert caught.value.code == "output-not-writable"
    assert state(net) == before


def test_a_fold_that_holds_for_no_site_leaves_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    net, right = Net().eval(), module_pass.write
    before = state(net)

    def wrong(graph, module):
        change = right(graph, module)
        if module is net and graph.removals:
            module.one.weight.data = module.one.weight.data * 2
        return change

    monkeypatch.setattr(module_pass, "write", wrong)
    result = normfold.fold(net, PICTURE, in_place=True)
    assert {one.outcome for one in result.decisions} == {"kept"}
    assert state(net) == before


class Forgetful(Net):
    """Its copies are in training mode, as those of torchvision's feature extractors are."""

    def __deepcopy__(self, memo: dict) -> nn.Module:
        new = Forgetful.__new__(Forgetful)
        nn.Module.__init__(new)
        memo[id(self)] = new
        vars(new).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return new.train()


def test_a_copy_that_forgets_its_mode_is_put_back_into_it() -> None:
    net = Forgetful().eval()
    assert not any(inner.training for inner in duplicate(net).modules())
    assert not any(inner.training for inner in replica(net).modules())
    net.norm1.train()
    assert [inner.training for inner in duplicate(net).modules()] == [inner.training for inner in net.modules()]
    result = normfold.fold(Forgetful().eval(), PICTURE)
    assert not any(inner.training for inner in result.model.modules())
