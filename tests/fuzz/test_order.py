"""Any order of the rules gives the same result, and every plan leaves less to do than there was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from descent import Descending
from fuzz.builder import NotPossibleError
from fuzz.graphs import random_model
from isomorphism import differences
from normfold.core import driver, rules
from normfold.core.rules import CARRIES, REWRITES
from normfold.records import Decision

BATCHES, BATCH = 4, 12
T = TypeVar("T")


def networks(batch: int) -> Iterator[tuple[int, onnx.ModelProto]]:
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        try:
            yield seed, random_model(seed)
        except NotPossibleError:
            continue


def shuffled(given: Sequence[T], seed: int) -> tuple[T, ...]:
    return tuple(given[place] for place in np.random.default_rng(seed).permutation(len(given)))


def folded(model: onnx.ModelProto) -> tuple[ir.Model, tuple[Decision, ...]]:
    graph = Descending(ir.from_proto(model))
    return graph.model, driver.fold(graph).decisions


@pytest.mark.parametrize("batch", range(BATCHES))
def test_any_order_of_rewrites(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, model in networks(batch):
        monkeypatch.setattr(driver, "REWRITES", REWRITES)
        first, decisions = folded(model)
        monkeypatch.setattr(driver, "REWRITES", shuffled(REWRITES, seed))
        second, again = folded(model)
        assert again == decisions, seed
        assert differences(first, second) == [], seed


@pytest.mark.parametrize("batch", range(BATCHES))
def test_any_order_of_carries(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several reasons why a norm stays, another may come first; nothing else differs."""
    for seed, model in networks(batch):
        monkeypatch.setattr(rules, "CARRIES", CARRIES)
        first, decisions = folded(model)
        monkeypatch.setattr(rules, "CARRIES", shuffled(CARRIES, seed))
        second, again = folded(model)
        assert list(map(outcome, again)) == list(map(outcome, decisions)), seed
        assert differences(first, second) == [], seed


def outcome(decision: Decision) -> tuple[object, ...]:
    """All of a decision but the reasons."""
    return decision.site, decision.norm, decision.outcome, decision.into, decision.rules
