"""Operations that leave every element where it is go."""

from __future__ import annotations

import re

import numpy as np
import pytest

from folding import Example, array, model, only_fold, proven_fold, refused_by, tensor
from normfold.core.rules.drop_identity_move import RULE

IMAGE = "float[2, 4, 6, 6] x"
STEPS = {
    "Identity(r)": {},
    "Dropout(r)": {},
    "Slice(r, start, stop, axis)": {"start": [0], "stop": [4], "axis": [1]},
    "Slice(r, start, far, axes)": {"start": [0, 0], "far": [2**31 - 1] * 2, "axes": [2, 3]},
    "Reshape(r, shape)": {"shape": [0, 0, -1, 6]},
    "Transpose <perm = [0, 1, 2, 3]> (r)": {},
    "Split <axis = 1> (r, part)": {"part": [4]},
    "Gather <axis = 1> (r, order)": {"order": [0, 1, 2, 3]},
    "Pad(r, none)": {"none": [0] * 8},
    "Concat <axis = 1> (r)": {},
}
STAYING = {
    "Slice(r, start, stop, axis)": {"start": [0], "stop": [3], "axis": [1]},
    "Slice(r, start, stop, axis, step)": {"start": [0], "stop": [4], "axis": [1], "step": [2]},
    "Reshape(r, shape)": {"shape": [0, 0, 36]},
    "Transpose <perm = [0, 1, 3, 2]> (r)": {},
    "Gather <axis = 1> (r, order)": {"order": [1, 0, 2, 3]},
}


def operators(step: str, held: dict[str, list[int]], *, image: str = IMAGE) -> list[str]:
    constants = {name: np.asarray(values) for name, values in held.items()}
    source = model(image, ["r = Sigmoid(x)", f"m = {step}", "y = Tanh(m)"], constants)
    return proven_fold(source).operators


@pytest.mark.parametrize("step", STEPS)
def test_what_moves_nothing(step: str) -> None:
    assert operators(step, STEPS[step]) == ["Sigmoid", "Tanh"]


def test_a_part_beside_the_whole_stays() -> None:
    """An empty part is read as well: without the Split, nothing would make it."""
    body = ["r = Sigmoid(x)", "m, e = Split <axis = 1> (r, part)", "y = Tanh(m)", "z = ReduceSum <keepdims = 0> (e)"]
    held = {"part": np.asarray([4, 0])}
    source = model(IMAGE, body, held, outputs="float[2, 4, 6, 6] y, float z")
    assert proven_fold(source).operators == ["Sigmoid", "Split", "Tanh", "ReduceSum"]


@pytest.mark.parametrize("step", STAYING)
def test_what_moves_something(step: str) -> None:
    assert operators(step, STAYING[step]) == ["Sigmoid", re.match(r"\w+", step)[0], "Tanh"]


def test_a_free_size_that_stays_what_it_is() -> None:
    assert operators("Reshape(r, shape)", {"shape": [0, 4, -1]}, image="float[n, 4, 6] x") == ["Sigmoid", "Tanh"]


def test_a_free_size_that_may_change() -> None:
    kept = operators("Reshape(r, shape)", {"shape": [-1, 4, 2, 6]}, image="float[n, 4, m, 6] x")
    assert kept == ["Sigmoid", "Reshape", "Tanh"]


def test_the_mask_of_a_dropout_is_still_made() -> None:
    body = ["r = Sigmoid(x)", "y, mask = Dropout(r)"]
    folded = proven_fold(model(IMAGE, body, {}, outputs="float[] y, bool[] mask"))
    assert folded.operators == ["Sigmoid", "Dropout"]


def test_an_input_is_not_an_output() -> None:
    """not-output: without the operation, the model's output would be its input."""
    assert proven_fold(model(IMAGE, ["y = Identity(x)"], {})).operators == ["Identity"]


def test_a_pad_whose_amounts_are_computed_from_the_shape() -> None:
    """What an exporter writes for a padding up to the next multiple of three, and for the slice that undoes it."""
    body = [
        "r = Sigmoid(x)",
        "shape = Shape(r)",
        "size = Gather(shape, three)",
        "rest = Mod(size, multiple)",
        "left = Sub(multiple, rest)",
        "more = Mod(left, multiple)",
        "row = Unsqueeze(more, zero)",
        "pairs = Concat <axis = 0> (zeros, row)",
        "table = Reshape(pairs, two)",
        "turned = Slice(table, last, first, zero, back)",
        "order = Transpose(turned)",
        "flat = Reshape(order, all)",
        "m = Pad(r, flat)",
        "s = Slice(m, zero, row_end, three_list)",
        "y = Tanh(s)",
    ]
    held = {
        "three": 3,
        "multiple": 3,
        "zero": [0],
        "zeros": [0] * 7,
        "two": [-1, 2],
        "last": [-1],
        "first": [-(2**63) + 1],
    }
    held |= {"back": [-1], "all": [-1], "row_end": [6], "three_list": [3]}
    source = model(IMAGE, body, {name: np.asarray(values) for name, values in held.items()})
    assert proven_fold(source).operators == ["Sigmoid", "Tanh"]


def test_an_input_that_a_caller_may_set_stays() -> None:
    source = model(f"{IMAGE}, float ratio", ["r = Sigmoid(x)", "m = Dropout(r, ratio)", "y = Tanh(m)"])
    source.graph.initializer.append(tensor("ratio", np.asarray(0.5, np.float32)))
    assert only_fold(source).operators == ["Sigmoid", "Dropout", "Tanh"]


LONE = "then_branch = t () => (float[4] o) { o = Identity(x) }, else_branch = e () => (float[4] i) { i = Relu(x) }"
REFUSED = {
    "not-output": [
        model("float[4] x", ["y = Identity(x)"]),
        model("float[4] x", ["r = Relu(x)", "y = Identity(r)"], outputs="float[4] r, float[] y"),
        model("float[4] z, bool flag", ["x = Relu(z)", f"y = If (flag) <{LONE}>"]),
    ]
}


@pytest.mark.parametrize("premise", REFUSED)
def test_refused_because_not(premise: str) -> None:
    """Each of these breaks one premise and no other."""
    for source in REFUSED[premise]:
        assert refused_by(RULE, source) == {premise}


EXAMPLES = (
    Example(
        model(
            "float[1, 120, 3, 3] x",
            ["j = Concat <axis = 1> (x, x)", "s = Slice(j, start, stop, axis)", "y = Conv(s, w)"],
            {"w": array(4, 240, 1, 1), "start": np.array([0]), "stop": np.array([240]), "axis": np.array([1])},
        )
    ),
)
