"""``a*(x + z) + d = (a x + d) + a z``, exactly; the counter-examples of the law are what its rules refuse."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linear_reference import integers, powers


@given(st.data(), st.sampled_from([1, -1]))
def test_sums(data: st.DataObject, sign: int) -> None:
    x, z = integers(data.draw, 2, 3, 4), integers(data.draw, 2, 3, 4)
    a, d = powers(data.draw, 3, 1), integers(data.draw, 3, 1)
    whole = a * (x + sign * z) + d
    assert np.array_equal(whole, (a * x + d) + sign * (a * z))
    assert np.array_equal(whole, a * x + sign * (a * z + sign * d))


def test_counter_examples() -> None:
    assert 2 * (1 + 1) != 2 * 1 + 1
    assert (1 + 1) + 3 != (1 + 3) + (1 + 3)
