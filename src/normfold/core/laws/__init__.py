"""The identities everything rests on, one file each; `LAWS` lists them.

A law is pure algebra on float64 arrays: it derives new constants and is exact under the premises that
its docstring names. It knows no graph; rules decide where it may be used.
"""

from __future__ import annotations

from normfold.core.laws import (
    backward,
    collapse,
    definition,
    forward,
    homogeneous,
    means,
    padded,
    parallel,
    permutation,
    quantized,
    routes,
    sequence,
    sums,
)
from normfold.core.laws.law import Law

LAWS: tuple[Law, ...] = (
    backward.LAW,
    forward.LAW,
    padded.LAW,
    collapse.LAW,
    routes.LAW,
    sums.LAW,
    homogeneous.LAW,
    means.LAW,
    definition.LAW,
    parallel.LAW,
    sequence.LAW,
    permutation.LAW,
    quantized.LAW,
)

__all__ = ["LAWS", "Law"]
