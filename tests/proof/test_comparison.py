"""Comparing a result with its source: what counts as equal, what is said, and the first divergence."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.errors import EnvironmentUnavailableError, UsageError
from normfold.models.data import UserInputs
from normfold.proof.comparison import Comparison, Setup, verify
from normfold.proof.deviation import compare, tolerance
from normfold.proof.probes import InputSpec
from normfold.records import Pair
from normfold.runtime import Evaluator, Runnable

FLOAT = TensorProto.FLOAT
X = [("x", FLOAT, ["N", 3, "H", "W"])]
Y = [("y", FLOAT, None)]
IMAGE = InputSpec("x", np.dtype(np.float32), ("N", 3, "H", "W"))
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def evaluator():
    with Evaluator(time_limit=60, threads=1) as held:
        yield held


@pytest.fixture
def save(tmp_path):
    """Write a model; nodes are (type, inputs, outputs[, attributes])."""

    def write(name, nodes, inputs=X, outputs=Y, constants=(), opset=18):
        graph = helper.make_graph(
            [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
            "g",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            [numpy_helper.from_array(array, key) for key, array in dict(constants).items()],
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("vendor", 1)]
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
        return Runnable(file, tmp_path)

    return write


W1 = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
W2 = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
SCALE = np.array([2, -0.5, 1.5, 1], np.float32)
SHIFT = np.array([1, 0, -2, 0.25], np.float32)
MEAN, VAR = np.array([0.5, -1, 0, 2], np.float32), np.array([1, 4, 0.25, 2], np.float32)


def two_convolutions(save):
    return save(
        "source",
        [
            ("Conv", ["x", "w1"], ["c1"]),
            ("BatchNormalization", ["c1", "s", "b", "m", "v"], ["n1"]),
            ("Relu", ["n1"], ["r"]),
            ("Conv", ["r", "w2"], ["c2"]),
            ("BatchNormalization", ["c2", "s", "b", "m", "v"], ["y"]),
        ],
        constants={"w1": W1, "w2": W2, "s": SCALE, "b": SHIFT, "m": MEAN, "v": VAR},
    )


def folded(save, wrong=None):
    """Both norms folded by hand; ``wrong`` (1 or 2) is folded with a bias a little off."""
    a = SCALE.astype(np.float64) / np.sqrt(VAR.astype(np.float64) + 1e-5)
    bias = SHIFT - a * MEAN
    constants = {
        "w1": (W1 * a[:, None, None, None]).astype(np.float32),
        "w2": (W2 * a[:, None, None, None]).astype(np.float32),
        "b1": (bias + (0.1 if wrong == 1 else 0)).astype(np.float32),
        "b2": (bias + (0.3 if wrong == 2 else 0)).astype(np.float32),
    }
    nodes = [("Conv", ["x", "w1", "b1"], ["f1"]), ("Relu", ["f1"], ["r"]), ("Conv", ["r", "w2", "b2"], ["y"])]
    return save(f"folded{wrong or ''}", nodes, constants=constants)


PAIRS = (Pair("n1", "f1", ("first",)), Pair("y", "y", ("second",)))


def test_a_right_fold_is_equivalent_on_all_probes(evaluator, save):
    found = verify(evaluator, two_convolutions(save), folded(save), Setup([IMAGE]), PAIRS)
    assert found.status == "equivalent", found
    assert found.because == ""
    assert 0 < found.max_rel < 1e-4
    assert found.rtol == 1e-4
    assert [probe.made.split(":")[0] for probe in found.inputs] == [
        "random", "large-mean", "image-like", "near-constant", "extreme-scale", "zeros",
    ]  # fmt: skip
    assert found.inputs[0].shape == (2, 3, 64, 64)
    assert found.errors == {}
    assert found.first_divergence is None


@pytest.mark.parametrize(("wrong", "site"), [(1, "first"), (2, "second")])
def test_a_wrong_fold_is_different_and_named(evaluator, save, wrong, site):
    found = verify(evaluator, two_convolutions(save), folded(save, wrong), Setup([IMAGE]), PAIRS)
    assert found.status == "different"
    assert found.first_divergence == site
    assert found.max_rel > 1e-4
    assert "'y' deviates by" in found.because


def test_the_order_of_begin_and_finish_allows_several_results(evaluator, save):
    comparison = Comparison(evaluator, Setup([IMAGE]))
    comparison.begin(two_convolutions(save))
    assert comparison.finish(folded(save, 1)).status == "different"
    assert comparison.finish(folded(save)).status == "equivalent"


def test_errors_at_every_site_on_request(evaluator, save):
    comparison = Comparison(evaluator, Setup([IMAGE]))
    comparison.begin(two_convolutions(save))
    found = comparison.finish(folded(save), PAIRS, per_site=True)
    assert found.status == "equivalent"
    assert set(found.errors) == {"first", "second"}
    assert all(0 <= error < 1e-5 for error in found.errors.values())


class Noting:
    """A queue before a runner, which notes what is loaded."""

    def __init__(self, evaluator):
        self.evaluator, self.loaded = evaluator, []

    def submit(self, task):
        return self.evaluator.submit(lambda runner: task(self.noting(runner)))

    def noting(self, runner):
        def load(model, **options):
            self.loaded.append(model.file.stem)
            return runner.load(model, **options)

        return SimpleNamespace(load=load, run=runner.run)


@pytest.mark.parametrize(
    ("prepared", "loads"),
    [
        (PAIRS, "source source folded folded"),
        (PAIRS[:1], "source source folded source folded"),
        ((Pair("nowhere", "f1", ("first",)),), "source source folded source folded"),
        (None, "source folded source folded"),
    ],
)
def test_the_sources_inner_values_are_computed_ahead_where_they_are_known(evaluator, save, prepared, loads):
    queue = Noting(evaluator)
    comparison = Comparison(queue, Setup([IMAGE]))
    comparison.begin(two_convolutions(save))
    if prepared is not None:
        comparison.prepare(prepared)
        comparison.prepare(prepared)
    found = comparison.finish(folded(save), PAIRS, per_site=True)
    assert " ".join(queue.loaded) == loads
    assert set(found.errors) == {"first", "second"}
    assert all(0 <= error < 1e-5 for error in found.errors.values())


def test_values_computed_ahead_are_of_another_input_than_a_later_divergence(evaluator, save):
    source = save("source", [("Mul", ["x", "two"], ["m"]), ("Relu", ["m"], ["y"])], constants={"two": np.float32([2])})
    # Only what is far from zero differs.
    nodes = [("Mul", ["x", "two"], ["p"]), ("Clip", ["p", "", "most"], ["f"]), ("Relu", ["f"], ["y"])]
    constants = {"two": np.float32([2]), "most": np.float32(40)}
    pairs = (Pair("m", "f", ("site",)),)
    comparison = Comparison(evaluator, Setup([IMAGE]))
    comparison.begin(source)
    comparison.prepare(pairs)
    found = comparison.finish(save("clipped", nodes, constants=constants), pairs)
    assert found.status == "different"
    assert found.first_divergence == "site"


def test_pairs_that_are_no_values_are_said_not_fatal(evaluator, save):
    pairs = (Pair("nowhere", "f1", ("first",)),)
    found = verify(evaluator, two_convolutions(save), folded(save, 1), Setup([IMAGE]), pairs)
    assert found.status == "different"
    assert found.first_divergence is None
    assert "inner values cannot be compared" in found.because


def test_a_given_tolerance_is_used(evaluator, save):
    loose = verify(evaluator, two_convolutions(save), folded(save, 2), Setup([IMAGE], rtol=0.9))
    assert (loose.status, loose.rtol) == ("equivalent", 0.9)


def chaotic(save, name, gain):
    """(x + big) - big: what is left is mostly the rounding of the sum."""
    big = np.array(gain, np.float32)
    return save(name, [("Add", ["x", "big"], ["a"]), ("Sub", ["a", "big"], ["y"])], constants={"big": big})


def test_what_the_sources_own_rounding_explains_is_equivalent_and_said(evaluator, save):
    def chain(name, factors):
        constants = {f"k{i}": np.array(k, np.float32) for i, k in enumerate(factors)}
        nodes = [("Mul", [f"v{i}" if i else "x", f"k{i}"], [f"v{i + 1}"]) for i in range(len(factors))]
        nodes += [("Sin", [f"v{len(factors)}"], ["y"])]
        return save(name, nodes, constants=constants)

    source, result = chain("source", [5.0, 1.1, 1.3, 1.7]), chain("result", [5.0 * 1.1 * 1.3 * 1.7])
    given = UserInputs(shapes={"x": (2, 3, 8, 8)})
    found = verify(evaluator, source, result, Setup([IMAGE], given=given))
    assert found.status == "equivalent", found
    assert found.max_rel > 1e-4
    assert "rounding explains" in found.because


def test_noise_is_no_excuse_for_what_is_larger_than_it(evaluator, save):
    source = chaotic(save, "source", 1e4)
    result = save("result", [("Mul", ["x", "k"], ["y"])], constants={"k": np.array(1.2, np.float32)})
    assert verify(evaluator, source, result, Setup([IMAGE])).status == "different"


def test_two_inputs_integers_and_booleans(evaluator, save):
    inputs = [("ids", TensorProto.INT64, ["N", "T"]), ("keep", TensorProto.BOOL, ["N", "T"])]
    outputs = [("y", FLOAT, None), ("label", TensorProto.INT64, None)]
    table = rng.standard_normal((10, 4)).astype(np.float32)

    def model(name, table):
        nodes = [
            ("Gather", ["table", "ids"], ["rows"]),
            ("Cast", ["keep"], ["k"], {"to": FLOAT}),
            ("Unsqueeze", ["k", "axes"], ["kk"]),
            ("Mul", ["rows", "kk"], ["y"]),
            ("ArgMax", ["rows"], ["label"], {"axis": 2}),
        ]
        return save(name, nodes, inputs, outputs, {"table": table, "axes": np.array([2])})

    specs = [InputSpec("ids", np.dtype(np.int64), ("N", "T")), InputSpec("keep", np.dtype(np.bool_), ("N", "T"))]
    source = model("source", table)
    found = verify(evaluator, source, model("same", table), Setup(specs))
    assert found.status == "equivalent", found
    assert found.max_abs == 0.0
    assert {probe.made for probe in found.inputs} >= {
        "integers 0 to 1; sizes guessed",
        "random booleans; sizes guessed",
    }
    other = table.copy()
    other[1] = -other[1]
    assert verify(evaluator, source, model("other", other), Setup(specs)).status == "different"


def test_labels_that_flip_while_the_floats_agree_are_explained(evaluator, save):
    outputs = [("y", FLOAT, None), ("label", TensorProto.INT64, None)]

    def model(name, last):
        nodes = [("Identity", ["x"], ["y"]), ("ArgMax", ["x"], ["label"], {"axis": 1, "select_last_index": last})]
        return save(name, nodes, outputs=outputs)

    found = verify(evaluator, model("a", 0), model("b", 1), Setup([IMAGE]))
    assert found.status == "different"
    assert "'label' differs in 100.00%" in found.because
    assert "every floating-point output agrees" in found.because


def test_sizes_are_guessed_until_the_source_runs(evaluator, save):
    def model(name):
        nodes = [("Flatten", ["x"], ["f"]), ("Gemm", ["f", "w"], ["y"])]
        return save(name, nodes, constants={"w": np.ones((3 * 32 * 32, 2), np.float32)})

    found = verify(evaluator, model("a"), model("b"), Setup([IMAGE]))
    assert found.status == "equivalent"
    assert found.inputs[0].shape == (2, 3, 32, 32)
    assert "sizes guessed" in found.inputs[0].made


def test_where_no_size_runs_the_user_is_told_how_to_state_it(evaluator, save):
    nodes = [("Flatten", ["x"], ["f"]), ("Gemm", ["f", "w"], ["y"])]
    source = save("a", nodes, constants={"w": np.ones((3 * 17 * 19, 2), np.float32)})
    found = verify(evaluator, source, source, Setup([IMAGE]))
    assert found.status == "unavailable"
    assert "tried: 2x3x64x64, 2x3x224x224" in found.because
    assert "--shape x=2x3x64x64" in found.because
    given = UserInputs(shapes={"x": (1, 3, 17, 19)})
    assert verify(evaluator, source, source, Setup([IMAGE], given=given)).status == "equivalent"
    with pytest.raises(UsageError) as caught:
        verify(evaluator, source, source, Setup([IMAGE], given=UserInputs(shapes={"x": (1, 3, 17, 18)})))
    assert caught.value.code == "bad-input"


def test_given_arrays_are_fed(evaluator, save):
    source = two_convolutions(save)
    given = UserInputs(arrays={"x": rng.random((1, 3, 12, 12))})
    found = verify(evaluator, source, folded(save), Setup([IMAGE], given=given))
    assert found.status == "equivalent"
    assert found.inputs[0].made == "given"
    assert {probe.shape for probe in found.inputs} == {(1, 3, 12, 12)}


def test_an_operator_that_nothing_runs_is_unavailable(evaluator, save):
    source = save("a", [("Secret", ["x"], ["y"], {"domain": "vendor"})])
    found = verify(evaluator, source, source, Setup([IMAGE]))
    assert found.status == "unavailable"
    assert "Secret" in found.because


def test_a_library_of_custom_operators_that_is_not_there(evaluator, save):
    source = two_convolutions(save)
    with pytest.raises(EnvironmentUnavailableError) as caught:
        verify(evaluator, source, source, Setup([IMAGE], custom_ops=["/nowhere/lib.so"]))
    assert caught.value.code == "custom-ops"


def test_bfloat16_convolutions_are_compared_by_the_reference(evaluator, save):
    kind, bf16 = TensorProto.BFLOAT16, ml_dtypes.bfloat16
    inputs, outputs = [("x", kind, ["N", 3, 6, 6])], [("y", kind, None)]

    def model(name, weight):
        return save(name, [("Conv", ["x", "w"], ["y"])], inputs, outputs, {"w": weight.astype(bf16)}, opset=22)

    setup = Setup([InputSpec("x", np.dtype(bf16), ("N", 3, 6, 6))])
    source = model("a", W1)
    found = verify(evaluator, source, model("b", W1), setup)
    assert found.status == "equivalent", found
    assert "onnx.reference" in found.because
    assert found.rtol == 0.1
    assert verify(evaluator, source, model("c", -W1), setup).status == "different"


@pytest.mark.parametrize(
    ("nodes", "outputs", "says"),
    [
        ([("Relu", ["x"], ["z"])], [("z", FLOAT, None)], "outputs are 'z'"),
        ([("Shape", ["x"], ["y"])], [("y", TensorProto.INT64, None)], "int64 instead of float32"),
        ([("Flatten", ["x"], ["y"])], Y, "has shape"),
        ([("Log", ["x"], ["y"])], Y, "NaN or infinity"),
    ],
)
def test_what_is_no_matter_of_degree_is_said(evaluator, save, nodes, outputs, says):
    source = save("a", [("Relu", ["x"], ["y"])])
    found = verify(evaluator, source, save("b", nodes, outputs=outputs), Setup([IMAGE]))
    assert found.status == "different"
    assert says in found.because


def test_a_result_that_does_not_load_is_different(evaluator, save, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08")
    found = verify(evaluator, two_convolutions(save), Runnable(broken, tmp_path), Setup([IMAGE]))
    assert found.status == "different"
    assert found.because.startswith("result: the evaluator rejects")


def test_nan_everywhere_agrees_with_itself_and_is_said(evaluator, save):
    def model(name):
        return save(name, [("Abs", ["x"], ["a"]), ("Neg", ["a"], ["b"]), ("Sub", ["b", "one"], ["c"]),
                           ("Sqrt", ["c"], ["y"])], constants={"one": np.array(1, np.float32)})  # fmt: skip

    found = verify(evaluator, model("a"), model("b"), Setup([IMAGE]))
    assert found.status == "equivalent"
    assert all(probe.made.endswith("the source's outputs are not finite on it") for probe in found.inputs)


def test_a_model_that_differs_from_itself_is_said(evaluator, save):
    def model(name, scale):
        nodes = [("RandomNormalLike", ["x"], ["n"], {"scale": scale}), ("Add", ["x", "n"], ["y"])]
        return save(name, nodes)

    setup = Setup([IMAGE], random=True)
    source = model("a", 0.01)
    found = verify(evaluator, source, model("b", 0.01), setup)
    assert found.status == "equivalent", found
    assert "differs from itself" in found.because
    assert verify(evaluator, source, model("c", 1.0), setup).status == "different"


def test_a_time_limit_makes_it_unavailable(save):
    with Evaluator(time_limit=0.01, threads=1) as evaluator:
        source = two_convolutions(save)
        found = verify(evaluator, source, source, Setup([IMAGE]))
    assert found.status == "unavailable"
    assert "out of time" in found.because


def test_the_record_is_plain_data(evaluator, save):
    from dataclasses import asdict

    found = verify(evaluator, two_convolutions(save), folded(save, 1), Setup([IMAGE]), PAIRS)
    json.dumps(asdict(found), allow_nan=False)


class TestCompare:
    def test_a_deviation_is_relative_to_the_range(self):
        a = np.array([0, 10], np.float32)
        found = compare(a, a + np.float32(0.5), 0.1)
        assert (found.max_abs, found.max_rel, found.excess) == (0.5, 0.05, 0.5)

    def test_a_narrow_range_counts_by_magnitude(self):
        a = np.array([100, 100.001])
        assert compare(a, a + 0.01, 1e-4).excess == pytest.approx(1.0, rel=1e-3)

    def test_zeros_count_absolutely(self):
        assert compare(np.zeros(3), np.full(3, 0.5), 1.0).max_rel == 0.5

    def test_a_small_channel_is_not_hidden_by_a_large_one(self):
        a = np.stack([np.linspace(0, 640, 100), np.linspace(0, 1, 100)])[None].astype(np.float32)
        b = a.copy()
        b[0, 1] += 0.05
        assert compare(a, b, 1e-4).max_rel < 1e-4
        assert compare(a, b, 1e-4).excess > 1

    def test_a_dead_channel_is_not_held_to_its_rounding(self):
        a = np.stack([np.linspace(0, 1, 100), np.zeros(100)])[None].astype(np.float32)
        b = a.copy()
        b[0, 1] += 1e-7
        assert compare(a, b, 1e-4).excess < 1

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_non_finite_positions_must_match(self, bad):
        a = np.array([1, bad, 3])
        assert compare(a, a.copy(), 1e-4).excess == 0
        assert compare(a, np.array([1, 2.0, 3]), 1e-4).excess == math.inf
        assert compare(np.array([1, 2.0, 3]), a, 1e-4).excess == math.inf
        assert compare(a, np.array([1, -bad if np.isinf(bad) else np.inf, 3]), 1e-4).excess == math.inf

    @pytest.mark.parametrize("shape", [(256,), (2, 64, 64)])
    def test_below_the_normal_numbers_one_step_is_as_close_as_it_gets(self, shape):
        for dtype, rtol in ((np.float64, 1e-9), (np.float32, 1e-4), (np.float16, 2e-2)):
            step = np.finfo(dtype).smallest_subnormal
            a = np.zeros(shape, dtype)
            a.reshape(-1)[::3] = 5 * step
            b = a.copy()
            b.reshape(-1)[0] += step
            assert compare(a, a.copy(), rtol).excess == 0
            assert 0 < compare(a, b, rtol).excess <= 1
            b.reshape(-1)[0] += 40 * step
            assert compare(a, b, rtol).excess > 1

    def test_integers_booleans_and_strings_are_exact(self):
        for a, b in (([1, 2], [1, 3]), ([True, False], [True, True]), (["a", "b"], ["a", "bcd"])):
            assert compare(np.array(a), np.array(a), 0.0).excess == 0
            found = compare(np.array(a), np.array(b), 0.0)
            assert found.excess > 1
            assert "50.00%" in found.reason

    def test_tolerances_follow_the_coarser_of_type_and_precision(self):
        assert tolerance(np.dtype(np.float32)) == 1e-4
        assert tolerance(np.dtype(np.float32), "float16") == 2e-2
        assert tolerance(np.dtype(ml_dtypes.bfloat16), "float32") == 1e-1
        assert tolerance(np.dtype(np.int64), "float16") == 0.0


def test_a_probe_on_which_the_source_is_chaotic_says_nothing(evaluator, save):
    """A sine of large numbers answers to the last bit of its input; where inputs are small, all is compared."""

    def wave(name, gain):
        nodes = [("Mul", ["x", "k"], ["big"]), ("Sin", ["big"], ["y"])]
        return save(name, nodes, constants={"k": np.array(gain, np.float32)})

    setup = Setup([IMAGE], given=UserInputs(shapes={"x": (2, 3, 8, 8)}))
    found = verify(evaluator, wave("a", 300.0), wave("b", 300.0 * (1 + 1e-7)), setup)
    assert found.status == "equivalent", found
    assert "numerically chaotic on this input" in found.because
    assert verify(evaluator, wave("a", 300.0), wave("c", 301.0), setup).status == "different"
