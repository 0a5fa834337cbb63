"""``fold(preprocess=...)``: the result takes the raw picture and answers as the source does to the prepared one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import normfold
from folding import array, compare, model, norm, run, statistics
from normfold.backends.onnx import OnnxGraph, bind, insert
from normfold.cli.application import run as command
from normfold.core.preprocess import Preprocess
from normfold.errors import UsageError
from normfold.runtime import CHECKER

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FULL = {"mean": MEAN, "std": STD, "scale": 1 / 255}
RAW = {"layout": "NHWC", "channels": "BGR", "dtype": "uint8"}
PLAIN = "float[N, 3, 12, 12] x"
CONV = ["y = Conv <strides = [2, 2]> (x, w, c)"]
PADDED = ["y = Conv <pads = [1, 1, 1, 1]> (x, w, c)"]
HELD = {"w": array(4, 3, 3, 3), "c": array(4)}


def pictures(shape: tuple[int, ...], dtype: str = "uint8") -> list[np.ndarray]:
    """Random, black and white."""
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 255
    drawn = np.random.default_rng(3).integers(0, top, shape, endpoint=True)
    return [drawn.astype(dtype), np.zeros(shape, dtype), np.full(shape, top, dtype)]


def prepared(raw: np.ndarray, step: Preprocess, dtype: object = np.float32) -> np.ndarray:
    """What is stated, written down once more: for a model that takes NCHW and RGB."""
    x = raw.astype(np.float64)
    x = x.transpose(0, 3, 1, 2) if step.layout == "NHWC" else x
    x = x[:, ::-1] if step.channels == "BGR" else x
    mean, std = (np.reshape(value, (-1, 1, 1)) for value in (step.mean, step.std))
    return ((step.scale * x - mean) / std).astype(dtype)


def shown(
    source: onnx.ModelProto,
    step: Preprocess,
    *,
    dtype: object = np.float32,
    others: Mapping[str, np.ndarray] | None = None,
) -> SimpleNamespace:
    """Fold, and compare on pictures made here."""
    result = normfold.fold(source, preprocess=step)
    assert (result.verification.status, result.verification.because) == ("equivalent", "")
    onnx.checker.check_model(result.model, full_check=True)
    name = step.input or source.graph.input[0].name
    for raw in pictures((2, 12, 12, 3) if step.layout == "NHWC" else (2, 3, 12, 12), step.dtype or "float32"):
        typed = raw if step.dtype else raw.astype(dtype)
        wanted = run(source, {name: prepared(raw, step, dtype), **(others or {})})
        got = run(result.model, {name: typed, **(others or {})})
        for output, values in wanted.items():
            compare(output, values, got[output], None)
    decisions = {decision.norm: decision for decision in result.decisions}
    operators = [node.op_type for node in result.model.graph.node]
    return SimpleNamespace(model=result.model, decision=decisions.get("Preprocess"), operators=operators, result=result)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"scale": 1 / 255}, []),
        ({"mean": 0.5, "std": 0.25}, []),
        (FULL, []),
        ({"channels": "BGR"}, []),
        ({"layout": "NHWC"}, ["Transpose"]),
        ({"dtype": "uint8"}, ["Cast"]),
        ({"dtype": "uint16", "scale": 1 / 65535}, ["Cast"]),
        ({**FULL, **RAW}, ["Transpose", "Cast"]),
    ],
)
def test_an_unpadded_convolution_takes_all_that_can_be_folded(options: dict[str, object], left: list[str]) -> None:
    found = shown(model(PLAIN, CONV, HELD), Preprocess(**options))
    assert found.operators == [*left, "Conv"]
    if {"layout", "dtype"} < options.keys() or not {"layout", "dtype"} & options.keys():
        assert (found.decision.site, found.decision.outcome) == ("preprocess", "folded")
        assert found.decision.into == ("y",)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"scale": 1 / 255, "std": STD}, []),
        ({"mean": MEAN}, ["Sub"]),
        (FULL, ["Sub"]),
        ({"channels": "BGR"}, []),
        ({**FULL, **RAW}, ["Transpose", "Cast", "Sub"]),
    ],
)
def test_a_padded_convolution_leaves_the_shift_in_raw_units(options: dict[str, object], left: list[str]) -> None:
    found = shown(model(PLAIN, PADDED, HELD), Preprocess(**options))
    assert found.operators == [*left, "Conv"]
    if left:
        assert found.decision.outcome == "part-folded" if len(options) > 1 else "kept"
        assert "every-tap" in {refusal.premise for refusal in found.decision.refused_by}
        (shift,) = (node.input[1] for node in found.model.graph.node if node.op_type == "Sub")
        held = next(onnx.numpy_helper.to_array(t) for t in found.model.graph.initializer if t.name == shift)
        mean = MEAN[::-1] if "channels" in options else MEAN
        scale = float(options.get("scale", 1))
        assert np.array_equal(held.ravel(), (np.array(mean) / scale).astype(np.float32))
    else:
        assert found.decision.outcome == "folded"


def test_a_pad_takes_a_shift_that_channels_share() -> None:
    body = ["p = Pad (x, pads)", "y = Conv (p, w, c)"]
    found = shown(
        model(PLAIN, body, {**HELD, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}), Preprocess(mean=0.5, scale=1 / 255)
    )
    assert found.operators == ["Pad", "Conv"]
    assert "carry_affine_through_pad" in found.decision.rules
    value = next(
        onnx.numpy_helper.to_array(t)
        for t in found.model.graph.initializer
        if t.name == found.model.graph.node[0].input[2]
    )
    assert value == 127.5


def test_a_norm_of_the_model_takes_the_map_and_its_order() -> None:
    """As in networks that begin with a norm and a padded convolution."""
    body = [norm("x", "n"), "y = Conv <pads = [1, 1, 1, 1]> (n, w)"]
    found = shown(model(PLAIN, body, {"w": HELD["w"], **statistics(3)}), Preprocess(**FULL, **RAW))
    assert found.operators[:2] == ["Transpose", "Cast"]
    assert not {"Sub", "Mul", "Gather"} & set(found.operators)
    assert found.decision.outcome == "folded"


def test_arithmetic_that_the_model_begins_with_is_still_a_norm() -> None:
    body = ["[own] s = Mul (x, k)", "y = Conv (s, w, c)"]
    found = shown(model(PLAIN, body, {**HELD, "k": np.float32(1 / 255)}), Preprocess(mean=127.5))
    assert found.operators == ["Conv"]
    assert {decision.site for decision in found.result.decisions} == {"preprocess", "own"}


def test_grouped_convolutions() -> None:
    held = {"w": array(6, 1, 3, 3)}
    found = shown(model(PLAIN, ["y = Conv <group = 3> (x, w)"], held), Preprocess(**FULL, **RAW))
    assert found.operators == ["Transpose", "Cast", "Gather", "Conv"]
    assert found.decision.outcome == "part-folded"
    assert {refusal.premise for refusal in found.decision.refused_by} == {"same-group"}


def test_several_readers() -> None:
    body = ["a = Conv (x, w, c)", "b = Conv <dilations = [1, 1]> (x, v)", "y = Concat <axis = 1> (a, b)"]
    found = shown(model(PLAIN, body, {**HELD, "v": array(2, 3, 3, 3)}), Preprocess(**FULL, **RAW))
    assert found.operators[:2] == ["Transpose", "Cast"]
    assert not {"Sub", "Mul", "Gather"} & set(found.operators)


def test_kept_where_nothing_can_take_it() -> None:
    found = shown(model(PLAIN, ["y = Sigmoid (x)"]), Preprocess(**FULL, channels="BGR"))
    assert found.operators == ["Sub", "Mul", "Gather", "Sigmoid"]
    assert (found.decision.outcome, found.decision.into, found.decision.rules) == ("kept", (), ())
    assert {refusal.premise for refusal in found.decision.refused_by} == {"linear-producer", "linear-consumer"}


def test_left_out_on_request() -> None:
    result = normfold.fold(model(PLAIN, CONV, HELD), preprocess=Preprocess(**FULL, channels="BGR"), skip=["preprocess"])
    assert result.verification.status == "equivalent"
    assert [node.op_type for node in result.model.graph.node] == ["Sub", "Mul", "Gather", "Conv"]
    assert [refusal.premise for refusal in result.decisions[0].refused_by] == ["selected"]


def test_half_precision() -> None:
    held = {name: values.astype(np.float16) for name, values in HELD.items()}
    source = model("float16[N, 3, 12, 12] x", PADDED, held, outputs="float16[] y")
    found = shown(source, Preprocess(**FULL, **RAW), dtype=np.float16)
    assert found.operators == ["Transpose", "Cast", "Sub", "Conv"]


def test_double_precision() -> None:
    body = ["t = Transpose <perm = [0, 2, 3, 1]> (x)", "h = MatMul (t, w)", "y = Add (h, c)"]
    held = {"w": array(3, 4, dtype=np.float64), "c": array(4, dtype=np.float64)}
    source = model("double[N, 3, 12, 12] x", body, held, outputs="double[] y")
    found = shown(source, Preprocess(**FULL, channels="BGR", dtype="uint8"), dtype=np.float64)
    assert found.operators == ["Cast", "Transpose", "MatMul", "Add"]


def test_bfloat16() -> None:
    held = {name: values.astype(ml_dtypes.bfloat16) for name, values in HELD.items()}
    source = model("bfloat16[N, 3, 12, 12] x", CONV, held, outputs="bfloat16[] y")
    result = normfold.fold(source, preprocess=Preprocess(**FULL, **RAW), verify=False)
    assert [node.op_type for node in result.model.graph.node] == ["Transpose", "Cast", "Conv"]


def test_a_transpose_that_turns_the_layout_back_goes() -> None:
    """A network of channels last that begins by putting them first."""
    body = ["t = Transpose <perm = [0, 3, 1, 2]> (x)", "y = Conv (t, w, c)"]
    source = model("float[N, 12, 12, 3] x", body, HELD)
    result = normfold.fold(source, preprocess=Preprocess(**FULL, layout="NCHW", channels="BGR", dtype="uint8"))
    assert [node.op_type for node in result.model.graph.node] == ["Cast", "Conv"]
    for raw in pictures((2, 3, 12, 12)):
        x = (raw[:, ::-1] / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
        wanted = run(source, {"x": x.transpose(0, 2, 3, 1).astype(np.float32)})
        compare("y", wanted["y"], run(result.model, {"x": raw})["y"], None)


def test_a_transpose_that_is_also_an_output_stays() -> None:
    body = ["t = Transpose <perm = [0, 3, 1, 2]> (x)", "y = Conv (t, w, c)"]
    source = model("float[N, 12, 12, 3] x", body, HELD, outputs="float[] y, float[] t")
    result = normfold.fold(source, preprocess=Preprocess(layout="NCHW"), clean=False)
    assert [node.op_type for node in result.model.graph.node] == ["Transpose", "Transpose", "Conv"]


def test_the_layout_of_the_model_is_found() -> None:
    body = ["t = Transpose <perm = [0, 3, 1, 2]> (x)", "y = Conv (t, w, c)"]
    result = normfold.fold(model("float[N, 12, 12, 3] x", body, HELD), preprocess=Preprocess(**FULL, **RAW))
    assert result.verification.status == "equivalent"
    assert [node.op_type for node in result.model.graph.node] == ["Cast", "Transpose", "Conv"]


def test_one_of_two_inputs() -> None:
    body = ["h = Conv (picture, w, c)", "g = GlobalAveragePool (h)", "f = Flatten (g)", "y = Add (f, more)"]
    source = model("float[N, 4] more, float[N, 3, 12, 12] picture", body, HELD)
    found = shown(source, Preprocess(**FULL, **RAW, input="picture"), others={"more": array(2, 4)})
    assert found.operators[:3] == ["Transpose", "Cast", "Conv"]
    kinds = {value.name: value.type.tensor_type.elem_type for value in found.model.graph.input}
    assert kinds == {"more": onnx.TensorProto.FLOAT, "picture": onnx.TensorProto.UINT8}


def test_free_sizes_keep_their_names() -> None:
    source = model("float[N, 3, H, W] x", PADDED, HELD)
    result = normfold.fold(source, preprocess=Preprocess(**FULL, **RAW))
    dims = result.model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", "H", "W", 3]
    assert result.verification.status == "equivalent"


def test_a_reader_of_the_shape_sees_the_models_own() -> None:
    body = ["s = Shape (x)", "h = Conv (x, w, c)", "y = Expand (h, one)"]
    source = model(PLAIN, body, {**HELD, "one": np.array([1])}, outputs="float[] y, int64[4] s")
    found = shown(source, Preprocess(**FULL, **RAW))
    assert "Sub" not in found.operators


def test_pictures_that_are_black_white_and_random_are_compared() -> None:
    result = normfold.fold(model("float[2, 3, 12, 12] x", CONV, HELD), preprocess=Preprocess(**FULL, **RAW))
    made = {(probe.dtype, probe.made) for probe in result.verification.inputs}
    assert made == {("uint8", "integers 0 to 255"), ("uint8", "255 everywhere"), ("uint8", "0 everywhere")}


def test_a_wrong_preparation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison does not rest on the fold: with another swap in the model, nothing is handed over."""
    from normfold.passes import preprocess

    inserted = preprocess.insert

    def twisted(net: object, stage: object) -> None:
        object.__setattr__(stage, "swapped", (0, 2, 1))
        inserted(net, stage)
        object.__setattr__(stage, "swapped", (2, 1, 0))

    monkeypatch.setattr(preprocess, "insert", twisted)
    with pytest.raises(normfold.DiffersError):
        normfold.fold(model(PLAIN, CONV, HELD), preprocess=Preprocess(**FULL, **RAW))


def test_raw_pictures_of_ones_own() -> None:
    raw = {"x": pictures((1, 12, 12, 3))[0]}
    result = normfold.fold(model(PLAIN, CONV, HELD), preprocess=Preprocess(**FULL, **RAW), inputs=raw)
    assert "given" in {probe.made for probe in result.verification.inputs}
    with pytest.raises(UsageError, match="has shape"):
        normfold.fold(
            model(PLAIN, CONV, HELD), preprocess=Preprocess(**RAW), inputs={"x": raw["x"].transpose(0, 3, 1, 2)}
        )


def test_the_result_says_what_it_does() -> None:
    result = normfold.fold(model(PLAIN, CONV, HELD), preprocess=Preprocess(**FULL, **RAW))
    held = {entry.key: entry.value for entry in result.model.metadata_props}
    said = Preprocess.parse(held["normfold.preprocess"].split())
    assert said == Preprocess(**FULL, **RAW)
    assert json.loads(held["normfold.decisions"])[0]["norm"] == "Preprocess"


def test_nothing_to_do() -> None:
    found = shown(
        model(PLAIN, CONV, HELD), Preprocess(layout="NCHW", channels="RGB", dtype="float32"), dtype=np.float32
    )
    assert (found.operators, found.decision) == (["Conv"], None)


def test_what_is_put_in_is_no_value_of_the_source() -> None:
    net = ir.from_proto(model(PLAIN, CONV, HELD))
    insert(net, bind(net, Preprocess(**FULL, **RAW)))
    graph = OnnxGraph(net, CHECKER.infer)
    assert [node.op_type for node in graph.nodes()] == ["Transpose", "Cast", "Sub", "Mul", "Gather", "Conv"]
    assert graph.values() == {"y"}


def test_names_that_are_taken() -> None:
    body = [
        "[preprocess] preprocess_sub = Conv (x, w, c)",
        "x_prepared = Relu (preprocess_sub)",
        "y = Neg (x_prepared)",
    ]
    found = shown(model(PLAIN, body, HELD), Preprocess(**FULL, **RAW))
    assert found.operators == ["Transpose", "Cast", "Conv", "Relu", "Neg"]
    assert found.decision.site == "preprocess:preprocess_sub_2"


def test_initializers_that_are_inputs() -> None:
    """As IR version 3 wants them."""
    source = model(PLAIN, PADDED, HELD, ir_version=3, opset=8, outputs="float[N, 4, 12, 12] y")
    for tensor in source.graph.initializer:
        source.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    found = shown(source, Preprocess(**FULL, **RAW))
    assert found.operators == ["Transpose", "Cast", "Sub", "Conv"]


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["mean=0.485:0.456:0.406"], Preprocess(mean=MEAN)),
        (["scale=1/255", "std=1e-1"], Preprocess(scale=1 / 255, std=0.1)),
        (["mean=-.5", "input=a=b"], Preprocess(mean=-0.5, input="a=b")),
        ([], None),
    ],
)
def test_parsing(texts: list[str], wanted: Preprocess | None) -> None:
    assert Preprocess.parse(texts) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "mean", "mean=", "=1", "gamma=1", "mean=a", "mean=1:", "mean=1,2", "mean=nan", "mean=inf", "mean=1e999",
        "mean=1_0", "mean= 1", "mean=0x10", "mean=1/0", "mean=1/2/3", "mean=٣", "std=0", "std=-1", "std=1:0:1",
        "scale=0", "scale=1:2", "layout=nchw", "layout=CHWN", "channels=GBR", "dtype=float", "dtype=int64",
    ],
)  # fmt: skip
def test_values_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Preprocess.parse([text])
    assert caught.value.code == "bad-preprocess"


@pytest.mark.parametrize(
    "options",
    [
        {"mean": "0.5"}, {"mean": ()}, {"mean": ((1, 2), (3, 4))}, {"std": None}, {"scale": True},
        {"mean": float("nan")}, {"mean": (1, 2), "std": (1, 2, 3)}, {"layout": 3},
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Preprocess(**options)
    assert caught.value.code == "bad-preprocess"


def test_a_key_given_twice() -> None:
    with pytest.raises(UsageError, match="mean is given twice"):
        Preprocess.parse(["mean=1", "mean=2"])


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        ("float[N, C, 8, W] x", {"mean": MEAN}, "is not known"),
        ("float[] x", {"layout": "NHWC"}, "axes"),
        ("float[N, 4, 8, 8] x", {"mean": MEAN}, "no axis of 3 channels"),
        ("float[N, 4, 8, 8] x", {"channels": "BGR"}, "no axis of 3 channels"),
        ("float[N, 3, 8, 8] x", {"layout": "HWC"}, "has 4 axes"),
        ("float[N, 3, 8, 8, 8] x", {"mean": MEAN}, "has 5 axes"),
        ("float[N, 4, 8, 8] x", {"mean": (1, 2, 3, 4), "channels": "BGR"}, "no order BGR"),
        ("uint8[N, 3, 8, 8] x", {"scale": 1 / 255}, "takes uint8"),
        ("float16[N, 3, 8, 8] x", {"dtype": "uint16"}, "do not fit float16"),
        ("float16[N, 3, 8, 8] x", {"mean": 1.0, "scale": 1e-6}, "do not fit float16"),
        ("float[N, 3, 8, 8] x", {"input": "z"}, "no input named 'z'"),
        ("float[N, 3, 8, 8] x, float[1] v", {"scale": 1 / 255}, "has 2 inputs"),
    ],
)
def test_a_model_that_does_not_fit(inputs: str, options: dict[str, object], says: str) -> None:
    source = model(inputs, ["y = Identity (x)"])
    if inputs == "float[] x":
        source.graph.input[0].type.tensor_type.ClearField("shape")
        says = "rank of input 'x' is not known"
    with pytest.raises(UsageError, match=says) as caught:
        normfold.fold(source, preprocess=Preprocess(**options))
    assert caught.value.code == "bad-preprocess"


def test_an_input_that_is_an_output() -> None:
    source = model(PLAIN, CONV, HELD, outputs="float[] y, float[N, 3, 12, 12] x")
    with pytest.raises(UsageError, match="is an output"):
        normfold.fold(source, preprocess=Preprocess(**FULL))


def test_an_opset_without_broadcasting() -> None:
    with pytest.raises(UsageError, match="opset 7"):
        normfold.fold(model(PLAIN, ["y = Conv (x, w, c)"], HELD, opset=6), preprocess=Preprocess(**FULL))


def test_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(PLAIN, CONV, HELD), tmp_path / "net.onnx")
    words = [
        "mean=0.485:0.456:0.406",
        "std=0.229:0.224:0.225",
        "scale=1/255",
        "layout=NHWC",
        "channels=BGR",
        "dtype=uint8",
    ]
    out = tmp_path / "out.onnx"
    options = [word for text in words for word in ("--preprocess", text)]
    assert command(["fold", str(tmp_path / "net.onnx"), "-o", str(out), *options, "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["result"]["decisions"][0]["outcome"] == "folded"
    assert [node.op_type for node in onnx.load(out).graph.node] == ["Transpose", "Cast", "Conv"]
    out.unlink()
    assert command(["fold", str(tmp_path / "net.onnx"), "-o", str(out), "--preprocess", "scale=255x", "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "bad-preprocess"
    assert not out.exists()
