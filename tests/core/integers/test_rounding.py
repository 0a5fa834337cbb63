"""Rounding by second moments: errors that the other weights take back."""

import numpy as np
import pytest

from normfold.core.integers.ranges import Codes
from normfold.core.integers.rounding import Spread, rounded
from normfold.core.integers.steps import Linear
from normfold.core.integers.weights import Coder

SHARED = np.random.default_rng(0).standard_normal((4000, 3))
MIXED = SHARED @ np.random.default_rng(1).standard_normal((3, 24)) + 0.3 * np.random.default_rng(2).standard_normal(
    (4000, 24)
)
"""Inputs that go together, as those of trained networks do, with a mean of their own each."""
INPUTS = MIXED + np.arange(24) / 6


def spread_of(inputs, groups=1):
    apart = inputs.reshape(len(inputs), groups, -1).transpose(1, 0, 2)
    return Spread.of(len(inputs), apart.sum(1), apart.transpose(0, 2, 1) @ apart)


def weight(rows, columns):
    return np.random.default_rng(3).standard_normal((rows, columns))


def test_the_errors_of_outputs_are_far_smaller_than_with_plain_rounding():
    given, spread = weight(16, 24), spread_of(INPUTS)
    scale = np.abs(given).max(1) / 15
    found = rounded(given[None], scale[None], spread, 15)[0]
    plain = np.clip(np.rint(given / scale[:, None]), -15, 15)
    centred = INPUTS - INPUTS.mean(0)
    errors = [np.square(centred @ (codes * scale[:, None] - given).T).sum() for codes in (found, plain)]
    assert errors[0] < 0.4 * errors[1]
    assert np.abs(found).max() <= 15
    assert (found == np.rint(found)).all()


def test_inputs_that_have_nothing_to_do_with_one_another_are_rounded_plainly():
    given = weight(4, 24)
    scale = np.abs(given).max(1) / 15
    spread = Spread(np.zeros((1, 24)), np.eye(24)[None])
    found = rounded(given[None], scale[None], spread, 15)[0]
    assert np.array_equal(found, np.clip(np.rint(given / scale[:, None]), -15, 15))


def test_groups_are_rounded_apart():
    given, spread = weight(6, 12), spread_of(INPUTS, groups=2)
    scale = np.abs(given).max(1) / 15
    whole = rounded(given.reshape(2, 3, 12), scale.reshape(2, 3), spread, 15)
    for group in range(2):
        one = spread_of(INPUTS[:, 12 * group : 12 * (group + 1)])
        part = rounded(given.reshape(2, 3, 12)[group][None], scale.reshape(2, 3)[group][None], one, 15)
        assert np.array_equal(whole[group], part[0])


def test_an_input_that_never_changes_does_no_harm():
    inputs = np.concatenate([INPUTS[:, :12], np.zeros((4000, 12))], axis=1)
    given = weight(4, 24)
    found = rounded(given[None], np.abs(given).max(1)[None] / 15, spread_of(inputs), 15)
    assert np.isfinite(found).all()
    assert np.isfinite(
        rounded(given[None], np.ones((1, 4)), Spread(np.zeros((1, 24)), np.zeros((1, 24, 24))), 15)
    ).all()


def test_a_multiple_of_the_input():
    factor = np.full((1, 24), 3.0)
    once, thrice = spread_of(INPUTS), spread_of(3 * INPUTS)
    assert np.allclose(once.times(factor).covariance, thrice.covariance)
    assert np.allclose(once.times(factor).mean, thrice.mean)


def test_the_bias_takes_back_what_rounding_makes_of_the_mean():
    given = weight(8, 24)
    step = Linear(name="s", operator="Gemm", inputs=("x",), output="y", weight=given, bias=np.zeros(8))
    source = Codes.of(float(INPUTS.min()), float(INPUTS.max()))
    found = Coder(7, {step: spread_of(INPUTS)}).coded(step, source, INPUTS.mean(0), np.square(INPUTS).mean(0))
    outputs = INPUTS @ found.values().T + found.bias * found.scale.astype(float) * source.scale
    wanted = INPUTS @ given.T
    assert np.abs((outputs - wanted).mean(0)).max() < 0.02 * wanted.std()
    assert np.abs((INPUTS @ found.values().T - wanted).mean(0)).max() > 0.02 * wanted.std()


def test_a_covariance_that_rounding_has_left_indefinite() -> None:
    """As means do that are large beside their deviations: it is damped more, and where nothing helps not used."""
    given = weight(8, 24)
    scale = np.abs(given).max(1)[None] / 7
    once = spread_of(INPUTS)
    for share in (0.05, 100.0):
        shift = share * np.einsum("gkk->gk", once.covariance).mean()
        lowest = np.linalg.eigvalsh(once.covariance).min()
        spread = Spread(once.mean, once.covariance - (lowest + shift) * np.eye(24))
        with pytest.raises(np.linalg.LinAlgError):
            np.linalg.cholesky(spread.covariance)
        assert np.isfinite(rounded(given[None], scale, spread, 7)).all()
