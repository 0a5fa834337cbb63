"""``dynamic_shapes`` in the forms of ``torch.export``: by name or in order, nested, with ranges and hints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ShapesCollection

import normfold
from normfold.proof.exported import another_size
from torch_nets import live, outcomes


class Net(nn.Module):
    """A convolution, a norm, nested arguments and one by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor, extra: dict[str, Any], *, y: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)).relu().mean((2, 3)) * extra["a"] + extra["more"][0] + y


X, Y = torch.randn(2, 3, 8, 8), torch.randn(2, 4)
INPUTS = {"x": X, "extra": {"a": torch.randn(2, 1), "more": [torch.randn(2, 4)]}, "y": Y}
BATCH, HEIGHT = Dim("batch", min=2, max=5), Dim("height", min=4)
NAMED = [["batch", 3, "height", 8], ["batch", 1], ["batch", 4], ["batch", 4]]
FORMS = {
    "by name": {"x": {0: BATCH, -2: HEIGHT}, "extra": {"a": {0: BATCH}, "more": [{0: BATCH}]}, "y": {0: BATCH}},
    "in order": (
        [BATCH, 3, HEIGHT, Dim.STATIC],
        {"a": (BATCH, None), "more": ((BATCH, 4),)},
        (BATCH, None),
    ),
    "names": ({0: "batch", 2: "height"}, {"a": {0: "batch"}, "more": [{0: "batch"}]}, {0: "batch"}),
}
NET = live(Net()).float()


def shapes(result: normfold.FoldResult) -> list[list[int | str]]:
    return [[n if isinstance(n, int) else str(n.value) for n in one.shape] for one in result.model.graph.inputs]


def sizes(result: normfold.FoldResult, axis: int) -> set[int]:
    return {probe.shape[axis] for probe in result.verification.inputs if probe.name == "x"}


@pytest.mark.parametrize("form", FORMS)
def test_sizes_with_names(form: str) -> None:
    result = normfold.export(NET, INPUTS, dynamic_shapes=FORMS[form])
    assert shapes(result) == NAMED
    assert outcomes(result) == {"bn": "folded"}
    assert result.verification.status == "equivalent"
    assert len(sizes(result, 2)) == 2
    assert sizes(result, 3) == {8}
    batches = sizes(result, 0)
    assert batches == ({1, 2, 3} if form == "names" else {2, 3})


def test_sizes_that_are_left_to_pytorch() -> None:
    auto = {0: Dim.AUTO}
    given = {"x": {0: Dim.AUTO, 1: Dim.AUTO, 3: Dim.DYNAMIC}, "extra": {"a": auto, "more": [auto]}, "y": auto}
    result = normfold.export(NET, INPUTS, dynamic_shapes=given)
    assert shapes(result) == [["x_dim_0", 3, 8, "x_dim_3"], *[["x_dim_0", n] for n in (1, 4, 4)]]
    assert sizes(result, 0) == {2, 3}
    assert len(sizes(result, 3)) == 2


def test_a_name_stands_for_what_is_left_to_pytorch_and_equals_it() -> None:
    auto = {0: Dim.AUTO}
    given = {"x": {0: Dim.AUTO}, "extra": {"a": auto, "more": [auto]}, "y": {0: Dim("n", max=7)}}
    result = normfold.export(NET, INPUTS, dynamic_shapes=given)
    assert [one[0] for one in shapes(result)] == ["n"] * 4


@pytest.mark.parametrize("form", ["by name", "in order"])
def test_programs_take_the_same(form: str) -> None:
    result = normfold.fold_program(NET, INPUTS, dynamic_shapes=FORMS[form])
    assert outcomes(result) == {"bn": "folded"}
    x, y = torch.randn(4, 3, 5, 8), torch.randn(4, 4)
    extra = {"a": torch.randn(4, 1), "more": [torch.randn(4, 4)]}
    torch.testing.assert_close(result.model(x, extra, y=y), NET(x, extra, y=y))


def test_the_file_of_a_program_keeps_the_ranges(tmp_path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    normfold.fold_program(net, X, dynamic_shapes=({0: BATCH, 2: HEIGHT},), output=tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2")
    assert sorted((int(span.lower), str(span.upper)) for span in loaded.range_constraints.values()) == [
        (2, "5"),
        (4, "int_oo"),
    ]


def test_a_collection_says_it_by_tensor() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), X
    collection = ShapesCollection()
    collection[x] = {0: Dim("n")}
    assert shapes(normfold.export(net, x, dynamic_shapes=collection)) == [["n", 3, 8, 8]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"z": None}, "no argument 'z'"),
        ({"X": None}, "no argument 'X'"),
        ((None,), "one for each of 3 arguments"),
        (3, "one for each of 3 arguments"),
        ({"x": {4: BATCH}}, "no axis 4"),
        ({"x": {"0": BATCH}}, "no axis '0'"),
        ({"x": (BATCH,)}, "has 4 axes"),
        ({"x": BATCH}, "dynamic shape of x"),
        ({"x": {0: 3}}, "is 2 in the example, and not 3"),
        ({"x": {0: 2.5}}, "is 2.5"),
        ({"x": {0: Dim("n", min=3)}}, "is to be from 3 on"),
        ({"x": {2: Dim("n", max=4)}}, "is to be 0 to 4"),
        ({"x": {0: 2 * Dim("n")}}, "2*n, is computed"),
        ({"x": {0: "no name"}}, "not an identifier"),
        ({"x": {0: "n", 2: "n"}}, "both 2 and 8"),
        ({"extra": (None, None)}, "not nested"),
        ({"extra": {"b": None}}, "not nested"),
        ({"extra": {"more": [None, None]}}, "not nested"),
    ],
)
def test_what_does_not_fit_is_refused(given: Any, says: str) -> None:
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.export(NET, INPUTS, dynamic_shapes=given)
    assert caught.value.code == "bad-input"
    assert says in str(caught.value)


def test_what_is_dynamic_must_be_so_in_the_code() -> None:
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.export(NET, INPUTS, dynamic_shapes={"x": {1: Dim.DYNAMIC}})
    assert caught.value.code == "not-exportable"


@pytest.mark.parametrize("verb", [normfold.export, normfold.fold_program])
def test_one_way_of_saying_it_is_enough(verb: Callable) -> None:
    with pytest.raises(normfold.NormfoldError) as caught:
        verb(NET, INPUTS, dynamic={"x": {0: "n"}}, dynamic_shapes={"x": {0: "n"}})
    assert caught.value.code == "usage"


@pytest.mark.parametrize(
    ("wanted", "size", "limits", "other"),
    [
        (16, 8, (1, None), 16),
        (16, 8, (1, 12), 12),
        (16, 8, (2, 8), 2),
        (4, 8, (8, None), 9),
        (3, 1, (0, 2), 2),
        (3, 2, (2, 2), 2),
    ],
)
def test_other_sizes_are_within_the_range(wanted: int, size: int, limits: tuple, other: int) -> None:
    assert another_size(wanted, size, limits) == other


def test_operations_that_no_module_calls_have_plain_names() -> None:
    """The sizes of free dimensions are asked for outside of every module."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.layer(self.words(tokens))

    tokens = torch.zeros(2, 5, dtype=torch.int64)
    result = normfold.export(Encoder().eval(), (tokens,), dynamic={"tokens": {0: "n", 1: "l"}})
    sizes = [
        str(node.name) for node in result.model.graph if node.op_type == "Shape" and node.inputs[0].is_graph_input()
    ]
    assert sizes
    assert all(name.partition("@")[0] == "Shape" for name in sizes)
