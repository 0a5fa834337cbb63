"""Values as polynomials in what a norm is made of.

Relative to one value ``x`` and some of its axes, the operations that write a norm out compute sums of products of four
things: ``x``, its mean ``m``, the mean ``q`` of its square, and ``r``, one over the root of a variance plus epsilon.
What a chain of them amounts to is then read off the result, however it was put together: ``x*r*g - m*r*g + b`` is a
LayerNorm, ``x*r*g`` an RMSNorm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from normfold.core.algebra.affine import Affine, Array, trim

CLOSE: Final = 1e-6
"""How far ``n * float32(1/n)`` may be from one: a unit of rounding of float32, in which means are computed."""
MOST_TERMS: Final = 12
"""Terms of a polynomial: a norm has up to five."""


class Powers(NamedTuple):
    """How often each of the four is a factor."""

    x: int = 0
    m: int = 0
    q: int = 0
    r: int = 0


ONE, X, MEAN, SQUARE = Powers(), Powers(x=1), Powers(m=1), Powers(q=1)
MEAN_SQUARED: Final = Powers(m=2)
SCALED, CENTRE = Powers(x=1, r=1), Powers(m=1, r=1)

Layout = Literal["any", "whole", "reduced"]
"""Of what rank: a number fits everywhere, statistics without the axes that were reduced fit only each other."""


@dataclass(frozen=True, eq=False, slots=True)
class Polynomial:
    """A sum of products of powers, each with its coefficients, right-aligned with ``x``."""

    terms: Mapping[Powers, Array]
    layout: Layout = "whole"

    @staticmethod
    def constant(values: Array) -> Polynomial:
        """A constant; one number has every layout."""
        values = trim(values)
        return Polynomial({ONE: values}, "whole" if values.ndim else "any")

    def get(self, powers: Powers) -> Array:
        """The coefficients of one product."""
        return self.terms.get(powers, np.zeros(()))

    def plus(self, other: Polynomial) -> Polynomial | None:
        """The sum."""
        layout = _layout(self, other)
        if layout is None:
            return None
        terms = {powers: self.get(powers) + other.get(powers) for powers in dict.fromkeys((*self.terms, *other.terms))}
        return Polynomial({powers: values for powers, values in terms.items() if values.any()}, layout)

    def times(self, other: Polynomial) -> Polynomial | None:
        """The product."""
        layout, terms = _layout(self, other), dict[Powers, Array]()
        if layout is None or len(self.terms) * len(other.terms) > MOST_TERMS:
            return None
        for mine, a in self.terms.items():
            for theirs, b in other.terms.items():
                powers = Powers(*(one + two for one, two in zip(mine, theirs, strict=True)))
                terms[powers] = terms.get(powers, np.zeros(())) + a * b
        return Polynomial({powers: values for powers, values in terms.items() if values.any()}, layout)

    def scaled(self, factor: float) -> Polynomial:
        """The product with a number."""
        return Polynomial({powers: values * factor for powers, values in self.terms.items()}, self.layout)

    def reciprocal(self) -> Polynomial | None:
        """One over a constant or a multiple of a power of ``r``."""
        if len(self.terms) != 1:
            return None
        ((powers, values),) = self.terms.items()
        if powers.x or powers.m or powers.q or not values.all():
            return None
        return Polynomial({Powers(r=-powers.r): 1 / values}, self.layout)

    @property
    def numeric(self) -> bool:
        """Whether every coefficient is one number."""
        return not any(values.ndim for values in self.terms.values())


def _layout(one: Polynomial, other: Polynomial) -> Layout | None:
    kinds = {one.layout, other.layout} - {"any"}
    if len(kinds) > 1 or (kinds == {"reduced"} and not (one.numeric and other.numeric)):
        return None
    return next(iter(kinds), "any") if _fit(one, other) else None


def _fit(one: Polynomial, other: Polynomial) -> bool:
    """Whether the coefficients of the two broadcast together."""
    shapes = {values.shape for polynomial in (one, other) for values in polynomial.terms.values()}
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Variance:
    """What ``r`` is one over the root of: the mean square, of ``x`` or of ``x - m``, plus epsilon."""

    centred: bool
    epsilon: float

    @staticmethod
    def under(operand: Polynomial | None) -> Variance | None:
        """The variance that ``operand`` is, plus epsilon."""
        if operand is None or not operand.numeric or set(operand.terms) - {SQUARE, MEAN_SQUARED, ONE}:
            return None
        square, mean, epsilon = (float(operand.get(powers)) for powers in (SQUARE, MEAN_SQUARED, ONE))
        centred = mean != 0
        if abs(square - 1) > CLOSE or (centred and abs(mean + 1) > CLOSE) or ONE not in operand.terms or epsilon < 0:
            return None
        return Variance(centred, epsilon)

    def normal(self, made: Polynomial | None) -> Affine | None:
        """The scale and shift behind the norm by this variance that ``made`` is."""
        if made is None or set(made.terms) - {SCALED, CENTRE, ONE} or SCALED not in made.terms:
            return None
        scale, centre = made.get(SCALED), -made.get(CENTRE)
        if not (np.allclose(scale, centre, CLOSE, 0) if self.centred else CENTRE not in made.terms):
            return None
        return Affine.of(scale, made.get(ONE))


def deviation_power(layout: Layout, exponent: float) -> Polynomial:
    """The root of a variance plus epsilon, or where ``exponent`` is negative one over it."""
    return Polynomial({Powers(r=-1 if exponent > 0 else 1): np.ones(())}, layout)


def averaged(operand: Polynomial | None, axes: tuple[int, ...], *, keeps: bool) -> Polynomial | None:
    """The mean over ``axes``, which is known of ``x``, of its square, and of what does not vary along them."""
    if operand is None or operand.layout == "reduced":
        return None
    terms: dict[Powers, Array] = {}
    for powers, values in operand.terms.items():
        if _varies(values, axes) or powers.x > 2:
            return None
        moved = (0, 1, 0) if powers.x == 1 else (0, 0, 1) if powers.x else (0, 0, 0)
        mean = Powers(0, powers.m + moved[1], powers.q + moved[2], powers.r)
        terms[mean] = terms.get(mean, np.zeros(())) + values
    made = Polynomial(terms, "whole" if keeps else "reduced")
    return made if keeps or made.numeric else None


def _varies(values: Array, axes: tuple[int, ...]) -> bool:
    """Whether coefficients vary along ``axes``, or may."""
    if not values.ndim:
        return False
    return any(axis >= 0 or (-axis <= values.ndim and values.shape[axis] > 1) for axis in axes)
