"""Folding into a graph: what a module tree has to keep goes here, and the names of the state stay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import normfold
from normfold.backends.torch import prepare
from torch_nets import ConvNorm, Forward, live, outcomes, picture


class Branches(nn.Module):
    """Three parallel branches, as RepVGG trains them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.identity = nn.BatchNorm2d(channels)
        self.one = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.three = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.one(x) + self.three(x)
        y += self.identity(x)
        return self.act(y)


def operations(program: GraphModule) -> list[str]:
    return [str(node.target).split(".")[1] for node in program.graph.nodes if "aten" in str(node.target)]


def test_parallel_branches_become_one_convolution() -> None:
    net, x = live(nn.Sequential(Branches(4), Branches(4))), picture()
    before = copy.deepcopy(net.state_dict())
    assert "kept" in outcomes(normfold.fold(net, (x,))).values()
    result = normfold.fold_program(net, (x,), dynamic={"input": {0: "batch"}})
    assert set(outcomes(result).values()) == {"folded"}
    assert isinstance(result.model, GraphModule)
    assert operations(result.model) == ["conv2d", "relu", "conv2d", "relu"]
    assert result.verification.status == "equivalent"
    state = set(result.model.state_dict())
    assert len(state) == 4
    assert state <= set(before) | set(result.added)
    assert set(result.removed) == set(before) - state
    for batch in (torch.cat([x, x, x]), x[:1]):
        with torch.no_grad():
            torch.testing.assert_close(result.model(batch), net(batch), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_what_the_tree_can_do_is_done_there() -> None:
    result = normfold.fold_program(live(ConvNorm()), (picture(),))
    assert outcomes(result) == {"bn": "folded"}
    assert result.added == ("conv.bias",)
    assert operations(result.model) == ["conv2d", "relu"]


def test_a_norm_left_out_stays() -> None:
    result = normfold.fold_program(live(Branches(4)), (picture(),), skip=["identity"])
    assert outcomes(result)["identity"] == "kept"
    assert "batch_norm" in operations(result.model)


def test_a_norm_in_a_function_goes_too() -> None:
    def forward(self, x):
        y = self.conv(x)
        return nn.functional.batch_norm(y, self.norm.running_mean, self.norm.running_var, *self.norm.parameters())

    parts = {"conv": nn.Conv2d(4, 6, 1), "norm": nn.BatchNorm2d(6)}
    result = normfold.fold_program(live(Forward(forward, **parts)), (picture(),))
    assert operations(result.model) == ["conv2d"]
    assert outcomes(result) == {"batch_norm": "folded"}
    assert result.verification.status == "equivalent"


def test_a_norm_called_twice_goes_twice() -> None:
    parts = {"one": nn.Conv2d(4, 4, 1), "two": nn.Conv2d(4, 4, 1), "norm": nn.BatchNorm2d(4)}
    net = live(Forward(lambda self, x: self.norm(self.two(self.norm(self.one(x)).relu())), **parts))
    result = normfold.fold_program(net, (picture(),))
    assert operations(result.model) == ["conv2d", "relu", "conv2d"]
    assert outcomes(result) == {"norm": "folded", "norm@2": "folded"}
    assert outcomes(normfold.fold(net, (picture(),))) == {"norm": "kept", "norm@2": "kept"}


@pytest.mark.parametrize("tied", ["module", "tensor"])
def test_tied_weights_stay(tied: str) -> None:
    one, two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    if tied == "module":
        two = one
    elif tied == "tensor":
        two.weight = one.weight
    net = live(nn.Sequential(one, nn.BatchNorm2d(4), nn.ReLU(), two, nn.BatchNorm2d(4)))
    result = normfold.fold_program(net, (picture(),))
    assert set(outcomes(result).values()) == {"kept"}
    assert result.verification.status == "equivalent"


@pytest.mark.parametrize(
    ("forward", "left"),
    [
        (lambda self, x: (x + 1).relu_() * 2, []),
        (lambda self, x: x.relu_() * 2, ["relu_"]),
        (lambda self, x: self.twice(x + 1), []),
        (lambda self, x: self.viewed(x + 1), ["add_"]),
    ],
)
def test_changes_in_place_that_somebody_sees_stay(forward, left: list[str]) -> None:
    class Module(Forward):
        def twice(self, y):
            y.add_(1)
            return y * y

        def viewed(self, y):
            view = y.view(-1)
            y.add_(1)
            return view * 2

        def forward(self, x):
            return forward(self, x)

    module, x = Module(None).eval(), torch.randn(2, 3)
    wanted = module(x.clone())
    program = prepare(torch.export.export(module, (x.clone(),)).module())
    assert [name for name in operations(program) if name.endswith("_")] == left
    torch.testing.assert_close(program(x.clone()), wanted)


def test_what_cannot_be_exported_is_refused() -> None:
    module = Forward(lambda self, x: x * 2 if x.sum() > 0 else x).eval()
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.fold_program(module, torch.randn(2, 3))
    assert caught.value.code == "not-exportable"
