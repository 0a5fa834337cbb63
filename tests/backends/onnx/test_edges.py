"""Numbers and axes at the edge: below the normal numbers, of eight bits, and channels that a Resize mixes."""

from __future__ import annotations

import numpy as np
import pytest

import normfold
from folding import Arrays, array, model, norm, proven_fold, statistics

TINY = np.array([5e-324, 1e-310, -1e-320])
CONV = "[linear] h = Conv(x, w)"


def doubles(body: str, constants: Arrays) -> normfold.FoldResult:
    held = {"w": array(3, 3, 1, 1, dtype=np.float64), **constants}
    return normfold.fold(model("double[1, 3, 4, 4] x", [CONV, body], held, outputs="double[] y"))


@pytest.mark.parametrize("name", ["s", "b", "m"])
def test_a_norm_of_doubles_below_the_normal_numbers_folds(name: str) -> None:
    result = doubles(norm("h", "y"), {**statistics(3, dtype=np.float64), name: TINY})
    assert [decision.outcome for decision in result.decisions] == ["folded"]
    assert result.verification.status == "equivalent"


@pytest.mark.parametrize(("operator", "outcome"), [("Mul", "folded"), ("Div", "kept")])
def test_a_scale_below_the_normal_numbers(operator: str, outcome: str) -> None:
    """Its reciprocal is no number."""
    result = doubles(f"y = {operator}(h, k)", {"k": TINY.reshape(3, 1, 1)})
    assert [decision.outcome for decision in result.decisions] == [outcome]
    assert result.verification.status == "equivalent"


@pytest.mark.parametrize(("kind", "number"), [("float8e4m3fn", 17), ("float8e5m2", 19)])
def test_outputs_of_eight_bits_are_compared(kind: str, number: int) -> None:
    body = [CONV, norm("h", "n"), f"y = Cast <to = {number}> (n)"]
    source = model(
        "float[1, 3, 4, 4] x",
        body,
        {"w": array(3, 3, 1, 1), **statistics(3)},
        outputs=f"{kind}[] y",
        opset=19,
        ir_version=9,
    )
    result = normfold.fold(source)
    assert [decision.outcome for decision in result.decisions] == ["folded"]
    assert result.verification.status == "equivalent"


@pytest.mark.parametrize(
    ("scales", "out", "mode"),
    [((1, 2, 1, 1), 6, "nearest"), ((1, 1.3, 1, 1), 3, "linear"), ((1, 1.3, 1, 1), 3, "nearest")],
    ids=["larger", "as large but resampled", "as large"],
)
def test_a_resize_along_the_channels_lets_no_map_of_them_through(
    scales: tuple[float, ...], out: int, mode: str
) -> None:
    body = [
        "r0 = Sigmoid(x)",
        norm("r0", "n"),
        f'[resize] r = Resize <mode = "{mode}"> (n, "", k)',
        "[linear] y = Conv(r, w)",
    ]
    held = {"k": np.array(scales, np.float32), "w": array(2, out, 1, 1), **statistics(3)}
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, held, opset=13))
    assert "Resize" in folded.operators
    assert "BatchNormalization" in folded.operators


def test_a_resize_of_space_lets_it_through() -> None:
    body = ["r0 = Sigmoid(x)", norm("r0", "n"), '[resize] r = Resize <mode = "nearest"> (n, "", k)', "y = Conv(r, w)"]
    held = {"k": np.array([1, 1, 2, 2], np.float32), "w": array(2, 3, 1, 1), **statistics(3)}
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, held, opset=13))
    assert "BatchNormalization" not in folded.operators
