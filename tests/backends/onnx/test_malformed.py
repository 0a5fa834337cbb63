"""Models with nodes that do not fit their operator: an answer with a code, or the model as it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx.parser
import pytest

import normfold
from normfold.cli import main

NORM = "float[3] s={1,1,1}, float[3] b={1,1,1}"
EYE = "float[3,3,1,1] w={1,0,0, 0,1,0, 0,0,1}"
N = "n = BatchNormalization(x, s, b, b, s)"


def written(
    lines: Sequence[str], held: str, *, x: str = "float[1,3,4,4] x", outputs: str = "float[] y", opset: int = 17
) -> onnx.ModelProto:
    body = "\n".join(lines)
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}, "ai.onnx.ml": 3]>\nm ({x}) => ({outputs}) <{held}> {{\n{body}\n}}'
    )


def vector(name: str, *values: int) -> str:
    return f"{name} = Constant<value=int64[{len(values)}]{{{','.join(map(str, values))}}}>()"


def doubled(times: int) -> list[str]:
    return ["e0 = Concat<axis=0>(s, s)", *(f"e{k + 1} = Concat<axis=0>(e{k}, e{k})" for k in range(times))]


MALFORMED = {
    "convolutions in a row that do not fit": written(
        ["h = Conv(x, v)", "g = Conv(h, v)", "y = BatchNormalization(g, s, b, b, s)"],
        f"{NORM}, float[1,5,4,4] h, float[3,5,1,1] v={{{','.join('1' * 15)}}}",
        x="bfloat16[1,5,4,4] x",
    ),
    "a slice of nothing": written(
        [
            *(vector(name, value) for name, value in (("st", 3), ("en", 2), ("ax", 1))),
            "h = Conv(x, w)",
            "t = Slice(h, st, en, ax)",
            "y = BatchNormalization(t, s, b, b, s)",
        ],
        f"{NORM}, {EYE}",
        x="float[1,3,4,4] x",
    ),
    "a weight of no outputs": written(
        ["n = Sub(x, k)", "y = Conv(n, w)"], "float[3,1,1] k={1,1,1}, float[0,3,2,2] w={}"
    ),
    "pad of another rank": written(
        ["p = Pad(x, q)", "y = Conv(p, w)"], f"{EYE}, int64[8] q={{0,0,1,1,0,0,1,1}}", x="float[1,3,4] x"
    ),
    "conv pads of no axes": written(
        ["h = Conv<pads: ints=[]>(x, w)", "t = Mul(h, k)", "y = Add(t, x)"], f"{EYE}, float[3,1,1] k={{2,2,2}}"
    ),
    "slice lists differ": written(
        [N, vector("st", 0), vector("en", 2), vector("ax", 1), vector("sp", 1, 1), "y = Slice(n, st, en, ax, sp)"], NORM
    ),
    "bias of another size": written(
        ["h = Conv(x, w, c)", "y = BatchNormalization(h, s, b, b, s)"], f"{NORM}, {EYE}, float[6] c={{1,1,1,1,1,1}}"
    ),
    "bias of one element": written(
        ["h = Conv(x, w, c)", "y = BatchNormalization(h, s, b, b, s)"], f"{NORM}, {EYE}, float[1] c={{1}}"
    ),
    "split sizes fewer than outputs": written(
        [N, "y, z = Split<axis=1, split=[1]>(n)"], NORM, outputs="float[] y, float[] z", opset=12
    ),
    "squeeze of a scalar": written(
        ["h = Squeeze<axes=[0]>(k)", N, "y = Add(n, h)"], f"{NORM}, float k={{1}}", opset=12
    ),
    "gemm weight of rank 1": written(
        ["f = Flatten(x)", "h = Gemm(f, v)", "y = Mul(h, k)"], f"float[48] v={{{','.join('1' * 48)}}}, float k={{2}}"
    ),
    "reduction of a scalar": written(["m = ReduceMean<axes: ints=[-1]>(k)", "y = Sub(x, m)"], "float k={1}"),
    "gather out of range": written([vector("i", 99), "g = Gather(s, i)", N, "y = Mul(n, g)"], NORM),
    "constants that double": written([*doubled(33), N, "r = ReduceSum(e33)", "y = Mul(n, r)"], NORM),
    "axes that are not numbers": written(
        [N, "a = Constant<value=float[1]{nan}>()", "y = ReduceMean(n, a)"], NORM, opset=18
    ),
    "scales of fewer axes": written([N, "e = Constant<value_floats=[2.0]>()", 'y = Resize(n, "", e)'], NORM),
    "channels of another number": written(
        ["h = Conv(x, w)", "y = BatchNormalization(h, s, b, b, s)"], f"{NORM}, {EYE}", x="float[1,4,4,4] x"
    ),
    "unsqueeze far outside": written([N, "y = Unsqueeze<axes=[-1000]>(n)"], NORM, opset=12),
    "unsqueeze twice": written([N, "y = Unsqueeze<axes=[1, 1]>(n)"], NORM, opset=12),
    "transpose to an axis that is not there": written([N, "y = Transpose<perm=[0, 1, 2, 7]>(n)"], NORM),
    "reshape to other elements": written(
        [N, vector("t", 1, 7), "u = Reshape(n, t)", "y = Mul(u, k)"], f"{NORM}, float k={{2}}"
    ),
    "concat along no axis": written([N, "y = Concat<axis=9>(n, n)"], NORM),
    "flatten along no axis": written([N, "y = Flatten<axis=9>(n)"], NORM),
    "pool without strides": written([N, "y = MaxPool<kernel_shape=[2,2], strides=[0,0]>(n)"], NORM),
    "layer norm of other sizes": written(
        ["n = LayerNormalization(x, s, c)", "y = Relu(n)"], f"{NORM}, float[4] c={{1,1,1,1}}"
    ),
    "instance norm of a vector": written(
        ["n = InstanceNormalization(x, s, c)", "y = Relu(n)"], f"{NORM}, float[2] c={{1,1}}", x="float[3] x"
    ),
    "maps": written(
        [
            N,
            "f = Flatten(n)",
            "y = ai.onnx.ml.ZipMap<classlabels_int64s=[0, 1]>(f)",
            "h = Identity(f)",
        ],
        NORM,
        outputs="float[] h, seq(map(int64, float)) y",
    ),
    "an output that is stated to be a sequence": written(
        [
            "t = BatchNormalization(x, s, b, b, s)",
            "z = Dropout(t)",
            "m = ReduceMean<axes=[-1]>(t)",
            "c = Sub(t, m)",
            "q = Mul(c, c)",
            "v = ReduceMean<axes=[-1]>(q)",
            "e = Add(v, eps)",
            "d = Sqrt(e)",
            "h = Div(c, d)",
            "y = Mul(h, k)",
        ],
        f"{NORM}, float eps={{1e-5}}, float[4] k={{1,2,3,4}}",
        outputs="float[] y, seq(float[]) z",
    ),
    "a product that is stated to hold words": written(
        ["r = Sigmoid(x)", "t = Mul(r, k)", "n = Add(t, k)", "h = MatMul(n, w)", "y = Add(h, c)"],
        "float[3] k={1,2,3}, float[3,4] w={1,0,0,0, 0,1,0,0, 0,0,1,0}, float[4] c={1,2,3,4}, string[3] h",
        x="float[2,5,3] x",
    ),
    "a transposed convolution of any number of groups": written(
        [N, f"y = ConvTranspose<group={2**63 - 1}>(n, w)"],
        f"{NORM}, float[3,2,1,1] w={{1,1,1,1,1,1}}",
    ),
    "a tanh of nothing": written([N, "t = Mul(n, k)", "y = ai.onnx.ml.Tanh()"], f"{NORM}, float k={{2}}"),
    "a norm written out with constants of two sizes": written(
        [
            "m = ReduceMean<axes=[-1]>(x)",
            "c = Sub(x, m)",
            "s2 = Mul(c, c)",
            "v = ReduceMean<axes=[-1]>(s2)",
            "e = Add(v, eps)",
            "d = Sqrt(e)",
            "h = Div(c, d)",
            "t = Mul(h, k)",
            "y = Add(t, q)",
        ],
        "float eps={1e-5}, float[3] k={1,2,3}, float[4] q={1,2,3,4}",
        x="float[2,5,4] x",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MALFORMED[case].SerializeToString())
    for command in (["inspect", str(path)], ["fold", str(path), "-o", str(tmp_path / "out.onnx"), "--no-verify"]):
        with pytest.raises(SystemExit):
            main([*command, "--json"])
        answer = json.loads(capfd.readouterr().out)
        error = answer.get("error") or {}
        assert error.get("code") != "internal"
        assert error.get("hint") != "Please report this."


def test_an_output_that_is_stated_to_be_a_map_stays_one() -> None:
    """Another node makes it than before."""
    body = ["h = Gemm(x, w, s)", "t = Mul(h, s)", "y = Add(t, s)"]
    held = "float[3,3] w={1,0,0, 0,1,0, 0,0,1}, float[3] s={1,2,3}"
    proto = written(body, held, x="float[2,3] x", outputs="map(int64, float[]) y")
    result = normfold.fold(proto, verify=False)
    assert [decision.outcome for decision in result.decisions] == ["folded"]
    assert result.model.graph.output == proto.graph.output
