"""The ways to write a norm out come to the same, exactly; epsilon outside of the root does not."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.lists(st.integers(-100, 100).map(Fraction), min_size=1, max_size=8)


def mean(values: list[Fraction]) -> Fraction:
    return sum(values, Fraction()) / len(values)


@given(NUMBERS)
def test_two_ways_to_a_variance(x: list[Fraction]) -> None:
    centred = [value - mean(x) for value in x]
    assert mean([value**2 for value in centred]) == mean([value**2 for value in x]) - mean(x) ** 2


@given(st.fractions(), st.fractions(), st.fractions(), st.fractions(), st.fractions(min_value="1/100"))
def test_a_scale_inside(x: Fraction, m: Fraction, g: Fraction, b: Fraction, d: Fraction) -> None:
    assert g * (x - m) / d + b == x * (g / d) + (b - m * (g / d)) == g * ((x - m) * (1 / d)) + b


def test_counter_example() -> None:
    variance, epsilon = 0.0, 1e-4
    assert 1 / (variance**0.5 + epsilon) != 1 / (variance + epsilon) ** 0.5
