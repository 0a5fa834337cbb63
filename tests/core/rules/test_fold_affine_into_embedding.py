"""``Gather(table, x) -> affine`` becomes ``Gather``; ``a*E[i] + d = (a E + d)[i]``, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folding import Example, array, model, only_fold, proven_fold
from linear_reference import apply, integers, powers
from normfold.core.algebra import Affine, Table
from normfold.core.algebra.weight import Dense
from normfold.core.laws.rows import map_rows

TOKENS = "int64[2, 5] x"
FEEDS = {"x": np.array([[0, 3, 3, 6, 1], [2, 5, -1, 4, 0]])}
LOOKUP = "[table] h = Gather(e, x)"
ARITHMETIC = ["[scale] t = Mul(h, k)", "y = Add(t, d)"]
HELD = {"e": array(7, 4), "k": array(4, seed=1), "d": array(4, seed=2)}


@given(st.data(), st.lists(st.integers(1, 4), max_size=2), st.booleans())
def test_the_law(data: st.DataObject, sizes: list[int], twice: bool) -> None:
    rows, x = integers(data.draw, 6, *sizes), np.array([[5, 0, 0], [2, 3, 1]])
    affine = Affine.of(powers(data.draw, *sizes), integers(data.draw, *sizes))
    wanted, table = apply(affine, rows[x]), map_rows(Table(Dense(rows), rows.shape, Affine.of()), affine)
    assert table is not None
    if twice:
        wanted, table = apply(affine, wanted), map_rows(table, affine)
        assert table is not None
    assert np.array_equal(table.native()[x], wanted)
    assert table.magnitude() == np.abs(table.native()).max()


def test_a_map_along_the_tokens_is_another_function() -> None:
    rows = np.arange(12.0).reshape(3, 4)
    assert map_rows(Table(Dense(rows), (3, 4), Affine.of()), Affine.of(np.ones((4, 1)) * 2)) is None
    assert map_rows(Table(Dense(rows), (3, 4), Affine.of()), Affine.of(np.arange(3.0))) is None
    assert not np.array_equal((np.arange(4.0)[:, None] * rows[[1, 1, 2, 0]])[0], (np.arange(4.0) * rows)[1])


def test_before_and_after() -> None:
    folded = proven_fold(model(TOKENS, [LOOKUP, *ARITHMETIC], HELD), feeds=FEEDS)
    assert folded.operators == ["Gather"]
    assert folded.decision.rules == ("fold_affine_into_embedding",)
    assert folded.decision.into == ("table",)


@pytest.mark.parametrize("table", ["Identity(e)", "Transpose <perm = [0, 1]> (e)", "Cast <to = 1> (e)"])
def test_a_table_behind_a_constant_expression(table: str) -> None:
    assert proven_fold(
        model(TOKENS, [f"u = {table}", "h = Gather(u, x)", *ARITHMETIC], HELD), feeds=FEEDS
    ).operators == ["Gather"]


def test_rows_of_several_axes() -> None:
    held = {"e": array(7, 4, 3), "k": array(4, 1, seed=1), "d": array(4, 3, seed=2)}
    assert proven_fold(model(TOKENS, [LOOKUP, *ARITHMETIC], held), feeds=FEEDS).operators == ["Gather"]


def test_several_maps_round_once() -> None:
    body = [LOOKUP, "t = Mul(h, k)", "u = Relu(t)", "v = Mul(u, l)", "y = MatMul(v, w)"]
    held = {"e": array(7, 4), "k": np.full(4, 3, np.float32), "l": np.full(4, np.float32(1) / 3, np.float32)}
    held["w"] = array(4, 3)
    folded = proven_fold(model(TOKENS, body, held), feeds=FEEDS)
    assert folded.operators == ["Gather", "Relu", "MatMul"]
    wanted = held["e"].astype(np.float64) * 3 * np.float64(np.float32(1) / 3)
    assert np.array_equal(folded.constant("e"), wanted.astype(np.float32))


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_refused_because_not_finite(number: float) -> None:
    held = HELD | {"k": np.array([1, number, 1, 1], np.float32)}
    folded = only_fold(model(TOKENS, [LOOKUP, *ARITHMETIC], held))
    assert "finite" in folded.refused
    assert "the folded table" not in folded.because("representable")  # that it is too large is not the reason


def test_refused_because_not_per_output_channel() -> None:
    body = [LOOKUP, "y = Mul(h, k)", "z = MatMul(y, w)"]
    held = {"e": array(7, 4), "k": array(5, 1), "w": array(4, 3)}
    folded = proven_fold(model(TOKENS, body, held, outputs="float[] z"), feeds=FEEDS)
    assert "per-output-channel" in folded.refused


def test_refused_because_not_representable() -> None:
    held = {"e": array(7, 4, dtype=np.float16), "k": np.full(4, 60000, np.float16), "d": np.ones(4, np.float16)}
    source = model(TOKENS, [LOOKUP, *ARITHMETIC], held, outputs="float16[] y")
    assert "representable" in only_fold(source).refused


def test_refused_because_of_another_axis() -> None:
    body = ["[table] h = Gather <axis = 1> (e, x)", "[scale] t = Mul(h, k)", "y = Add(t, d)"]
    held = {"e": array(4, 7), "k": array(4, 1, 1, seed=1), "d": array(4, 1, 1, seed=2)}
    folded = proven_fold(model(TOKENS, body, held), feeds=FEEDS)
    assert "row-axis" in folded.refused
    assert proven_fold(model(TOKENS, ["h = Gather <axis = -2> (e, x)", *ARITHMETIC], HELD), feeds=FEEDS).operators == [
        "Gather"
    ]


@pytest.mark.parametrize("tied", ["z = MatMul(y, u)", "z = Gather(e, x)"])
def test_refused_because_the_table_has_another_reader(tied: str) -> None:
    body = [LOOKUP, *ARITHMETIC, "u = Transpose <perm = [1, 0]> (e)", tied]
    folded = proven_fold(model(TOKENS, body, HELD, outputs="float[] y, float[] z"), feeds=FEEDS)
    assert "parameter-untied" in folded.refused


def test_refused_because_a_caller_may_set_the_table() -> None:
    source = model(f"{TOKENS}, float[7, 4] e", [LOOKUP, *ARITHMETIC], HELD)
    assert "not-overridable" in proven_fold(source, feeds=FEEDS).refused


def test_refused_because_the_table_is_computed() -> None:
    source = model(f"{TOKENS}, float[7, 4] e", [LOOKUP, *ARITHMETIC], {"k": HELD["k"], "d": HELD["d"]})
    assert "linear-producer" in proven_fold(source, feeds=FEEDS | {"e": HELD["e"]}).refused


EXAMPLES = (Example(model(TOKENS, [LOOKUP, *ARITHMETIC], HELD | {"e": array(16, 4)})),)


def networks() -> dict[str, Any]:
    """What both backends are asked."""
    import torch
    from torch import nn

    from shared_cases import FOLDED, KEPT, Case, Scale, net

    def tokens(table: nn.Module, norm: nn.Module, head: nn.Module) -> Any:
        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.table(x.long().abs() % 7).transpose(1, 2)).transpose(1, 2)).tanh()

        return net(forward, table=table, norm=norm, head=head)

    def tied() -> nn.Module:
        module = tokens(nn.Embedding(7, 4), nn.BatchNorm1d(4), nn.Linear(4, 7, bias=False))()
        module.head.weight = module.table.weight
        return module

    shape = (2, 5)
    return {
        "embedding-bn": Case(tokens(nn.Embedding(7, 4), nn.BatchNorm1d(4), nn.Sigmoid()), shape, (FOLDED,)),
        "embedding-with-padding-bn": Case(
            tokens(nn.Embedding(7, 4, padding_idx=0), nn.BatchNorm1d(4), nn.Sigmoid()), shape, (FOLDED,)
        ),
        "embedding-layerscale": Case(
            net(
                lambda self, x: self.scale(self.table(x.long().abs() % 7)).tanh(),
                table=nn.Embedding(7, 4),
                scale=Scale(4),
            ),
            shape,
            (FOLDED,),
        ),
        "embedding-tied-bn": Case(tied, shape, (FOLDED,), tree=(KEPT,), tree_premise="parameter-untied"),
    }
