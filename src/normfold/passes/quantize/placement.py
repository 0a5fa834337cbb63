"""Which operations an execution provider is quicker with on codes, by its table of integer kernels.

A step that the table knows in both forms stays in floating point where that takes less time, what is added on its
sides included: codes are made where another step hands over floats, and floats where another step reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from normfold.core.integers import steps
from normfold.core.integers.plan import placed
from normfold.core.integers.steps import Floating, Linear, Network, Step
from normfold.passes.quantize.figures import Format
from normfold.passes.quantize.kernels import FLOAT, ISLAND, QDQ, TO_FLOAT, KernelTable, kernel_table, providers

OPERATORS: Final[Mapping[type[Step], str]] = {
    steps.Sum: "Add",
    steps.Product: "Mul",
    steps.Affine: "Add",
    steps.Sigmoid: "Sigmoid",
    steps.Leaky: "LeakyRelu",
    steps.MaxPool: "MaxPool",
    steps.GlobalMean: "GlobalAveragePool",
    steps.Concat: "Concat",
    steps.Enlarge: "Resize",
}
"""Rows of the table that stand for steps; besides `Linear`, and what only moves, which is always quicker on codes."""
MOVING: Final = (steps.Moving, steps.Slice, steps.Select)
"""Steps that move the elements of one value."""
MARGIN: Final = 1.15
"""Floating point is quicker beyond doubt from here on."""


def table_of(ep: str) -> KernelTable | None:
    """The table of the execution provider; None where nobody has made one."""
    return kernel_table(ep) if ep in providers() else None


def quicker_in_floats(network: Network, ep: str, form: Format) -> dict[Step, str]:
    """The steps to be kept in floating point, and why, with both figures; empty where the provider has no table."""
    table = table_of(ep)
    kept: dict[Step, str] = {}
    if table is None:
        return kept
    while True:
        integer = placed(network, kept)
        found = {step: because for step in integer if (because := _verdict(network, table, form, step, integer))}
        if not found:
            return kept
        kept |= found


def _verdict(network: Network, table: KernelTable, form: Format, step: Step, integer: frozenset[Step]) -> str:
    """Why ``step`` is to stay in floating point; empty where it is not."""
    operator, about = _row(table, step)
    if not table.of(operator, ISLAND, about):
        return ""
    codes = _on_codes(table, operator, about, form)
    if codes == inf:
        return f"{table.provider} has no integer kernel of {operator} {about}".rstrip()
    around = _Around(network.makers(), network.readers(), integer)
    coded_in, coded_out = all(map(around.made_of_codes, step.inputs)), around.read_as_codes(step.output)
    # Between codes the order of axes would change twice besides, which the table does not know of.
    if coded_in and coded_out:
        return ""
    side = (table.cost(operator, ISLAND, about) - 1.0) / 2.0
    here = codes + side * ((not coded_in) + (not coded_out))
    there = 1.0 + side * (coded_in + coded_out)
    if here <= there * MARGIN:
        return ""
    return f"on codes it takes {here:.3g} times its time in float32, where it stands in floating point {there:.3g}"


@dataclass(frozen=True, slots=True)
class _Around:
    """What values are on both sides of what only moves them."""

    makers: Mapping[str, Step]
    readers: Mapping[str, Sequence[Step]]
    integer: frozenset[Step]

    def made_of_codes(self, value: str) -> bool:
        """Whether a step on codes computes ``value``."""
        maker = self.makers.get(value)
        return self.made_of_codes(maker.inputs[0]) if isinstance(maker, MOVING) else maker in self.integer

    def read_as_codes(self, value: str) -> bool:
        """Whether a step that computes reads ``value`` as codes."""
        return any(
            self.read_as_codes(reader.output) if isinstance(reader, MOVING) else reader in self.integer
            for reader in self.readers.get(value, ())
        )


def _on_codes(table: KernelTable, operator: str, about: str, form: Format) -> float:
    """Time on codes over that in float32; what stands between quantisers runs like operators of the provider's own."""
    rows = [one for one in table.kernels if one.operator == operator and about in ("", one.about) and one.on_codes]
    if form == QDQ and not any(one.form == QDQ for one in rows):
        return inf
    forms = {one.form for one in rows} - {FLOAT, TO_FLOAT, ISLAND, "signed activations", "unsigned weights"}
    return min((table.cost(operator, name, about) for name in forms), default=inf)


def _row(table: KernelTable, step: Step) -> tuple[str, str]:
    """The operator of the row that stands for ``step``, and what tells it from others of that; empty for none."""
    if not isinstance(step, Linear):
        return OPERATORS.get(type(step), ""), ""
    if step.window is None:
        return "MatMul", "1024 rows"
    taps = "x".join(map(str, step.window.kernel))
    about = f"depthwise {taps}" if step.depthwise else taps
    known = {one.about for one in table.kernels if one.operator == "Conv"}
    return ("Conv", about) if about in known and (step.groups == 1 or step.depthwise) else ("", "")


def reason(step: Floating, ep: str) -> str:
    """Why ``step`` stays in floating point, with the figures of the provider's table where it has some."""
    table = table_of(ep)
    rows: Sequence[float] = (
        []
        if table is None
        else [
            one.cost
            for one in table.kernels
            if one.operator == step.operator
            and one.form not in (FLOAT, ISLAND)
            and one.on_codes
            and one.cost is not None
        ]
    )
    if table is None or not table.of(step.operator, ISLAND):
        return step.because
    if not rows:
        return f"{step.because}: {table.provider} has no integer kernel of it"
    least, between = min(rows), table.cost(step.operator, ISLAND)
    return f"on codes it takes {least:.3g} times its time in float32, in floating point between codes {between:.3g}"
