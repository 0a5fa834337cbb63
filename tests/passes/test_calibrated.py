"""The numerics of calibrated conversions: moments, the closed form of a live norm, refits."""

import numpy as np
import pytest

from normfold.passes.convert.calibrated.design import Shape, _Problem, design, evaluated
from normfold.passes.convert.calibrated.moments import Gatherer, SampleMoments
from normfold.passes.convert.calibrated.refit import affine, ridge

RNG = np.random.default_rng(0)


def gathered(batches, axis=-3, **kwargs):
    gatherer = Gatherer(axis, **kwargs)
    for batch in batches:
        gatherer.add(batch)
    return gatherer.moments()


def test_moments_do_not_depend_on_how_the_stream_is_cut():
    x = RNG.normal(3.0, 2.0, (10, 4, 5, 6)).astype(np.float32)
    whole, parts = gathered([x]), gathered([x[:3], x[3:4], x[4:]])
    assert np.allclose(whole.first, x.mean((2, 3)), atol=1e-5)
    assert np.allclose(whole.second, (x.astype(np.float64) ** 2).mean((2, 3)), rtol=1e-5)
    assert np.allclose(whole.first, parts.first, atol=1e-6)
    assert np.allclose(whole.variance, x.astype(np.float64).var((0, 2, 3)), rtol=1e-4)


def test_a_large_mean_does_not_swallow_the_variance():
    x = (1e4 + RNG.normal(0.0, 1.0, (16, 3, 8, 8))).astype(np.float32)
    exact = x.astype(np.float64).var((0, 2, 3))
    assert np.allclose(gathered([x]).variance, exact, rtol=1e-3)
    naive = (x**2).mean((0, 2, 3)) - x.mean((0, 2, 3)) ** 2
    assert not np.allclose(naive, exact, rtol=1e-2)


def test_rows_are_positions_where_a_norm_is_over_each():
    x = RNG.normal(size=(6, 5, 3, 3))
    rows = gathered([x], per_position=True)
    assert rows.first.shape == (6 * 8, 5)
    assert np.array_equal(rows.second, rows.first**2)
    positions = {tuple(row) for row in np.moveaxis(x, 1, -1).reshape(-1, 5)}
    assert all(tuple(row) in positions for row in rows.first)


def live(x, shape, scale, offset, centred):
    """What the norm makes of standardised ``x`` [N, C, positions], and what an affine map of it leaves unexplained."""
    u = x * scale[:, None] + offset[:, None]
    rows = u.reshape(len(x), shape.groups, -1)
    mean = rows.mean(-1, keepdims=True) if centred else 0.0
    variance = ((rows - mean) ** 2).mean(-1, keepdims=True)
    return ((rows - mean) / np.sqrt(variance + shape.epsilon)).reshape(x.shape)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_closed_form_is_what_the_norm_computes(groups, centred):
    x = RNG.normal(size=(40, 6, 9)) * RNG.uniform(0.5, 1.5, (40, 1, 1)) + 0.3 * RNG.normal(size=(40, 6, 1))
    z = SampleMoments(x.mean(2), (x**2).mean(2))
    shape, scale, offset = Shape(groups, 0.1, centred), RNG.normal(size=6), RNG.normal(size=6)
    found = evaluated(z, shape, scale, offset)
    v = live(x, shape, scale, offset, centred)
    r2 = [np.corrcoef(v[:, c].ravel(), x[:, c].ravel())[0, 1] ** 2 for c in range(6)]
    assert np.allclose(found.r_squared, r2, atol=1e-9)
    back = v * found.slope[:, None] + found.intercept[:, None]
    assert np.allclose(back.mean((0, 2)), x.mean((0, 2)), atol=1e-9)
    assert np.allclose(back.std((0, 2)), x.std((0, 2)), atol=1e-9)


@pytest.mark.parametrize("centred", [True, False])
def test_the_gradient_of_the_closed_form(centred):
    p = RNG.normal(size=(40, 12))
    problem = _Problem(SampleMoments(p, p**2 + RNG.random((40, 12))), Shape(3, 0.1, centred), RNG.random(12))
    point = RNG.normal(size=(2, 12))

    def error(at):
        return float((problem.weight * (1 - problem.design(*at).r_squared)).sum())

    numeric = np.zeros((2, 12))
    for k in np.ndindex(2, 12):
        step = np.zeros((2, 12))
        step[k] = 1e-6
        numeric[k] = (error(point + step) - error(point - step)) / 2e-6
    assert np.allclose(problem._gradient(problem.z, *point), numeric, atol=1e-6)


def correlated():
    """Channels that share a mean and a deviation in each sample: what a group norm takes away."""
    x = RNG.normal(size=(60, 8, 16)) * RNG.uniform(0.4, 1.6, (60, 1, 1)) + RNG.normal(size=(60, 1, 1))
    z = SampleMoments(x.mean(2), (x**2).mean(2))
    return z.standardised(z.mean, np.sqrt(z.variance))


def test_a_design_explains_more_than_none_and_offsets_explain_more_still():
    z, shape, weight = correlated(), Shape(1, 1e-5), np.ones(8)
    plain = evaluated(z, shape, np.ones(8), np.zeros(8))
    signed, shifted = design(z, shape, weight, 0.0), design(z, shape, weight, 1.0)
    assert plain.r_squared.mean() < signed.r_squared.mean() - 0.05
    assert signed.r_squared.mean() < shifted.r_squared.mean()
    assert {-1.0, 1.0} == set(np.sign(signed.scale))


def test_what_is_live_says_so_and_what_is_inert_too():
    z, shape, weight = correlated(), Shape(1, 1e-5), np.ones(8)
    shares = [design(z, shape, weight, most).constant_share for most in (0.0, 1.0, 3.0)]
    assert shares[0] < 1e-4
    assert 0.2 < shares[1] <= 0.81
    assert shares[1] < shares[2] < 1.0
    assert np.abs(design(z, shape, weight, 0.0).offset).max() == 0.0
    assert np.abs(design(z, shape, weight, 1.0).offset).max() <= 1.0


def test_the_same_seed_gives_the_same_design():
    p = RNG.normal(size=(900, 6))
    z = SampleMoments(p, p**2 + 1.0)
    one, other = (design(z, Shape(1, 1e-5), np.ones(6), 1.0, seed=3) for _ in range(2))
    assert np.array_equal(one.scale, other.scale)
    assert np.array_equal(one.offset, other.offset)


def test_a_ridge_refit_brings_the_output_back():
    before = RNG.normal(size=(4000, 5))
    now = before @ (np.eye(5) + 0.2 * RNG.normal(size=(5, 5))) + 0.5
    weight, bias = RNG.normal(size=(3, 5)), RNG.normal(size=3)
    found = ridge(before, now, weight)
    wanted = before @ weight.T + bias
    error = ((now @ (weight + found.weight).T + bias + found.bias - wanted) ** 2).mean()
    untouched = ((now @ weight.T + bias - wanted) ** 2).mean()
    assert error < 0.1 * untouched


def test_a_refit_of_what_has_not_changed_changes_nothing():
    rows, weight = RNG.normal(size=(500, 4)), RNG.normal(size=(2, 4))
    found = ridge(rows, rows, weight)
    assert np.abs(found.weight).max() < 1e-9
    assert np.abs(found.bias).max() < 1e-9
    scale, shift = affine(rows, rows)
    assert np.allclose(scale, 1.0)
    assert np.allclose(shift, 0.0)


def test_an_affine_fit_leaves_a_channel_that_does_not_vary():
    before, now = RNG.normal(size=(100, 2)), np.zeros((100, 2))
    now[:, 1] = 2.0 * before[:, 1] + 1.0
    scale, shift = affine(before, now)
    assert np.allclose(scale, [1.0, 0.5])
    assert np.allclose(shift, [before[:, 0].mean(), -0.5])
