"""The values of options: what is understood, and what is refused."""

from __future__ import annotations

import click
import pytest

from normfold.cli import param_types as types
from normfold.cli.options import sizes_by_name
from normfold.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("90s", 90.0), ("1.5s", 1.5), ("15m", 900.0), ("2h", 7200.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert types.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "3", "s", "-3s", "0s", "0ms", "3 s", "3S", "3d", "1e3s", "inf", "3s4ms", "\u0663s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not a duration such as 500ms, 90s or 15m"):
        types.duration(text)


def test_shapes() -> None:
    assert types.shape("a=b=1x3") == types.ShapedInput("a=b", (1, 3))
    assert types.shape("x=") == types.ShapedInput("x", ())
    assert types.shape("ids=1x8:int64:1000") == types.ShapedInput("ids", (1, 8), "int64", 1000, typed=True)


@pytest.mark.parametrize("text", ["x", "=1x3", "x=1x0", "x=1x", "x=1,3", "x=1x3:int65", "x=2:int8:129", "x=2:int8:1:1"])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(click.BadParameter):
        types.shape(text)


def test_an_onnx_model_states_its_types_itself() -> None:
    assert sizes_by_name([types.shape("x=1x3"), types.shape("y=")]) == {"x": (1, 3), "y": ()}
    for given in ((types.shape("x=1:int64"),), ()):
        with pytest.raises(UsageError, match="is for PyTorch modules"):
            sizes_by_name(given, weights=None if given else "w.pth")


def test_counts_and_indices() -> None:
    assert types.counts("1,8,1") == (1, 8)
    assert types.indices("0,3") == (0, 3)
    with pytest.raises(click.BadParameter):
        types.counts("0,1")
