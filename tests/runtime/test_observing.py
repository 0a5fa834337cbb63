"""Statistics of values, kept while data stream by."""

import numpy as np

from normfold.runtime.workers.observing import CLOSELY, SELDOM, Observed


def observed(batches):
    found = Observed(-3)
    for turn, batch in enumerate(batches):
        found.add(batch, turn)
    return found


def test_means_and_squares_by_channel():
    batches = np.random.default_rng(0).standard_normal((3, 2, 4, 5, 5)).astype(np.float32)
    found = observed(batches)
    whole = batches.transpose(2, 0, 1, 3, 4).reshape(4, -1)
    assert np.allclose(found.total / found.elements, whole.mean(1), atol=1e-6)
    assert np.allclose(found.squares / found.elements, np.square(whole).mean(1), atol=1e-6)
    assert (found.low, found.high) == (whole.min(), whole.max())


def test_of_many_runs_one_in_four_is_looked_at_closely_and_the_ends_of_all_are_kept():
    batches = np.ones((CLOSELY + 4 * SELDOM, 1, 2, 3, 3), np.float32)
    batches[CLOSELY + 1, 0, 0, 0, 0] = 100.0
    found = observed(batches)
    assert found.high == 100.0
    assert found.elements == (CLOSELY + 4) * 9
    assert found.total.tolist() == [found.elements] * 2
    assert int(found.counts.sum()) == (CLOSELY + 4) * 18
    assert found.reach > 100.0 or found.counts[-1] == 0
