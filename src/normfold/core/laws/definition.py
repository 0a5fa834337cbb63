"""``mean((x - mean(x))^2) = mean(x^2) - mean(x)^2``: a norm that is written out is the norm.

``g*(x - mean(x))/sqrt(var(x) + e) + b`` is a LayerNormalization, over the positions of each channel an
InstanceNormalization, and without the mean an RMSNormalization, however the variance, the root and the division are
written: ``x/d = x*(1/d)``, ``g*(x - m)/d + b = x*(g/d) + (b - m*g/d)``.

Premises: the axes are those that the operator normalises, and nothing reads what is on the way.

Counter-example: ``x/(sqrt(var(x)) + e)``, with epsilon outside of the root: for ``var(x) = 0`` it divides by ``e``, the
norm by ``sqrt(e)``.

Source: ONNX, LayerNormalization, InstanceNormalization and RMSNormalization.
"""

from __future__ import annotations

from normfold.core.laws.law import Law
from normfold.core.premises import SINGLE_USE, TRAILING_AXES

LAW = Law(
    name="definition",
    identity="mean((x - mean(x))^2) = mean(x^2) - mean(x)^2",
    premises=(TRAILING_AXES, SINGLE_USE),
    counter_example="x/(sqrt(var(x)) + e): epsilon outside of the root",
)
