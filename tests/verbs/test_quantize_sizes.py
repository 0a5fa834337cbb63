"""`normfold.quantize` of models whose sizes are computed at run time, on feeds of different lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import normfold
from folding import array, model


@pytest.fixture
def net(tmp_path: Path) -> Path:
    body = [
        "[p] h = MatMul(x, w1)",
        "[s] s = Shape(x)",
        "[f] f = Slice(s, zero, two)",
        "[c] c = Concat<axis=0>(f, four)",
        "[r] r = Reshape(h, c)",
        "[t] t = Transpose<perm=[0, 2, 1, 3]>(r)",
        "[q] q = MatMul(t, w2)",
        "[a] a = Relu(q)",
        "[l] y = MatMul(a, w3)",
    ]
    held = {
        "w1": array(16, 32),
        "w2": array(8, 16, seed=1),
        "w3": array(16, 16, seed=2),
        "zero": np.array([0], np.int64),
        "two": np.array([2], np.int64),
        "four": np.array([4, 8], np.int64),
    }
    onnx.save(model("float[N,T,16] x", body, held), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def ragged() -> Iterator[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    for length in (5, 9, 17, 2):
        yield {"x": generator.standard_normal((3, length, 16)).astype(np.float32)}


@pytest.mark.parametrize("form", ["qdq", "contrib"])
def test_feeds_of_different_lengths(net: Path, tmp_path: Path, form: str) -> None:
    target = tmp_path / "out.onnx"
    done = normfold.quantize(
        net, calibrate=ragged, format=form, unmeasured=True, output=target, shapes={"x": (2, 7, 16)}
    )
    assert done.verification.status == "within-budget"
    assert any(node.width == "int8" for node in done.nodes)
    ours, theirs = (onnxruntime.InferenceSession(str(file)) for file in (target, net))
    for feed in ragged():
        wanted, found = (session.run(None, feed)[0] for session in (theirs, ours))
        assert np.square(wanted - found).mean() < 2e-3 * wanted.var()
