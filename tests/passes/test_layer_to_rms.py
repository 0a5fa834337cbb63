"""LayerNorm to RMSNorm: exact where the whole residual stream can be centred, refused where it cannot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import normfold
from folding import array, model, run
from normfold.backends.onnx import OnnxGraph
from normfold.passes.convert import Asked
from normfold.passes.convert.run import Converter
from normfold.records import Decision
from normfold.runtime import CHECKER

WIDTH, TOKENS, WORDS = 8, 5, 11
EXACT = 1e-12
"""Of the output's range, in float64."""


def converted(source: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    graph = OnnxGraph(ir.from_proto(source), CHECKER.infer)
    done = Converter(Asked("rms")).convert(graph, {})
    result = ir.to_proto(graph.model)
    onnx.checker.check_model(result, full_check=True)
    return result, done.decisions


def proven(source: onnx.ModelProto, feeds: dict[str, np.ndarray], bound: float) -> Counter[str]:
    """Convert every norm, compare, and count the operators of the result."""
    result, decisions = converted(source)
    assert {one.outcome for one in decisions} == {"converted"}
    assert all((one.to, one.label) == ("rms", "exact") for one in decisions)
    for name, wanted in run(source, feeds).items():
        got = run(result, feeds)[name]
        assert np.abs(got - wanted).max() <= bound * np.ptp(wanted), name
    return Counter(node.op_type for node in result.graph.node)


def refused(source: onnx.ModelProto) -> set[str]:
    result, decisions = converted(source)
    assert "LayerNormalization" in {node.op_type for node in result.graph.node}
    return {refusal.premise for one in decisions for refusal in one.refused_by}


def constants(dtype: type = np.float64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    held = {
        "table": rng.normal(3, 1, (WORDS, WIDTH)),
        "positions": rng.normal(-2, 1, (1, TOKENS, WIDTH)),
        "token": rng.normal(1, 1, (1, 1, WIDTH)),
        "up": rng.normal(0, 1, (WIDTH, 2 * WIDTH)),
        "down": rng.normal(0.5, 1, (2 * WIDTH, WIDTH)),
        "bias": rng.normal(1, 1, WIDTH),
        "small": rng.normal(0, 1, 2 * WIDTH),
        "last": rng.normal(0, 1, (WIDTH, 3)),
        "gamma": rng.normal(1, 0.5, WIDTH),
        "beta": rng.normal(0, 1, WIDTH),
        "scale": rng.normal(1, 0.5, WIDTH),
    }
    return {name: values.astype(dtype) for name, values in held.items()}


EMBEDDED = "e = Gather(table, i) s = Add(e, positions)"
BLOCK = "n = LayerNormalization <epsilon = 1e-6> (s, gamma, beta) u = MatMul(n, up) v = Add(u, small) a = Relu(v)"
BRANCH = "d = MatMul(a, down) b = Add(d, bias)"
END = "t = Add(s, b) m = LayerNormalization <epsilon = 1e-6> (t, gamma, beta) y = MatMul(m, last)"
PRE_LN = [EMBEDDED, BLOCK, BRANCH, END]
INDICES = f"int64[2,{TOKENS}] i"


def words() -> dict[str, np.ndarray]:
    return {"i": np.random.default_rng(1).integers(0, WORDS, (2, TOKENS))}


def used(body: list[str], dtype: type = np.float64) -> dict[str, np.ndarray]:
    text = " ".join(body)
    return {name: values for name, values in constants(dtype).items() if name in text}


@pytest.mark.parametrize("opset", [17, 20, 23])
def test_a_transformer_that_norms_first(opset: int) -> None:
    source = model(INDICES, PRE_LN, used(PRE_LN), outputs="double[] y", opset=opset, ir_version=10)
    operators = proven(source, words(), EXACT)
    assert operators["LayerNormalization"] == 0
    assert operators["RMSNormalization"] == (2 if opset >= 23 else 0)


def test_the_spelling_is_one_that_onnx_runtime_knows() -> None:
    source = model(INDICES, PRE_LN, used(PRE_LN, np.float32), opset=17)
    result, _ = converted(source)
    body = [node.op_type for node in result.graph.node]
    start = body.index("Pow")
    assert body[start : start + 6] == ["Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]


def test_a_bias_that_nothing_takes_stays_as_an_addition() -> None:
    body = ["e = Gather(table, i)", "f = Gather(table, j)", "s = Add(e, f)"]
    body += ["n = LayerNormalization(s, gamma, beta)", "y = Tanh(n)"]
    inputs = f"{INDICES}, int64[2,{TOKENS}] j"
    held = used(body)
    source = model(inputs, body, held, outputs="double[] y")
    assert refused(source) == {"parameter-untied", "calibration-data"}
    held["other"] = held["table"][::-1].copy()
    body[1] = "f = Gather(other, j)"
    operators = proven(model(inputs, body, held, outputs="double[] y"), words() | {"j": words()["i"]}, EXACT)
    assert operators["Add"] == 3


def test_a_class_token_and_a_scale_by_channel() -> None:
    """A vision transformer: patches, a token for each image that is stored or expanded, LayerScale."""
    body = ["c = Concat <axis = 1> (token, x0)", "s = Add(c, positions)", BLOCK, BRANCH, "b2 = Mul(b, scale)"]
    body += ["t = Add(s, b2)", "m = LayerNormalization(t, gamma, beta)", "y = MatMul(m, last)"]
    first = "x0 = MatMul(x, last2)"
    held = used(body) | {"last2": array(3, WIDTH).astype(np.float64)}
    inputs = f"double[1,{TOKENS - 1},3] x"
    feeds = {"x": np.random.default_rng(2).normal(0, 5, (1, TOKENS - 1, 3))}
    proven(model(inputs, [first, *body], held, outputs="double[] y"), feeds, EXACT)
    body[0] = "k = Expand(token, shape) c = Concat <axis = 1> (k, x0)"
    held["shape"] = np.array([2, 1, WIDTH])
    feeds = {"x": np.random.default_rng(2).normal(0, 5, (2, TOKENS - 1, 3))}
    inputs = f"double[2,{TOKENS - 1},3] x"
    proven(model(inputs, [first, *body], held, outputs="double[] y"), feeds, EXACT)


def test_a_large_mean_costs_what_a_layer_norm_costs() -> None:
    held = used(PRE_LN)
    held["positions"] += 1e6
    source = model(INDICES, PRE_LN, held, outputs="double[] y")
    proven(source, words(), 1e-13 * 1e6)


def test_a_norm_alone_behind_a_convolution() -> None:
    body = ["c = Conv <pads = [1, 1, 1, 1]> (x, w, k)", "t = Transpose <perm = [0, 2, 3, 1]> (c)"]
    body += ["n = LayerNormalization(t, gamma, beta)", "y = MatMul(n, last)"]
    held = used(body, np.float32) | {"w": array(WIDTH, 3, 3, 3), "k": array(WIDTH)}
    proven(model("float[1,3,6,6] x", body, held), {"x": array(1, 3, 6, 6, seed=3)}, 2e-6)


@pytest.mark.parametrize(
    ("body", "premises"),
    [
        # A post-LN transformer: the stream is what a norm makes.
        ([EMBEDDED, BLOCK, BRANCH, END.replace("Add(s, b)", "Add(n, b)")], {"linear-producer"}),
        # Somebody else reads the stream.
        ([*PRE_LN, "z = Exp(t)"], {"linear-consumer"}),
        ([*PRE_LN, "z = Relu(t)"], {"linear-consumer"}),
        ([*PRE_LN, "z = RMS"], {"same-in-group"}),
        # The caller sees it.
        ([*PRE_LN, "z = Identity(t)"], {"not-output"}),
        # An input that nothing before it can centre.
        ([PRE_LN[0].replace("Gather(table, i)", "Identity(x)"), *PRE_LN[1:]], {"linear-producer"}),
    ],
)
def test_refused(body: list[str], premises: set[str]) -> None:
    rms = "q = Mul(t, t) r = ReduceMean <axes = [-1]> (q) o = Add(r, epsilon) g = Sqrt(o) z = Div(t, g)"
    lines = [rms if line == "z = RMS" else line for line in body]
    held = used(lines) | ({"epsilon": np.array(1e-6)} if rms in lines else {})
    inputs = INDICES if "table" in " ".join(lines) else f"double[2,{TOKENS},{WIDTH}] x"
    outputs = "double[] y" + (", double[] z" if any("z = " in line for line in lines) else "")
    found = refused(model(inputs, lines, held, outputs=outputs))
    assert premises <= found


def test_a_norm_over_two_axes() -> None:
    lines = ["h = MatMul(x, w)", "n = LayerNormalization <axis = -2> (h, scale)", "y = MatMul(n, v)"]
    rng = np.random.default_rng(0)
    held = {"w": rng.normal(size=(WIDTH, WIDTH)), "v": rng.normal(size=(WIDTH, WIDTH))}
    held["scale"] = rng.normal(size=(TOKENS, WIDTH))
    assert "one-axis" in refused(model(f"double[2,{TOKENS},{WIDTH}] x", lines, held, outputs="double[] y"))


def test_constants_inside_of_a_norm_that_something_else_reads() -> None:
    """A norm that is written out, whose scale cannot go: so neither can the norm."""
    mean = "ReduceMean <axes = [-1]>"
    body = [f"x = MatMul(x0, w) mu = {mean} (x) c = Sub(x, mu) sq = Mul(c, c) v0 = {mean} (sq) v1 = Add(v0, epsilon)"]
    body += ["sd = Sqrt(v1) r = Reciprocal(sd) k = Mul(r, gamma) n0 = Mul(c, k) n = Add(n0, beta) y = MatMul(n, last)"]
    held = used(body) | {"epsilon": np.array(1e-6), "w": array(WIDTH, WIDTH).astype(np.float64)}
    body += ["e = Relu(k)"]
    source = model(f"double[2,{TOKENS},{WIDTH}] x0", body, held, outputs="double[] y, double[] e", opset=16)
    result, (decision,) = converted(source)
    assert "ReduceMean" in {node.op_type for node in result.graph.node}
    assert [(refusal.premise, "inside of it" in refusal.because) for refusal in decision.refused_by] == [
        ("single-use", True),
        ("calibration-data", False),
    ]


def test_channels_of_an_unknown_number() -> None:
    body = ["r = Reshape(x, sizes)", "n = LayerNormalization(r, gamma, beta)", "y = MatMul(n, last)"]
    _, (decision,) = converted(model("double[n, m] x, int64[2] sizes", body, used(body), outputs="double[] y"))
    refusal, fitted = decision.refused_by
    assert (refusal.premise, fitted.premise) == ("linear-producer", "calibration-data")
    assert "the number of channels of 'r' is not known" in refusal.because


def test_a_depthwise_writer() -> None:
    body = ["a = Conv <pads = [1, 1, 1, 1]> (x, w, bias)", "b = Conv <pads = [1, 1, 1, 1], group = 8> (a, dw)"]
    body += ["s = Add(a, b)", "t = Transpose <perm = [0, 2, 3, 1]> (s)"]
    body += ["n = LayerNormalization(t, gamma, beta)", "y = MatMul(n, last)"]
    held = used(body, np.float32) | {"w": array(WIDTH, 3, 3, 3), "dw": array(WIDTH, 1, 3, 3)}
    assert "one-group" in refused(model("float[1,3,6,6] x", body, held))


class Block(nn.Module):
    """A pre-LN block of hand: attention left out, what matters is the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Vision(nn.Module):
    """Patches, a class token, positions, two blocks, a last norm and a head."""

    def __init__(self, *, post: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) + 2)
        self.positions = nn.Parameter(torch.randn(1, 10, WIDTH) - 1)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head, self.post = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3), post

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0]) if not self.post else self.head(x[:, 0] + self.norm(x)[:, 1])


def shaken(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return module.double().eval()


def test_a_module() -> None:
    module, x = shaken(Vision()), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    done = normfold.convert(module, (x,), to="rms")
    assert [one.outcome for one in done.decisions] == ["converted"] * 3
    assert [type(one).__name__ for one in done.model.modules() if "Norm" in type(one).__name__] == ["RMSNorm"] * 3
    wanted = module(x).detach()
    assert float((done.model(x).detach() - wanted).abs().max()) < EXACT * np.ptp(wanted.numpy())
    assert done.verification.status == "equivalent"
    done.model.train()  # ready to be trained
    done.model(x).sum().backward()


class Own(nn.LayerNorm):
    """A subclass that does as its base does, such as timm's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Active(Own):
    """A subclass that does more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


@pytest.mark.parametrize(("kind", "outcome"), [(Own, "converted"), (Active, "kept")])
def test_a_subclass(kind: type[nn.LayerNorm], outcome: str) -> None:
    module = Vision()
    for block in module.blocks:
        block.norm = kind(WIDTH)
    done = normfold.convert(shaken(module), (torch.randn(2, 3, 6, 6, dtype=torch.float64),), to="rms")
    assert {one.outcome for one in done.decisions if one.site != "norm"} == {outcome}


def test_the_file_of_a_converted_module_is_restored(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    x, made = torch.randn(2, 3, 6, 6, dtype=torch.float64), lambda: shaken(Vision())
    done = normfold.convert(made(), (x,), to="rms")
    done.save(tmp_path / "converted.safetensors")
    restored = normfold.restore(made(), tmp_path / "converted.safetensors")
    assert [type(inner) for inner in restored.modules()] == [type(inner) for inner in done.model.modules()]
    assert any(isinstance(inner, torch.nn.RMSNorm) for inner in restored.modules())
    assert torch.equal(restored(x), done.model(x))


def test_a_norm_that_is_called_twice_stays() -> None:
    done = normfold.convert(shaken(Vision(post=True)), (torch.randn(2, 3, 6, 6, dtype=torch.float64),), to="rms")
    assert {one.outcome for one in done.decisions} == {"kept"}


def test_left_out() -> None:
    body = [line.replace("n = Layer", "[first] n = Layer") for line in PRE_LN]
    source = model(INDICES, body, used(PRE_LN), outputs="double[] y")
    done = normfold.convert(source, to="rms", only=["first"], verify=False)
    assert Counter(one.outcome for one in done.decisions) == {"converted": 1, "kept": 1}


@pytest.mark.parametrize(("opset", "operators"), [(None, 2), (23, 2), (17, 0)])
def test_operators_of_an_older_opset(opset: int | None, operators: int) -> None:
    """A runtime may lack what the model's own opset has."""
    source = model(INDICES, PRE_LN, used(PRE_LN), outputs="double[] y", opset=23, ir_version=10)
    done = normfold.convert(source, to="rms", opset=opset)
    assert {one.outcome for one in done.decisions} == {"converted"}
    assert sum(node.op_type == "RMSNormalization" for node in done.model.graph.node) == operators
    wanted, got = run(source, words())["y"], run(done.model, words())["y"]
    assert np.abs(got - wanted).max() <= EXACT * np.ptp(wanted)
