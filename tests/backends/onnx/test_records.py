"""Statistics records of folded models: exact where the data has the statistics of the norms."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from folding import Arrays, array, model, norm, only_fold, run, statistics, watched
from normfold.records import StatisticsRecord, packed, unpacked

IMAGE = "float[8, 3, 6, 6] x"
CLOSE = 2e-5
"""Of the deviation of a channel; the models run in float32."""
HELD = {
    "w": array(4, 3, 3, 3),
    "w1": array(4, 4, 1, 1, seed=2),
    "w3": array(4, 4, 3, 3, seed=3),
    "w2": array(4, 3, 1, 1, seed=4),
    "k": array(4, 1, 1, seed=5),
    "q": array(3, 1, 1, seed=6),
    "k1": array(4, seed=7),
    "k2": array(4, seed=8),
    "two": np.abs(array(4, 1, 1, seed=10)) + 0.5,
    "square": array(6, 4, seed=11),
    "rows": np.array([-1, 4]),
    "order": np.array([2, 0, 3, 1]),
    **statistics(4),
    **statistics(4, "n", seed=20),
    **statistics(3, "i", seed=40),
    **{name: np.abs(values) for name, values in statistics(4, "plus", seed=60).items()},
}
POOL = "MaxPool <kernel_shape = [2, 2], strides = [2, 2]>"
CONV = "h = Conv <pads = [1, 1, 1, 1]> (x, w)"
NETWORKS: dict[str, tuple[list[str], dict[str, tuple[str, ...]]]] = {
    # What stands there, and the values that records are left of, with the norms that told them.
    "backward": ([CONV, norm("h", "z"), "y = Relu(z)"], {"z": ("z_norm",)}),
    "forward": ([CONV, "r = Relu(h)", norm("r", "z"), "y = Conv(z, w1)"], {"r": ("z_norm",)}),
    "kept": ([CONV, "r = Tanh(h)", norm("r", "z"), "y = Tanh(z)"], {"r": ("z_norm",), "z": ("z_norm",)}),
    "chain": ([CONV, norm("h", "z"), "u = Mul(z, k)", "y = Relu(u)"], {"u": ("z_norm",)}),
    "two norms": ([CONV, norm("h", "z"), norm("z", "u", "n"), "y = Relu(u)"], {"u": ("u_norm",)}),
    "identity": ([CONV, norm("h", "z"), "u = Identity(z)", "y = Relu(u)"], {"z": ("z_norm",)}),
    "input": ([norm("x", "z", "i"), "h = Conv(z, w)", "y = Relu(h)"], {"x": ("z_norm",)}),
    "moved": (
        [CONV, "r = Relu(h)", norm("r", "z", "plus"), f"p = {POOL} (z)", "y = Tanh(p)"],
        {"r": ("z_norm",)},
    ),
    "branches": (
        [CONV, norm("h", "z"), "c = Conv(x, w2)", norm("c", "u", "n"), "t = Add(z, u)", "y = Relu(t)"],
        {"t": ("z_norm", "u_norm")},
    ),
    "scaled afterwards": (
        [CONV, norm("h", "z"), "r = Relu(z)", "t = Mul(r, two)", "d = Conv(t, w1)", "y = Tanh(d)"],
        {"z_folded": ("z_norm",)},
    ),
    "shuffled": (
        [
            *(CONV, "c = Tanh(h)", "g = Gather <axis = 1> (c, order)", norm("g", "z")),
            *("d = Conv <pads = [1, 1, 1, 1]> (z, w3)", "y = Tanh(d)"),
        ],
        {"z_folded": ("z_norm",)},
    ),
    "a product that becomes a matrix": (
        ["h = MatMul(x, square)", "f = Reshape(h, rows)", norm("f", "n"), "y = Relu(n)"],
        {"n": ("n_norm",)},
    ),
    "bias before an instance norm": (
        [CONV, norm("h", "z"), "y = InstanceNormalization(z, k1, k2)"],
        {"z_folded": ("z_norm",)},
    ),
    "absorbed": (
        ["t = Tanh(x)", "a = Mul(t, q)", "u = Add(a, q)", norm("u", "z", "i"), "y = Tanh(z)"],
        {"z": ("z_norm",)},
    ),
    "residual": (
        [
            *(CONV, norm("h", "z"), "r = Relu(z)", "c = Conv(r, w1)", norm("c", "u", "n"), "t = Tanh(u)"),
            "y = Add(t, r)",
        ],
        {"z": ("z_norm",), "u": ("u_norm",)},
    ),
}


def calibrated(source: onnx.ModelProto, feeds: Arrays) -> onnx.ModelProto:
    """``source`` with the statistics that its norms would have seen in ``feeds``."""
    held = {tensor.name: tensor for tensor in source.graph.initializer}
    for node in source.graph.node:
        if node.op_type == "BatchNormalization":
            x = (feeds | run(watched(source, [node.input[0]]), feeds, reference=True))[node.input[0]]
            across = (0, *range(2, x.ndim))
            for name, values in zip(node.input[3:], (x.mean(across), x.var(across)), strict=True):
                held[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    return source


def records_of(result: onnx.ModelProto) -> tuple[StatisticsRecord, ...]:
    return unpacked(next(prop.value for prop in result.metadata_props if prop.key == "normfold.records"))


def check(result: onnx.ModelProto, feeds: Arrays, limit: float = CLOSE) -> None:
    """Compare what is recorded with what is measured."""
    records = records_of(result)
    measured = feeds | run(watched(result, [record.value for record in records]), feeds, reference=True)
    for record in records:
        value = np.moveaxis(measured[record.value].astype(np.float64), record.axis, 0)
        flat = value.reshape(len(value), -1)
        assert len(record.mean) == len(flat)
        deviation = flat.std(1)
        assert np.abs(flat.mean(1) - record.mean).max() <= limit * deviation.max(), record.value
        if record.derived is None:
            assert np.abs(deviation - record.deviation).max() <= limit * deviation.max(), record.value


def case(name: str, held: Arrays = HELD) -> tuple[onnx.ModelProto, Arrays]:
    body, _ = NETWORKS[name]
    feeds = {"x": array(8, 3, 6, 6, seed=9)}
    return calibrated(model(IMAGE, body, held), feeds), feeds


@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_is_measured(name: str) -> None:
    source, feeds = case(name)
    result = only_fold(source).result
    check(result, feeds)
    assert {record.value: record.sites for record in records_of(result)} == NETWORKS[name][1]


@pytest.mark.parametrize("name", NETWORKS)
def test_records_survive_a_second_fold(name: str) -> None:
    source, feeds = case(name)
    once = only_fold(source).result
    again = only_fold(once).result
    assert records_of(again) == records_of(once)
    check(again, feeds)


def test_a_sum_is_recorded_where_its_terms_are_gone() -> None:
    source, _ = case("branches")
    (record,) = records_of(only_fold(source).result)
    assert record.derived == "independent"
    kept = records_of(only_fold(source, skip=["u_norm"]).result)
    assert {one.value for one in kept} == {"z", "c", "u"}


def test_an_unnormed_model_carries_none() -> None:
    source = model(IMAGE, [CONV, "y = Relu(h)"], {"w": HELD["w"]})
    assert not only_fold(source).result.metadata_props


@pytest.mark.parametrize("text", ["", "[", "{}", "[1]", '[{"value": "z"}]', "[" * 100_000])
def test_what_is_no_record_is_ignored(text: str) -> None:
    source, _ = case("backward")
    source.metadata_props.add(key="normfold.records", value=text)
    assert records_of(only_fold(source).result) == ()


def test_a_record_that_does_not_fit_is_ignored() -> None:
    source, _ = case("backward")
    wrong = StatisticsRecord("z", -3, (0.0,) * 3, (1.0,) * 3, ("z_norm",))
    source.metadata_props.add(key="normfold.records", value=packed([wrong]))
    assert records_of(only_fold(source).result) == ()
