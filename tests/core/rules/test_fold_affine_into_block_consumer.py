"""Scales of blocks take a scale of their inputs that does not differ within a block."""

from __future__ import annotations

import numpy as np
import pytest

from blocks import INPUTS, SIZE, TOKENS, held, network, product
from folding import Example, Folded, array, only_fold, proven_fold

STEPS = np.repeat(np.float32([0.5, -2.0, 3.0]), SIZE)[:INPUTS]
ONE = {"k": np.float32(0.3)}


def scaled(constants: dict[str, np.ndarray], *affine: str, level: int = 0, bias: bool = True) -> Folded:
    body = ["r = Sigmoid(x)", *(affine or ["[scale] t = Mul(r, k)"]), product("t", level=level, bias=bias)]
    source = network(body, held(bias=bias) | constants)
    return only_fold(source) if level else proven_fold(source)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("k", [np.float32(-0.3), STEPS])
def test_a_scale_by_block(k: np.ndarray, bias: bool) -> None:
    folded = scaled({"k": k}, bias=bias)
    assert folded.operators == ["Sigmoid", "MatMulNBits"]
    assert folded.decision.into == ("linear",)


def test_a_shift() -> None:
    folded = scaled({"k": STEPS, "d": array(INPUTS)}, "[scale] u = Mul(r, k)", "t = Add(u, d)")
    assert folded.operators == ["Sigmoid", "MatMulNBits"]


def test_refused_because_it_differs_within_a_block() -> None:
    folded = scaled({"k": array(INPUTS)})
    assert "same-codes" in folded.refused
    assert "block of 16" in folded.because("same-codes")


def test_refused_because_of_another_axis() -> None:
    assert "per-input-channel" in scaled({"k": array(3, 1)}).refused


def test_refused_because_the_input_is_rounded() -> None:
    folded = scaled({"k": STEPS}, level=4)
    assert "unrounded-input" in folded.refused
    assert "linear" in folded.because("unrounded-input")


def test_refused_because_a_constant_is_no_number() -> None:
    body = ["r = Sigmoid(x)", "[scale] t = Mul(r, k)", product("t")]
    folded = only_fold(network(body, held() | {"k": np.full(INPUTS, np.inf, "f")}))
    assert "finite" in folded.refused


def test_refused_because_a_scale_is_too_small() -> None:
    assert "normal-scale" in scaled({"k": np.full(INPUTS, 1e-37, "f")}).refused


def test_refused_because_the_bias_would_be_too_large() -> None:
    body = ["r = Sigmoid(x)", "[scale] u = Mul(r, k)", "t = Add(u, d)", product("t")]
    constants = held(kind=np.float16) | {"k": np.full(INPUTS, 2, np.float16), "d": np.full(INPUTS, 5e4, np.float16)}
    constants["qs"] = np.full(constants["qs"].shape, 100, np.float16)
    folded = only_fold(network(body, constants, TOKENS.replace("float", "float16")))
    assert "representable" in folded.refused


EXAMPLES = (Example(network(["r = Sigmoid(x)", "t = Mul(r, k)", product("t")], held() | ONE)),)
