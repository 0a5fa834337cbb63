"""What PyTorch's exporter writes in more operations than it takes, and keeps from being folded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normfold

SHAPES = {3: (2, 6, 8), 4: (2, 6, 4, 5), 5: (2, 6, 2, 3, 4)}


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.5, 1.5)
    return module.eval()


def operators(module: nn.Module, x: torch.Tensor, **options) -> list[str]:
    result = normfold.export(module, (x,), fold=False, **options)
    assert result.verification.status == "equivalent"
    return [node.op_type for node in result.model.graph]


@pytest.mark.parametrize("rank", SHAPES)
@pytest.mark.parametrize("dynamic", [{}, {"dynamic": {"input": {0: "n", 2: "l"}}}], ids=["fixed", "dynamic"])
def test_a_group_norm_of_one_channel_each_is_one_operation(rank: int, dynamic: dict) -> None:
    module = randomised(nn.Sequential(nn.ReLU(), nn.GroupNorm(6, 6), nn.ReLU()))
    assert operators(module, torch.randn(SHAPES[rank]), **dynamic) == ["Relu", "InstanceNormalization", "Relu"]


def test_one_without_constants_gets_those_that_change_nothing() -> None:
    assert operators(nn.GroupNorm(6, 6, affine=False).eval(), torch.randn(SHAPES[4])) == ["InstanceNormalization"]


@pytest.mark.parametrize("groups", [1, 3])
def test_others_stay_as_they_are(groups: int) -> None:
    assert "Reshape" in operators(randomised(nn.GroupNorm(groups, 6)), torch.randn(SHAPES[4]))


def test_what_stands_inside_is_not_lost() -> None:
    """The scale is read once more: it does not become the norm's own alone."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x) + self.norm.weight.sum() + self.norm.bias[0]

    operators(randomised(Twice()), torch.randn(SHAPES[4]))


def test_both_ways_decide_the_same() -> None:
    module = randomised(nn.Sequential(nn.Conv1d(6, 6, 1), nn.GroupNorm(6, 6), nn.GELU()))
    x = torch.randn(SHAPES[3])
    in_tree = normfold.fold(module, (x,)).decisions
    in_file = normfold.fold(normfold.export(module, (x,), fold=False).model).decisions
    both = [[(one.site, one.outcome) for one in decisions] for decisions in (in_tree, in_file)]
    assert both == [[("1", "kept")]] * 2


def test_a_pooling_of_a_permuted_image_hides_no_norm() -> None:
    """It is exported as a flatten and a Gather of all elements in order, as in torchvision's swin."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.pool, self.head = nn.LayerNorm(6), nn.AdaptiveAvgPool2d(1), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.pool(self.norm(x).permute(0, 3, 1, 2)).flatten(1))

    module, x = randomised(Net()), torch.randn(2, 4, 4, 6)
    exported = normfold.export(module, (x,), fold=False).model
    assert "Gather" in {node.op_type for node in exported.graph}
    result = normfold.fold(exported)
    assert [one.outcome for one in result.decisions] == [one.outcome for one in normfold.fold(module, (x,)).decisions]
    assert result.decisions[0].outcome == "part-folded"
    assert "Gather" not in {node.op_type for node in result.model.graph}
