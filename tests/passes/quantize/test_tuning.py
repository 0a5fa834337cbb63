"""Parts of the recipe that stay only where they help."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normfold.core.integers.plan import Plan
from normfold.core.integers.ranges import Seen, min_max
from normfold.core.integers.rounding import Spread
from normfold.core.integers.steps import Linear, Network, Product, Sigmoid
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


def activated(loss) -> Tuner:
    gate = Sigmoid(name="g", operator="Gelu", inputs=("h",), output="gate", factor=1.7)
    product = Product(name="g", operator="Gelu", inputs=("h", "gate"), output="y")
    step = replace(STEP, output="h")
    last = Linear(name="t", operator="Gemm", inputs=("y",), output="z", weight=np.eye(4), bias=np.zeros(4))
    shapes = {"x": ("N", 8), **dict.fromkeys(["h", "gate", "y", "z"], ("N", 4))}
    counts = np.ones(8192, np.int64)
    seen = {value: Seen(-1.0, 1.0, counts, 1.0) for value in shapes}
    network = Network((step, gate, product, last), ("x",), ("z",), shapes, frozenset(shapes))
    tuner = Tuner(loss, lambda _: None, Tuning(network, seen, min_max, Coder(FULL)))
    tuner.run({}, FULL)
    return tuner


def has_gelu(plan: Plan) -> bool:
    return any(step.operator == "Gelu" for step in plan.integer)


def test_gelus_become_exact_where_that_halves_the_noise() -> None:
    found = activated(lambda plan: 1.0 if has_gelu(plan) else 0.4)
    assert not has_gelu(found.best.plan())
    assert {step.operator for step in found.best.plan().kept} == {"Gelu"}


def test_gelus_stay_on_codes_where_exact_ones_gain_less() -> None:
    found = activated(lambda plan: 1.0 if has_gelu(plan) else 0.6)
    assert has_gelu(found.best.plan())
    assert not found.choices[-1].kept
