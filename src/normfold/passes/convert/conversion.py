"""What a conversion is: how norms of one kind become others, and how exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self, get_args

from normfold.core.graph import Graph
from normfold.core.plan import Plan
from normfold.core.premises import CALIBRATION_DATA, MEANINGFUL, TRAINING_ASKED
from normfold.core.views import Node
from normfold.errors import UsageError
from normfold.passes.convert.calibrated.fitting import Fitting
from normfold.records import EXACT, Certificate, Label, Refusal

Kind = Literal[
    "batch",
    "frozen",
    "layer",
    "rms",
    "group",
    "instance",
    "running-instance",
    "weight",
    "static-bln",
    "live-bln",
    "dyt",
]
"""The kinds of norms that are told apart: the rows of the matrix, which ``--from`` names."""
Target = Literal["batch", "frozen", "static", "layer", "rms", "group", "instance", "weight", "bln", "dyt", "tanh"]
"""What norms can be asked to become: its columns, which ``--to`` names."""
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
TARGETS: Final[tuple[Target, ...]] = get_args(Target)
UNFITTED: Final = Fitting()
"""What conversions are fitted to where nothing was given."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What norms are to become.

    ``count`` groups, or groups of ``size`` channels each, where they are to become GroupNorms: one group by default.
    ``needs_training`` says that a result may be no more than a start for training; ``fitting`` what conversions are
    fitted to that do not compute the same.
    """

    target: Target
    count: int | None = None
    size: int | None = None
    needs_training: bool = False
    fitting: Fitting = UNFITTED

    @classmethod
    def parse(cls, text: str, *, needs_training: bool = False, fitting: Fitting = UNFITTED) -> Self:
        """``rms``, ``group``, ``group:count=8``, ``group:size=16``.

        Raises:
            UsageError: ``usage``.
        """
        name, _, setting = text.partition(":")
        key, _, number = setting.partition("=")
        target = next((one for one in TARGETS if one == name), None)
        if target is None:
            raise UsageError("usage", f"Nothing becomes {name!r}.", f"Choose one of {', '.join(TARGETS)}.")
        if not setting:
            return cls(target, needs_training=needs_training, fitting=fitting)
        if target != "group" or key not in ("count", "size") or not number.isdecimal() or not int(number):
            hint = "Only 'group' takes a setting: group:count=8, or group:size=16."
            raise UsageError("usage", f"{text!r} does not say what norms are to become.", hint)
        return cls(target, **{key: int(number)}, needs_training=needs_training, fitting=fitting)

    def groups(self, channels: int) -> int | None:
        """How many groups ``channels`` channels make; None where they do not go into groups of that number or size."""
        count = self.count or 1
        if self.size is not None:
            count = channels // self.size if channels % self.size == 0 else 0
        return count if count and channels % count == 0 else None


@dataclass(frozen=True, eq=False, slots=True)
class Proposal:
    """What would become of some norms that can only be converted together: all of a stream, or one alone.

    Either ``plan`` says how, or ``refusals`` why not. ``certificates`` say by norm how good its conversion is where
    that is known better than from the cell of the matrix.
    """

    norms: tuple[Node, ...]
    plan: Plan | None = None
    refusals: tuple[Refusal, ...] = ()
    certificates: Mapping[Node, Certificate] = field(default_factory=dict)


def _nothing(_graph: Graph, _norms: Sequence[Node]) -> None:
    """Nothing stands in the way that another fold could take away."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Conversion:
    """How norms of one kind become norms of another, for one cell of the matrix or several that are alike.

    ``prepare`` brings the graph into a form in which more can be converted, by exact folds around the norms;
    ``proposals`` judges the norms of a graph as it is then: each of them is in one proposal. A plan is carried out
    before the next proposal is asked for.
    """

    name: str
    proposals: Callable[[Graph, Sequence[Node], Asked], Iterator[Proposal]]
    prepare: Callable[[Graph, Sequence[Node]], None] = _nothing


@dataclass(frozen=True, eq=False, slots=True)
class Cell:
    """One way from one kind to another, or why there is none.

    ``label`` says how good a result is, and is None where there cannot be one; ``says`` how, under which condition, or
    why not. A cell without a ``conversion`` is one of nothing to do.
    """

    label: Label | None
    says: str
    conversion: Conversion | None = None

    @property
    def certificate(self) -> Certificate:
        """That of a norm that went this way, as far as nothing more is known."""
        if self.label in (None, "exact"):
            return EXACT
        return Certificate(self.label, self.says if self.label == "exact-if" else "")

    def refusal(self, norm: str, asked: Asked) -> Refusal | None:
        """Why a ``norm`` does not go this way, whatever the model."""
        if self.label is None:
            return Refusal(MEANINGFUL, f"a {norm} does not become {asked.target!r}: {self.says}")
        if self.label == "needs-training" and not asked.needs_training:
            return Refusal(TRAINING_ASKED, f"a {norm} becomes {asked.target!r} only to be trained: {self.says}")
        if self.label == "calibrated" and not asked.fitting.allowed:
            return Refusal(CALIBRATION_DATA, f"a {norm} becomes {asked.target!r} only approximately: {self.says}")
        return None
