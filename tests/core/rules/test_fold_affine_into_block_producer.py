"""Scales of blocks take any scale of their output; codes and zero points stay to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from blocks import BLOCKS, OUTPUTS, TOKENS, held, network, product
from folding import Example, Folded, array, norm, only_fold, proven_fold, statistics

AFFINE = ["[scale] t = Mul(h, k)", "y = Add(t, d)"]
CONSTANTS = {"k": array(OUTPUTS, seed=2), "d": array(OUTPUTS, seed=3)}


def stored(folded: Folded) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in folded.result.graph.initializer}


KERNELS = [
    (bits, zeros) for bits in (2, 4, 8) for zeros in ("", "packed", "numbers") if (bits, zeros) != (8, "numbers")
]
"""What ONNX Runtime has on CPUs."""


@pytest.mark.parametrize(("bits", "zeros"), KERNELS)
def test_a_scale_and_a_shift(bits: int, zeros: str) -> None:
    constants = held(bits=bits, zeros=zeros)
    source = network([product(y="h", bits=bits, zeros=zeros), *AFFINE], constants | CONSTANTS)
    folded = proven_fold(source)
    assert folded.operators == ["MatMulNBits"]
    assert (folded.decision.site, folded.decision.into) == ("scale", ("linear",))
    after = stored(folded)
    assert all(np.array_equal(after[name], constants[name]) for name in constants if name not in ("qs", "qb"))
    wanted = constants["qs"].astype(np.float64) * CONSTANTS["k"][:, None]
    assert np.array_equal(after["qs"], wanted.astype(np.float32))


@pytest.mark.parametrize("level", [1, 4])
def test_whatever_the_kernel(level: int) -> None:
    source = network([product(y="h", level=level), *AFFINE], held() | CONSTANTS)
    assert proven_fold(source, tolerance=2e-5).operators == ["MatMulNBits"]


def test_scales_in_one_row() -> None:
    constants = held()
    constants["qs"] = constants["qs"].reshape(-1)
    folded = proven_fold(network([product(y="h"), *AFFINE], constants | CONSTANTS))
    assert stored(folded)["qs"].shape == (OUTPUTS * BLOCKS,)


def test_a_norm() -> None:
    source = network([product(y="h"), norm("h", "y")], held() | statistics(OUTPUTS), TOKENS.replace("2, 3, ", "5, "))
    assert proven_fold(source).operators == ["MatMulNBits"]


def test_without_a_bias_the_shift_stays() -> None:
    """As the bias of any other matrix product."""
    source = network(
        [product(y="h", bias=False), norm("h", "y")], held(bias=False) | statistics(OUTPUTS), "float[5, 40] x"
    )
    folded = proven_fold(source)
    assert folded.operators == ["MatMulNBits", "Add"]
    assert folded.decision.outcome == "folded"


def test_a_scale_of_zero() -> None:
    source = network([product(y="h"), *AFFINE], held() | CONSTANTS | {"k": np.float32([0, 1, 2, 3, 4, 5])})
    assert proven_fold(source).operators == ["MatMulNBits"]


def test_a_folded_product_folds_again() -> None:
    once = proven_fold(network([product(y="h"), *AFFINE, "z = Identity(y)"], held() | CONSTANTS)).result
    assert proven_fold(once).decisions == {}


def refused(constants: dict[str, np.ndarray], *affine: str) -> Folded:
    body = [product(y="h"), *(affine or AFFINE)]
    return only_fold(network(body, held() | {k: v for k, v in (CONSTANTS | constants).items() if k in " ".join(body)}))


def test_refused_because_of_another_axis() -> None:
    folded = refused({"k": array(3, 1)}, "[scale] y = Mul(h, k)")
    assert "per-output-channel" in folded.refused


def test_refused_because_a_constant_is_no_number() -> None:
    """And not because what comes of it is too large."""
    folded = refused({"k": np.full(OUTPUTS, np.inf, "f")})
    assert "finite" in folded.refused
    assert "the folded" not in folded.because("representable")


def test_refused_because_the_shift_is_too_large() -> None:
    halves = {k: v.astype(np.float16) for k, v in CONSTANTS.items()} | {"d": np.full(OUTPUTS, 6e4, np.float16)}
    constants = held(kind=np.float16) | {"k": halves["k"], "d": halves["d"]}
    constants["qb"] = np.full(OUTPUTS, 6e4, np.float16)
    constants["k"] = np.full(OUTPUTS, 2, np.float16)
    folded = only_fold(network([product(y="h"), *AFFINE], constants, TOKENS.replace("float", "float16")))
    assert "representable" in folded.refused


def test_refused_because_a_scale_is_too_small() -> None:
    assert "normal-scale" in refused({"k": np.full(OUTPUTS, 1e-37, "f")}).refused


CHANGES = {
    "blocks-in-another-order": ("scale-axis", {"g": np.arange(40, dtype=np.int32) // 16}),
    "a-weight-of-another-size": ("well-formed", {"q": held()["q"][:, :2]}),
    "scales-of-another-size": ("well-formed", {"qs": held()["qs"][:, :2]}),
    "zero-points-of-another-size": ("well-formed", {"packed": np.zeros((OUTPUTS, 9), np.uint8)}),
    "zero-points-of-another-type": ("whole-codes", {"packed": np.zeros((OUTPUTS, BLOCKS), np.int32)}),
    "three-bits": ("well-formed", {}),
    "a-weight-of-signed-bytes": ("well-formed", {"q": held()["q"].astype(np.int8)}),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_is_not_read(case: str) -> None:
    premise, change = CHANGES[case]
    node = product(y="h", zeros="packed" if "packed" in change else "")
    if "g" in change:
        node = node.replace(", , , qb", ", , g, qb")
    node = node.replace("bits = 4", "bits = 3") if case == "three-bits" else node
    affine = norm("h", "y")
    folded = only_fold(network([node, affine], held() | change | statistics(OUTPUTS), "float[5, 40] x"))
    assert premise in folded.refused


def test_a_weight_that_is_computed_is_not_read() -> None:
    constants = held()
    del constants["q"]
    inputs = f"{TOKENS.replace('2, 3, ', '5, ')}, uint8[{OUTPUTS}, {BLOCKS}, 8] q"
    folded = only_fold(network([product(y="h"), norm("h", "y")], constants | statistics(OUTPUTS), inputs))
    assert "constant" in folded.refused


EXAMPLES = (Example(network([product(y="h"), *AFFINE], held() | CONSTANTS)),)
