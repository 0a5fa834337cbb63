"""Maps that travel through a graph along a proven route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from normfold.core.algebra.affine import Array


class Map(Protocol):
    """A map of a value: `Affine`, a `Shuffle` of channels, `Centring`.

    What each does at an operation is a rule's, found by the kind of map and of view.
    """

    @property
    def says(self) -> str:
        """What an operation that takes the map takes, when talking to a user."""
        ...

    @property
    def identity(self) -> bool:
        """Whether the map is known to change nothing."""
        ...

    @property
    def invertible(self) -> bool:
        """Whether readers of a value that the map has changed can be given its inverse."""
        ...

    def inverse(self) -> Map:
        """What undoes this map; only for an ``invertible`` one."""
        ...


@dataclass(frozen=True, slots=True)
class Centring:
    """``P x = x - mean(x)`` along ``axis`` (negative), of ``size``: the projection ``I - 1 1^T / size``.

    It loses the mean, so nothing computes its inverse; but who subtracts the mean does not see that it is lost.
    """

    axis: int
    size: int

    @property
    def says(self) -> str:
        """What a writer is to do."""
        return "the mean of its channels subtracted"

    @property
    def identity(self) -> bool:
        """Never: one channel less its mean is zero."""
        return False

    @property
    def invertible(self) -> bool:
        """Whether a reader may be asked: each finds out for itself if it notices."""
        return True

    def inverse(self) -> Offset:
        """What a reader of the centred value would have to add again."""
        return Offset(self.axis, self.size)

    def after(self, first: Centring) -> Centring:
        """Centring twice is centring once; both along the same axis."""
        if first != self:
            raise ValueError(f"{first} is along another axis than {self}")
        return self

    def of(self, array: Array) -> Array:
        """The centred ``array``, right-aligned with the value."""
        if array.ndim < -self.axis or array.shape[self.axis] == 1:
            return np.zeros(())
        centred: Array = array - array.mean(axis=self.axis, keepdims=True)
        return centred


@dataclass(frozen=True, slots=True)
class Offset:
    """``x + m``, with any ``m`` that does not vary along ``axis`` (negative), of ``size``, and that nobody knows.

    No constants hold it; it ends only where it is not noticed.
    """

    axis: int
    size: int

    @property
    def says(self) -> str:
        """What a reader is to do."""
        return "channels that all miss the same amount"

    @property
    def identity(self) -> bool:
        """Never known."""
        return False

    @property
    def invertible(self) -> bool:
        """Minus an offset is an offset."""
        return True

    def inverse(self) -> Offset:
        """Another one that nobody knows."""
        return self

    def after(self, first: Offset) -> Offset:
        """Two along one axis are one."""
        if first != self:
            raise ValueError(f"{first} is along another axis than {self}")
        return self
