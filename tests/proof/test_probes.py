"""Inputs made for verification: consistent, valid, deterministic, and told apart from what cannot be made."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.errors import UsageError
from normfold.models.data import UserInputs
from normfold.proof.probes import (
    KINDS,
    MAX_ATTEMPTS,
    InputSpec,
    check_given,
    input_specs,
    kinds_for,
    layouts,
    make_feed,
    nudged,
    unmakeable,
)

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = InputSpec("image", F32, ("N", 3, "H", "W"))
TOKENS = InputSpec("tokens", I64, ("N", "T"))
MASK = InputSpec("mask", I64, ("N", "T"))


def first(specs, given=None):
    return next(layouts(specs, given or UserInputs()))


def test_specs_leave_out_inputs_with_initializers():
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["N", None, 3]),
            helper.make_tensor_value_info("w", TensorProto.BFLOAT16, [3]),
            helper.make_tensor_value_info("text", TensorProto.STRING, None),
            helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, None)],
        [numpy_helper.from_array(np.ones(3, ml_dtypes.bfloat16), "w")],
    )
    specs = input_specs(ir.from_proto(helper.make_model(graph)))
    assert specs == (
        InputSpec("x", np.dtype(ml_dtypes.bfloat16), ("N", None, 3)),
        InputSpec("text", np.dtype(object), None),
        InputSpec("list", None, None),
    )


def test_equal_symbols_get_equal_sizes():
    shapes = first([TOKENS, MASK, IMAGE]).shapes
    assert shapes["tokens"] == shapes["mask"]
    assert shapes["image"][0] == shapes["tokens"][0] == 2


def test_a_given_shape_binds_its_symbols_elsewhere():
    layout = first([TOKENS, MASK], UserInputs(shapes={"tokens": (5, 7)}))
    assert layout.shapes == {"tokens": (5, 7), "mask": (5, 7)}
    assert layout.guessed == ("mask",)


def test_a_given_array_binds_its_symbols_elsewhere():
    layout = first([TOKENS, MASK], UserInputs(arrays={"tokens": np.zeros((5, 7), np.int64)}))
    assert layout.shapes["mask"] == (5, 7)


def test_spatial_sizes_stay_together_and_are_varied():
    shapes = [layout.shapes["image"] for layout in layouts([IMAGE], UserInputs())]
    assert all(shape[2] == shape[3] for shape in shapes)
    assert {(2, 3, 64, 64), (2, 3, 224, 224), (2, 3, 32, 32), (1, 3, 224, 224)} <= set(shapes)
    assert len(set(shapes)) == len(shapes)


def test_no_layout_is_tried_twice_and_there_is_an_end():
    for specs in ([InputSpec("x", F32, (1, 3))], [IMAGE, TOKENS, InputSpec("any", F32, None)], []):
        tried = list(layouts(specs, UserInputs()))
        assert len(tried) <= MAX_ATTEMPTS
        assert len({(tuple(layout.shapes.items()), layout.integers) for layout in tried}) == len(tried)
    assert len(list(layouts([InputSpec("x", F32, (1, 3))], UserInputs()))) == 1


def test_integers_fall_back_to_smaller_ones():
    modes = [layout.integers for layout in layouts([InputSpec("ids", I64, (4,))], UserInputs())]
    assert modes == ["range", "binary", "zeros"]
    tops = []
    for layout in layouts([InputSpec("ids", I64, (400,))], UserInputs()):
        array = make_feed([InputSpec("ids", I64, (400,))], UserInputs(), layout, KINDS[0], 0).arrays["ids"]
        assert array.min() >= 0
        tops.append(array.max())
    assert tops[0] > 50
    assert tops[1:] == [1, 0]


def test_masks_are_zeros_and_ones():
    array = make_feed([MASK], UserInputs(), first([MASK]), KINDS[0], 0).arrays["mask"]
    assert set(np.unique(array)) == {0, 1}


@pytest.mark.parametrize(
    "dtype",
    [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float32, np.float64, np.uint8, np.int8, np.bool_],
)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_probe_is_finite_and_of_its_type(dtype, kind):
    spec = InputSpec("x", np.dtype(dtype), (2, 3, 5, 5))
    array = make_feed([spec], UserInputs(), first([spec]), kind, 0).arrays["x"]
    assert array.dtype == dtype
    assert array.shape == (2, 3, 5, 5)
    assert np.isfinite(array.astype(np.float64)).all()


def test_bytes_use_their_whole_range():
    spec = InputSpec("x", np.dtype(np.uint8), (100, 100))
    array = make_feed([spec], UserInputs(), first([spec]), KINDS[0], 0).arrays["x"]
    assert (array.min(), array.max()) == (0, 255)


def test_seeds_decide_everything():
    specs = [IMAGE, TOKENS]

    def make(seed):
        return make_feed(specs, UserInputs(), first(specs), KINDS[0], seed).arrays

    np.testing.assert_array_equal(make(3)["image"], make(3)["image"])
    assert not np.array_equal(make(3)["image"], make(4)["image"])
    assert not np.array_equal(make(3)["tokens"], make(4)["tokens"])


def test_given_arrays_are_the_first_probe_and_integers_stay():
    feeds = {"image": np.ones((1, 3, 4, 4), np.float64), "tokens": np.full((1, 2), 31999)}
    given = UserInputs(arrays=feeds)
    layout = first([IMAGE, TOKENS], given)
    ordinary = make_feed([IMAGE, TOKENS], given, layout, KINDS[0], 0)
    np.testing.assert_array_equal(ordinary.arrays["image"], feeds["image"])
    assert ordinary.arrays["image"].dtype == np.float32
    assert [probe.made for probe in ordinary.probes] == ["given", "given"]
    adversarial = make_feed([IMAGE, TOKENS], given, layout, KINDS[1], 0)
    assert adversarial.arrays["image"].mean() > 90
    np.testing.assert_array_equal(adversarial.arrays["tokens"], feeds["tokens"])


def test_slow_models_get_fewer_probes_but_an_adversarial_one():
    assert kinds_for([IMAGE], 100.0) == KINDS[:2]
    assert kinds_for([IMAGE], 0.01) == KINDS
    assert KINDS[1].name == "large-mean"


def test_nudging_moves_floats_by_one_unit_and_nothing_else():
    specs = [IMAGE, TOKENS]
    feed = make_feed(specs, UserInputs(), first(specs), KINDS[1], 0)
    moved = nudged(feed, 2.0**-23, 0)
    np.testing.assert_array_equal(moved["tokens"], feed.arrays["tokens"])
    relative = np.abs(moved["image"] / feed.arrays["image"].astype(np.float64) - 1)
    assert 0 < relative.max() < 2.0**-22


@pytest.mark.parametrize(
    ("specs", "given", "says"),
    [
        ([IMAGE], UserInputs(shapes={"picture": (1, 3, 4, 4)}), "'picture'"),
        ([IMAGE], UserInputs(arrays={"picture": np.zeros(1)}), "'picture'"),
        ([IMAGE], UserInputs(shapes={"image": (1, 4, 4, 4)}), "Nx3xHxW"),
        ([IMAGE], UserInputs(shapes={"image": (1, 3, 4)}), "1x3x4"),
        ([IMAGE], UserInputs(shapes={"image": (-1, 3, 4, 4)}), "negative"),
        ([TOKENS], UserInputs(arrays={"tokens": np.zeros((1, 2))}), "float64"),
        (
            [IMAGE],
            UserInputs(shapes={"image": (1, 3, 4, 4)}, arrays={"image": np.zeros((1, 3, 5, 5))}),
            "another shape",
        ),
    ],
)
def test_what_does_not_fit_is_bad_input(specs, given, says):
    with pytest.raises(UsageError) as caught:
        check_given(specs, given)
    assert caught.value.code == "bad-input"
    assert says in caught.value.message


def test_text_that_is_not_given_cannot_be_made():
    text = InputSpec("text", np.dtype(object), (1,))
    assert "'text' takes strings" in unmakeable([TOKENS, text], UserInputs())
    given = UserInputs(arrays={"text": np.array(["a"])})
    check_given([text], given)
    assert not unmakeable([text], given)


def test_what_is_no_tensor_cannot_be_made():
    assert "'list' is not a tensor" in unmakeable([InputSpec("list", None, None)], UserInputs())
