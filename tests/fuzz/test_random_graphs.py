"""No fold of a random network is wrong. `benchmarks/fuzz_fold.py` runs the same check on many more."""

from __future__ import annotations

from collections import Counter

import pytest

from fuzz.builder import NotPossibleError
from fuzz.checking import check_seed
from fuzz.graphs import random_model

BATCHES = 8
BATCH = 40


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_fold_of_random_networks_is_right(batch: int) -> None:
    outcomes = [check_seed(seed) for seed in range(batch * BATCH, (batch + 1) * BATCH)]
    wrong = [f"seed {outcome.seed}: {outcome.reason}" for outcome in outcomes if outcome.status == "wrong"]
    assert not wrong, "\n".join(wrong)
    kinds = Counter(outcome.status for outcome in outcomes)
    assert kinds["skipped"] <= 0.1 * BATCH, kinds
    assert kinds["rounding"] <= 0.2 * BATCH, kinds
    assert sum(outcome.folded for outcome in outcomes) >= BATCH


def test_a_seed_gives_one_network() -> None:
    first, second = (random_model(3).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_the_networks_are_mixed() -> None:
    operators: Counter[str] = Counter()
    for seed in range(300):
        try:
            model = random_model(seed)
        except NotPossibleError:
            continue
        operators.update(node.op_type for node in model.graph.node)
    wanted = {"BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "Concat", "Split", "Pad", "Resize", "If"}
    assert wanted <= {kind for kind, count in operators.items() if count >= 5}
