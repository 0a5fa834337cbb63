"""``M(a x + d) = M(a) M(x) + M(d)``: an affine map passes an operation that only moves elements.

``M`` is a transpose, a regrouping of axes (Reshape, Flatten, Squeeze, Unsqueeze), a slice; ``M(a)`` is the same
move applied to the constants. See `normfold.core.algebra.moves`.

Premises: the dimensions that the constants vary along are known on both sides, and the move does not mix them
with others in a way that leaves no constant per element.

Counter-example: ``[N, C, L] -> Reshape [N, L, C]`` moves element ``(c, l)`` across channels; a per-channel
constant becomes one for each element of ``[L, C]``, not one for each ``L`` or ``C``.
"""

from __future__ import annotations

from normfold.core.algebra.moves import carry
from normfold.core.laws.law import Law
from normfold.core.premises import STATIC_RESHAPE

LAW = Law(
    name="routes",
    identity="M(a x + d) = M(a) M(x) + M(d)",
    premises=(STATIC_RESHAPE,),
    counter_example="[N, C, L] -> Reshape [N, L, C] is not a transpose",
)

__all__ = ["LAW", "carry"]
