"""Older opsets, types that only newer ones take, and the records that a folded module carries."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normfold
from torch_nets import live

X = torch.randn(2, 3, 8, 8)


def row() -> nn.Module:
    return live(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).float()


@pytest.mark.parametrize("opset", [12, 13, 14, 15])
@pytest.mark.parametrize("fold", [True, False])
def test_a_convolution_with_a_norm_in_an_older_opset(opset: int, fold: bool) -> None:
    result = normfold.export(row(), (X,), opset=opset, fold=fold)
    assert result.model.opset_imports == {"": opset}
    assert result.verification.status == "equivalent"
    kinds = [node.op_type for node in result.model.graph]
    assert kinds == (["Conv", "Relu"] if fold else ["Conv", "BatchNormalization", "Relu"])


def test_what_has_no_older_form_is_named() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.GELU(approximate="tanh"), nn.LayerNorm(4)).eval()
    with pytest.raises(
        normfold.NormfoldError, match="LayerNormalization has no older form that onnx knows: 2"
    ) as caught:
        normfold.export(net, (torch.randn(2, 8),), opset=13)
    assert caught.value.code == "not-exportable"


def test_bfloat16_needs_no_opset_named() -> None:
    result = normfold.export(row().bfloat16(), (X.bfloat16(),))
    assert result.verification.status == "equivalent"
    assert result.model.graph.inputs[0].dtype.name == "BFLOAT16"


def test_records_reach_the_file() -> None:
    net = nn.Sequential(row(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    folded = normfold.fold(net, (X,))
    exported = normfold.export(folded.model, (X,))
    assert len(folded.records) == 2
    names = {value.name for node in exported.model.graph for value in node.outputs}
    assert {record.value for record in exported.records} <= names
    assert [(one.sites, one.axis, one.mean, one.deviation) for one in exported.records] == [
        (one.sites, one.axis, one.mean, one.deviation) for one in folded.records
    ]
    assert [one.value for one in normfold.export(folded.model, (X,), fold=False).records] == [
        one.value for one in exported.records
    ]


class Steps(nn.Module):
    """Counts its calls, in an attribute that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.count = nn.Conv2d(3, 4, 1), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return self.conv(x) * self.count


def test_an_export_is_not_blamed_for_a_module_that_counts_its_calls() -> None:
    with pytest.raises(normfold.UnprovenError, match="changes from call to call: 'count'") as caught:
        normfold.export(Steps().eval(), (X,))
    assert caught.value.code == "not-repeatable"
