"""Which operations an execution provider runs on 8-bit codes, and what that costs: measured tables, package data.

A table has a row for each operation and form: ``qdq`` is the operation between DequantizeLinear and QuantizeLinear,
``island`` the same where nothing is fused, so that it runs in floating point with codes on both sides; the other forms
are operators on codes. Costs are times over that of the same operation in float32.
``benchmarks/integer_kernels.py`` makes the tables.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from math import inf
from typing import Final

from normfold.errors import UsageError

DEFAULT: Final = "cpu"
QDQ: Final = "qdq"
"""The form that every execution provider reads."""
ISLAND: Final = "island"
"""Floating point with codes on both sides."""
FLOAT: Final = "float"
"""Floating point throughout; costs 1."""
TO_FLOAT: Final = "to float"
"""Codes in, floating point out."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operation in one form."""

    operator: str
    about: str
    """What tells it from others of the operator: the size of a window, what the operands are."""
    form: str
    cost: float | None
    """Time over that in float32; None where it does not run."""
    operators: tuple[str, ...]
    """What ran in its place, after the provider's own fusions."""
    because: str
    """Why it does not run."""

    @property
    def on_codes(self) -> bool:
        """Whether it runs on codes throughout: nothing is made floating point on the way."""
        return self.cost is not None and "DequantizeLinear" not in self.operators


@dataclass(frozen=True, slots=True)
class KernelTable:
    """The kernels of one execution provider."""

    provider: str
    kernels: tuple[Kernel, ...]

    def cost(self, operator: str, form: str = QDQ, about: str = "") -> float:
        """Time of ``operator`` over that in float32, the median of its cases; infinite where it does not run so."""
        costs = [one.cost for one in self.of(operator, form, about) if one.cost is not None]
        return statistics.median(costs) if costs else inf

    def on_codes(self, operator: str, form: str = QDQ, about: str = "") -> bool:
        """Whether every case of ``operator`` runs on codes."""
        found = self.of(operator, form, about)
        return bool(found) and all(one.on_codes for one in found)

    def of(self, operator: str, form: str, about: str = "") -> tuple[Kernel, ...]:
        """The rows of an operator and form; those of ``about`` alone where that is given."""
        return tuple(
            one for one in self.kernels if one.operator == operator and one.form == form and about in ("", one.about)
        )

    def best(self, operator: str, about: str = "") -> str:
        """The form that costs least between values that are codes; ``ISLAND`` where that is floating point."""
        forms = {one.form for one in self.kernels if one.operator == operator and one.on_codes} - {FLOAT, TO_FLOAT}
        cheapest = min(sorted(forms), key=lambda form: self.cost(operator, form, about), default=ISLAND)
        return cheapest if self.cost(operator, cheapest, about) < self.cost(operator, ISLAND, about) else ISLAND


def _tables() -> Traversable:
    return files(__name__)


def providers() -> list[str]:
    """Those that there is a table for."""
    return sorted(entry.name.removesuffix(".json") for entry in _tables().iterdir() if entry.name.endswith(".json"))


@cache
def kernel_table(provider: str = DEFAULT) -> KernelTable:
    """The table of ``provider``.

    Raises:
        UsageError: ``no-cost-table``, there is none.
    """
    known = providers()
    if provider not in known:
        raise UsageError(
            "no-cost-table",
            f"There is no table of integer kernels for the execution provider {provider!r}.",
            f"There is one for: {', '.join(known)}.",
        )
    rows = json.loads((_tables() / f"{provider}.json").read_text(encoding="utf-8"))["kernels"]
    return KernelTable(
        provider,
        tuple(
            Kernel(row["operator"], row["about"], row["form"], row["cost"], tuple(row["operators"]), row["because"])
            for row in rows
        ),
    )
