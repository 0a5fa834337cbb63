"""Where source and result differ by more than rounding explains, the one that is nearer to float64 is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from folding import array, model
from normfold.models.data import UserInputs
from normfold.proof.comparison import Setup, verify
from normfold.proof.findings import EXACT
from normfold.proof.probes import input_specs
from normfold.records import Verification
from normfold.runtime import Evaluator, Loaded, Ran, Runnable

FLAT = (0.5 + 1e-3 * np.random.default_rng(0).standard_normal((1, 32, 32, 32))).astype(np.float32)
"""Nearly constant: ONNX Runtime takes its variance as a difference of large numbers for a GroupNormalization."""
HELD = {"s": array(32), "b": array(32, seed=1), "one": np.ones(2, np.float32), "none": np.zeros(2, np.float32)}
HELD |= {"groups": np.int64([1, 2, -1]), "whole": np.int64([1, 32, 32, 32])}
SOURCE = "y = GroupNormalization <num_groups = 2> (x, s, b)"
RESULT = """g = Reshape(x, groups)
n = InstanceNormalization(g, one, none)
r = Reshape(n, whole)
t = Mul(r, s3)
y = Add(t, b3)"""


@pytest.fixture(scope="module")
def evaluator() -> Any:
    with Evaluator(time_limit=60, threads=1) as held:
        yield held


def runnable(proto: onnx.ModelProto, folder: Path, name: str) -> Runnable:
    onnx.save(proto, folder / f"{name}.onnx")
    return Runnable(folder / f"{name}.onnx", folder)


def proof(evaluator: Evaluator, folder: Path, off: float = 1.0, body: str = SOURCE) -> Verification:
    """A GroupNormalization beside an InstanceNormalization of its groups, whose scale is ``off``."""
    image, spread = "float[1, 32, 32, 32] x", (32, 1, 1)
    held = HELD | {"s3": off * HELD["s"].reshape(spread), "b3": HELD["b"].reshape(spread)}
    source = model(image, body, {"s": HELD["s"], "b": HELD["b"]}, opset=21, ir_version=10)
    result = model(image, RESULT, {name: held[name] for name in held if name not in "sb"}, opset=21, ir_version=10)
    setup = Setup(input_specs(ir.from_proto(source)), UserInputs(arrays={"x": FLAT}))
    return verify(evaluator, runnable(source, folder, "source"), runnable(result, folder, "result"), setup)


def test_a_source_that_rounds_worse_than_its_result(evaluator: Evaluator, tmp_path: Path) -> None:
    found = proof(evaluator, tmp_path)
    assert found.status == "equivalent", found
    assert found.max_rel > 1e-3
    assert EXACT in found.because


def test_a_result_that_is_further_away_than_its_source(evaluator: Evaluator, tmp_path: Path) -> None:
    assert proof(evaluator, tmp_path, off=1.02).status == "different"


def test_where_nothing_computes_in_float64_the_source_is_believed(
    evaluator: Evaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from normfold.proof import comparison

    whole = comparison.Comparison._load

    def load(self: Any, *given: Any, **computing: bool) -> Any:
        from normfold.runtime import Failed

        return Failed("unsupported", "") if computing.get("precise") else whole(self, *given, **computing)

    monkeypatch.setattr(comparison.Comparison, "_load", load)
    assert proof(evaluator, tmp_path).status == "different"


W = array(3, 3, 3, 3)
X = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
PRECISE: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "a convolution, for which ONNX Runtime has no kernel": ("y = Conv(x, w)", {"w": W}),
    "a cast": ("h = Cast <to = 10> (x)\nt = Cast <to = 1> (h)\ny = Mul(t, t)", {}),
    "numbers of nodes": ("c = Constant <value_float = 0.1> ()\ny = Mul(x, c)", {}),
    "generated numbers": ("k = ConstantOfShape(n)\nh = Mul(x, x)\ny = Add(h, k)", {"n": np.int64([1])}),
    "a branch": (
        (
            "c = Constant <value = bool {1}> ()\ny = If (c) <then_branch = a () => (float[] u) { u = Mul(x, k) }, "
            "else_branch = b () => (float[] v) { v = Neg(x) }>"
        ),
        {"k": np.float32([0.1])},
    ),
    "a norm of groups": ("y = GroupNormalization <num_groups = 1> (x, s, b)", {"s": array(3), "b": array(3, seed=1)}),
}


@pytest.mark.parametrize("name", PRECISE)
def test_a_model_in_float64(name: str, evaluator: Evaluator, tmp_path: Path) -> None:
    body, held = PRECISE[name]
    file = runnable(model("float[2, 3, 8, 8] x", body, held, opset=21, ir_version=10), tmp_path, "m")

    def job(client: Any) -> tuple[np.ndarray, np.ndarray]:
        answers = []
        for precise in (False, True):
            loaded = client.load(file, precise=precise)
            assert isinstance(loaded, Loaded), loaded
            answers.append(client.run({"x": X}))
        assert all(isinstance(answer, Ran) for answer in answers), answers
        return answers[0].outputs["y"], answers[1].outputs["y"]

    plain, precise = evaluator.submit(job).result()
    assert (plain.dtype, precise.dtype) == (np.float32, np.float64)
    if "cast" not in name:
        np.testing.assert_allclose(plain, precise, rtol=0, atol=1e-5)
    # What was rounded on the way would be a number of float32.
    assert np.any(precise != precise.astype(np.float32))
