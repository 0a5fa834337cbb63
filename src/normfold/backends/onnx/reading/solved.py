"""Sizes that inference gives a name to, though a Reshape says what they are.

Of ``[N, 128, 8, 8] -> [N, 128, -1]`` onnx does not say that the last size is 64, since ``N`` has no number: but a
Reshape keeps the number of elements, and ``N`` and 128 cancel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod

import onnx_ir as ir

from normfold.core.algebra.moves import Dim

Dims = Sequence[Dim]


def solve(nodes: Iterable[ir.Node], dims: Mapping[ir.Value, Dims | None]) -> dict[str, int]:
    """The numbers of the names among ``dims`` that the Reshapes of ``nodes``, in topological order, settle."""
    solved: dict[str, int] = {}
    for node in nodes:
        source = node.inputs[0] if node.op_type == "Reshape" and node.inputs else None
        before, after = (None if value is None else dims.get(value) for value in (source, node.outputs[0]))
        if before is not None and after is not None:
            solved |= _solved(substituted(before, solved), substituted(after, solved))
    return solved


def substituted(dims: Dims, solved: Mapping[str, int]) -> tuple[Dim, ...]:
    """``dims`` with numbers for the names that are ``solved``."""
    return tuple(solved.get(dim, dim) if isinstance(dim, str) else dim for dim in dims)


def _solved(before: Dims, after: Dims) -> dict[str, int]:
    """The one name that only ``after`` has, where everything else has a number or cancels."""
    here = Counter(dim for dim in after if not isinstance(dim, int))
    there = Counter(dim for dim in before if not isinstance(dim, int))
    (name, *more), left = [*(here - there).elements(), None][:2], there - here
    count, rest = (prod(dim for dim in sizes if isinstance(dim, int)) for sizes in (before, after))
    settled = isinstance(name, str) and more == [None] and not left and rest > 0 and count % rest == 0
    return {name: count // rest} if settled and isinstance(name, str) else {}
