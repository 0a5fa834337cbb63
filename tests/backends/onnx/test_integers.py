"""Networks of integer steps: what is rewritten computes the same, and every form of a plan the same codes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from folding import array, model
from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.integers.contrib import ContribEmitter
from normfold.backends.onnx.integers.emitter import Emitter
from normfold.backends.onnx.integers.qdq import QdqEmitter
from normfold.backends.onnx.integers.read import read_network
from normfold.backends.onnx.integers.simulated import emit_simulated
from normfold.backends.onnx.integers.stepwise import emit_stepwise
from normfold.core.algebra import Window
from normfold.core.integers.form import integer_form
from normfold.core.integers.grouped import with_quick_groups
from normfold.core.integers.plan import Plan, made_plan
from normfold.core.integers.ranges import min_max
from normfold.core.integers.simplify import simplified
from normfold.core.integers.steps import ChannelClamp, Floating, Interleave, Linear, Network, Select, Widen
from normfold.models.dataset import read_dataset
from normfold.passes.quantize.recipe import Work
from normfold.passes.quantize.statistics import gathered
from normfold.proof.probes import input_specs
from normfold.runtime import CHECKER, Evaluator

NORM = {"g": array(8, seed=2), "b": array(8, seed=3), "m": array(8, seed=4), "v": np.abs(array(8, seed=5)) + 0.5}
NETS = {
    "relu before a norm and a pool": (
        [
            "a = Conv<pads=[1,1,1,1]>(x, w, c)",
            "r = Relu(a)",
            "n = BatchNormalization(r, g, b, m, v)",
            "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n)",
            "y = Conv<pads=[1,1,1,1]>(p, u)",
        ],
        {"w": array(8, 4, 3, 3), "c": array(8, seed=1), "u": array(16, 8, 3, 3, seed=6), **NORM},
    ),
    "a norm and relu before a product": (
        [
            "a = Conv(x, w)",
            "k = Concat<axis=1>(a, x)",
            "n = BatchNormalization(k, g, b, m, v)",
            "r = Relu(n)",
            "y = Conv(r, u)",
        ],
        {"w": array(4, 4, 1, 1), "u": array(16, 8, 1, 1, seed=6), **NORM},
    ),
    "a norm before a padded convolution": (
        [
            "a = Conv(x, w)",
            "r = Relu(a)",
            "k = Concat<axis=1>(r, x)",
            "n = BatchNormalization(k, g, b, m, v)",
            "y = Conv<pads=[1,1,1,1]>(n, u)",
        ],
        {"w": array(4, 4, 1, 1), "u": array(8, 8, 3, 3, seed=6), **NORM},
    ),
    "transposed, kernel 4": (
        [
            "a = Conv(x, w)",
            "t = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(a, u, c)",
            "r = Relu(t)",
            "y = Conv(r, z)",
        ],
        {"w": array(8, 4, 1, 1), "u": array(8, 4, 4, 4, seed=6), "c": array(4, seed=1), "z": array(8, 4, 1, 1, seed=7)},
    ),
    "transposed, kernel 3, grouped": (
        [
            "a = Conv(x, w)",
            "t = ConvTranspose<group=2, strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(a, u)",
            "y = Conv(t, z)",
        ],
        {"w": array(8, 4, 1, 1), "u": array(8, 3, 3, 3, seed=6), "z": array(8, 6, 1, 1, seed=7)},
    ),
    "transposed, sizes that do not fit": (
        ["a = Conv(x, w)", "t = ConvTranspose<strides=[2,2]>(a, u)", "y = Conv(t, z)"],
        {"w": array(8, 4, 1, 1), "u": array(8, 4, 3, 3, seed=6), "z": array(8, 4, 1, 1, seed=7)},
    ),
    "gates": (
        [
            "a = Conv(x, w)",
            "h = HardSwish(a)",
            "s = GlobalAveragePool(h)",
            "f = Conv(s, u)",
            "q = HardSigmoid(f)",
            "k = Mul(h, q)",
            "e = Sigmoid(k)",
            "o = Mul(k, e)",
            "y = Conv(o, z)",
        ],
        {"w": array(8, 4, 1, 1), "u": array(8, 8, 1, 1, seed=6), "z": array(8, 8, 1, 1, seed=7)},
    ),
    "parts, means, larger pictures": (
        [
            "a = Conv(x, w)",
            "k, l = Split<axis=1>(a, sizes)",
            "s = Add(k, l)",
            "p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(s)",
            'q = Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(p, , scales)',
            "c = Clip(q, zero, one)",
            "y = Conv(c, z)",
        ],
        {
            "w": array(8, 4, 1, 1),
            "z": array(8, 4, 1, 1, seed=7),
            "sizes": np.array([4, 4]),
            "scales": np.array([1, 1, 2, 2], np.float32),
            "zero": np.float32(0),
            "one": np.float32(1),
        },
    ),
    "several results of each channel": (
        ["a = Conv(x, w)", "b = Conv<group=8, pads=[1,1,1,1]>(a, u)", "r = Relu(b)", "y = Conv(r, z)"],
        {"w": array(8, 4, 1, 1), "u": array(16, 1, 3, 3, seed=6), "z": array(8, 16, 1, 1, seed=7)},
    ),
    "groups": (
        ["a = Conv(x, w)", "b = Conv<group=4, pads=[1,1,1,1]>(a, u)", "r = Relu(b)", "y = Conv(r, z)"],
        {"w": array(8, 4, 1, 1), "u": array(8, 2, 3, 3, seed=6), "z": array(8, 8, 1, 1, seed=7)},
    ),
    "shuffled channels": (
        [
            "a = Conv(x, w)",
            "p = Reshape(a, parts)",
            "t = Transpose<perm=[0,2,1,3,4]>(p)",
            "s = Reshape(t, whole)",
            "y = Conv(s, z)",
        ],
        {
            "w": array(12, 4, 1, 1),
            "parts": np.array([2, 3, 4, 6, 6]),
            "whole": np.array([2, 12, 6, 6]),
            "z": array(8, 12, 1, 1, seed=7),
        },
    ),
    "odd numbers of channels": (
        [
            "a = Conv(x, w)",
            "h = HardSwish(a)",
            "d = Conv<group=6, pads=[1,1,1,1]>(h, u)",
            "r = Relu(d)",
            "n = BatchNormalization(r, g, b, m, v)",
            "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(n)",
            "q = GlobalAveragePool(p)",
            "f = Conv(q, k)",
            "e = HardSigmoid(f)",
            "i = Mul(p, e)",
            "y = Conv(i, z)",
        ],
        {
            "w": array(6, 4, 1, 1),
            "u": array(6, 1, 3, 3, seed=6),
            "k": array(6, 6, 1, 1, seed=8),
            "z": array(8, 6, 1, 1, seed=7),
            **{name: held[:6] for name, held in NORM.items()},
        },
    ),
    "an odd number of channels side by side": (
        ["a = Conv(x, w)", "r = Relu(a)", "k = Concat<axis=1>(r, x)", "y = Conv<pads=[1,1,1,1]>(k, z)"],
        {"w": array(5, 4, 1, 1), "z": array(8, 9, 3, 3, seed=7)},
    ),
    "a map by position before a mean": (
        ["a = Conv(x, w)", "p = Add(a, f)", "q = ReduceMean<axes=[2,3], keepdims=0>(p)", "y = Gemm<transB=1>(q, z)"],
        {"w": array(8, 4, 1, 1), "f": array(6, seed=5), "z": array(8, 8, seed=7)},
    ),
    "bounds by position before a pool": (
        [
            "a = Conv(x, w)",
            "m = Mul(a, f)",
            "r = Relu(m)",
            "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)",
            "y = Conv(p, z)",
        ],
        {"w": array(8, 4, 1, 1), "f": np.abs(array(6, seed=5)) + 0.5, "z": array(8, 8, 1, 1, seed=7)},
    ),
    "a product over rows": (
        ["t = Transpose<perm=[0,2,3,1]>(x)", "h = MatMul(t, w)", "a = Add(h, c)", "r = Relu(a)", "y = MatMul(r, u)"],
        {"w": array(4, 16), "c": array(16, seed=1), "u": array(16, 8, seed=6)},
    ),
}


@pytest.fixture(scope="module")
def evaluator() -> Iterator[Evaluator]:
    with Evaluator(threads=1) as one:
        yield one


def read(name: str) -> tuple[ir.Model, Network]:
    body, held = NETS[name]
    proto = model("float[2,4,6,6] x", body, held)
    graph = OnnxGraph(ir.from_proto(proto), CHECKER.infer)
    return graph.model, integer_form(read_network(graph))


def outputs(made: ir.Model, x: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(made)
    onnx.checker.check_model(proto)
    (found,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    return found


def plan_of(evaluator: Evaluator, source: ir.Model, network: Network, x: np.ndarray) -> Plan:
    work = Work(source.clone, "int8", ("qdq",), evaluator)
    data = read_dataset({"x": x}, input_specs(source))
    return made_plan(network, gathered(work, source.clone(), network, data).seen, min_max)


@pytest.mark.parametrize("name", list(NETS))
def test_the_rewritten_network_computes_the_same(name: str) -> None:
    source, network = read(name)
    x = array(2, 4, 6, 6, seed=9)
    rewritten = emit_simulated(source.clone(), Plan(network, frozenset(), {}, {}))
    expected = outputs(source, x)
    np.testing.assert_allclose(outputs(rewritten, x), expected, rtol=0, atol=1e-6 * np.ptp(expected))


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("emit", [QdqEmitter, ContribEmitter])
def test_both_forms_compute_what_the_simulation_computes(evaluator: Evaluator, name: str, emit: type[Emitter]) -> None:
    source, network = read(name)
    x = array(2, 4, 6, 6, seed=9)
    plan = plan_of(evaluator, source, network, x)
    assert any(isinstance(step, Linear) and step in plan.integer for step in network.steps)
    truth = outputs(emit_simulated(source.clone(), plan), x)
    found = outputs(emit(source.clone(), plan).write(), x)
    assert np.abs(found - truth).max() <= 2 * np.ptp(truth) / 255
    signal = outputs(source, x)
    assert np.square(found - signal).mean() < 2e-3 * signal.var()


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("emit", [QdqEmitter, ContribEmitter])
def test_every_step_makes_the_nearest_code(evaluator: Evaluator, name: str, emit: type[Emitter]) -> None:
    source, network = read(name)
    x = array(2, 4, 6, 6, seed=9)
    plan = plan_of(evaluator, source, network, x)
    made, names, output = emit_stepwise(emit(source.clone(), plan))
    assert len(names) == len(plan.integer)
    assert deviations(made, output, x).max() <= 0.501
    bytes_ = [value for value in made.graph.initializers.values() if value.dtype == ir.DataType.INT8]
    codes = next(value for value in bytes_ if value.const_value.numpy().any())
    codes.const_value = ir.tensor(-codes.const_value.numpy())
    assert deviations(made, output, x).max() > 1


def deviations(made: ir.Model, output: str, x: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(made)
    onnx.checker.check_model(proto)
    return onnxruntime.InferenceSession(proto.SerializeToString()).run([output], {"x": x})[0]


@pytest.mark.parametrize("name", ["relu before a norm and a pool", "a norm and relu before a product"])
def test_a_norm_beside_a_clamp_becomes_bounds(name: str) -> None:
    _, network = read(name)
    (clamp,) = (step for step in network.steps if isinstance(step, ChannelClamp))
    assert clamp.operator == "BatchNormalization"
    assert not any(isinstance(step, Floating) for step in network.steps)
    kinds = [type(step).__name__ for step in network.steps]
    assert "MaxPool" not in kinds or kinds.index("MaxPool") < kinds.index("ChannelClamp")


def test_several_results_of_a_channel_are_each_of_a_channel_alone() -> None:
    (picked,) = (step for step in read("several results of each channel")[1].steps if isinstance(step, Select))
    assert picked.index == tuple(k // 2 for k in range(16))


def test_small_groups_become_one_and_large_ones_stay() -> None:
    _, network = read("groups")
    assert {step.groups for step in network.steps if isinstance(step, Linear)} == {1}
    wide = Linear(
        name="wide",
        operator="Conv",
        inputs=("a",),
        output="b",
        weight=np.ones((512, 16, 3, 3)),
        bias=np.zeros(512),
        groups=32,
        window=Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    )
    (kept,) = with_quick_groups(Network((wide,), ("a",), ("b",), {})).steps
    assert kept is wide


def test_a_shuffle_of_channels_picks_them() -> None:
    (picked,) = (step for step in read("shuffled channels")[1].steps if isinstance(step, Select))
    assert picked.index == (0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11)


def test_channels_are_padded_together() -> None:
    _, network = read("odd numbers of channels")
    assert {len(step.weight) for step in network.steps if isinstance(step, Linear)} == {16, 8}
    assert {network.shapes[value][1] for value in network.padded} == {16}


def test_what_cannot_be_made_wider_is_read_with_more_channels() -> None:
    _, network = read("an odd number of channels side by side")
    (wide,) = (step for step in network.steps if isinstance(step, Widen))
    assert (wide.inputs, wide.missing) == (("k",), 3)
    assert network.padded[wide.output] == 9
    assert network.derived[wide.output] == ("k", 1.0)


def test_phases_only_where_sizes_fit() -> None:
    assert any(isinstance(step, Interleave) for step in read("transposed, kernel 4")[1].steps)
    assert not any(isinstance(step, Interleave) for step in read("transposed, sizes that do not fit")[1].steps)


@pytest.mark.parametrize("emit", [QdqEmitter, ContribEmitter])
def test_gelu_is_on_codes_throughout(evaluator: Evaluator, emit: type[Emitter]) -> None:
    body = ["t = Transpose<perm=[0,2,3,1]>(x)", "h = MatMul(t, w)", "d = Div(h, root)", "e = Erf(d)", "p = Add(e, one)"]
    body += ["k = Mul(h, p)", "q = Mul(k, half)", "y = MatMul(q, u)"]
    held = {"w": array(4, 16), "u": array(16, 8, seed=6), "root": np.float32(2**0.5), "one": np.float32(1)}
    proto = model("float[2,4,6,6] x", body, held | {"half": np.float32(0.5)})
    graph = OnnxGraph(ir.from_proto(proto), CHECKER.infer)
    x = array(2, 4, 6, 6, seed=9)
    plan = plan_of(evaluator, graph.model, simplified(read_network(graph)), x)
    assert not plan.kept
    assert sum(isinstance(step, Linear) and step in plan.integer for step in plan.network.steps) == 2
    expected = outputs(graph.model, x)
    found = outputs(emit(graph.model.clone(), plan).write(), x)
    assert np.square(found - expected).mean() < 2e-3 * expected.var()


def test_what_has_an_unknown_number_of_axes_stays_in_floating_point(evaluator: Evaluator) -> None:
    body = ["r = Reshape(x, sizes)", "m = MatMul(r, w)", "t = Reshape(m, back)", "y = Conv(t, u)"]
    held = {"w": array(4, 8), "u": array(8, 8, 1, 1, seed=6), "back": np.array([2, 8, 6, 6])}
    proto = model("float[2,4,6,6] x, int64[K] sizes", body, held)
    graph = OnnxGraph(ir.from_proto(proto), CHECKER.infer)
    feeds = {"x": array(2, 4, 6, 6, seed=9), "sizes": np.array([2, 6, 6, 4])}
    work = Work(graph.model.clone, "int8", ("qdq",), evaluator)
    network = simplified(read_network(graph))
    data = read_dataset(lambda: [feeds], input_specs(graph.model))
    plan = made_plan(network, gathered(work, graph.model.clone(), network, data).seen, min_max)
    assert [(step.operator, because) for step, because in plan.kept.items()] == [
        ("MatMul", "the number of axes of 'r' is not known")
    ]
    for emit in (QdqEmitter, ContribEmitter):
        made = ir.to_proto(emit(graph.model.clone(), plan).write())
        ours, theirs = (
            onnxruntime.InferenceSession(one.SerializeToString()).run(None, feeds)[0] for one in (made, proto)
        )
        assert np.square(ours - theirs).mean() < 2e-3 * theirs.var()


def test_parts_of_different_ranges_share_no_scale(evaluator: Evaluator) -> None:
    body = ["a = Conv(x, w)", "b = Conv(x, u)", "k = Concat<axis=1>(a, b)", "y = Conv(k, z)"]
    held = {"w": array(8, 4, 1, 1), "u": 100 * array(8, 4, 1, 1, seed=6), "z": array(8, 16, 1, 1, seed=7)}
    graph = OnnxGraph(ir.from_proto(model("float[2,4,6,6] x", body, held)), CHECKER.infer)
    plan = plan_of(evaluator, graph.model, simplified(read_network(graph)), array(2, 4, 6, 6, seed=9))
    (because,) = plan.kept.values()
    assert "range" in because


def test_second_moments_of_padded_channels_are_zeros(evaluator: Evaluator) -> None:
    source, network = read("odd numbers of channels")
    work = Work(source.clone, "int8", ("qdq",), evaluator)
    data = read_dataset({"x": array(64, 4, 6, 6, seed=9).reshape(32, 2, 4, 6, 6)[:, 0]}, input_specs(source))
    found = gathered(work, source.clone(), network, data).spreads
    (alone,) = (step for step in network.steps if isinstance(step, Linear) and step.depthwise)
    assert found[alone].mean.shape == (16, 9)
    assert found[alone].covariance[:6].any()
    assert not found[alone].covariance[6:].any()
    (first,) = (step for step in network.steps if isinstance(step, Linear) and step.weight.shape[1] == 4)
    assert found[first].mean.shape == (1, 4)
