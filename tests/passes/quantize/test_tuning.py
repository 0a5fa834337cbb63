"""Parts of the recipe that stay only where they help."""

from __future__ import annotations

import numpy as np

from normfold.core.integers.plan import Plan
from normfold.core.integers.ranges import Seen, min_max
from normfold.core.integers.rounding import Spread
from normfold.core.integers.steps import Linear, Network
from normfold.core.integers.weights import FULL, Coder
from normfold.passes.quantize.tuning import Tuner, Tuning

WEIGHT = np.random.default_rng(0).standard_normal((4, 8))
STEP = Linear(name="s", operator="Gemm", inputs=("x",), output="y", weight=WEIGHT, bias=np.zeros(4))
MIXED = np.random.default_rng(1).standard_normal((100, 2)) @ np.random.default_rng(2).standard_normal((2, 8))
SPREAD = Spread(np.zeros((1, 8)), (MIXED.T @ MIXED)[None] / 100)


def tuned(loss) -> Tuner:
    counts = np.zeros(8192, np.int64)
    counts[4096 : 4096 + 2048] = 1000
    counts[-1] = 1
    seen = {"x": Seen(0.0, 1.0, counts, 1.0, np.zeros(8), np.ones(8))}
    network = Network((STEP,), ("x",), ("y",), {"x": ("N", 8), "y": ("N", 4)}, frozenset("xy"))
    tuner = Tuner(loss, lambda _: None, Tuning(network, seen, min_max, Coder(FULL)))
    tuner.run({STEP: SPREAD}, FULL)
    return tuner


def rounded_plainly(plan: Plan) -> bool:
    return np.array_equal(plan.weights[STEP].codes, tuned(lambda _: 1.0).best.plan().weights[STEP].codes)


def test_the_first_way_stays_where_nothing_is_better() -> None:
    found = tuned(lambda _: 1.0)
    assert [choice.name for choice in found.choices if choice.kept] == ["ranges by min-max"]
    assert (found.least, len(found.choices)) == (1.0, 5)


def test_what_helps_stays() -> None:
    """The loss is the range, so the narrowest wins; and plain rounding is worse."""
    found = tuned(lambda plan: plan.codes["x"].scale + (1.0 if rounded_plainly(plan) else 0.0))
    kept = [choice.name for choice in found.choices if choice.kept]
    assert kept[0] == "ranges by min-max"
    assert kept[-1] == "weights rounded by second moments"
    assert found.best.plan().codes["x"].scale < 0.9 / 255


def test_what_harms_does_not() -> None:
    found = tuned(lambda plan: 0.0 if rounded_plainly(plan) else 1.0)
    assert not found.choices[-1].kept
    assert rounded_plainly(found.best.plan())
