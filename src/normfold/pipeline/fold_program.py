"""Folding a module as a ``torch.fx.GraphModule``: first in its tree, then in the graph of its export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.fx import GraphModule

from normfold.backends.torch import prepare
from normfold.core.premises import VERIFICATION_FAILED
from normfold.models.exporter.exporter import exported_program
from normfold.models.exporter.interface import Interface
from normfold.passes.fold import program as program_pass
from normfold.passes.fold.selection import Selection
from normfold.passes.rewritten import Rewritten
from normfold.proof.comparison import Setup
from normfold.proof.exported import compare
from normfold.proof.modules import InProcess, RunnableModule
from normfold.records import Decision, Progress, Refusal, Verification, silent


@dataclass(frozen=True, slots=True)
class ProgramFold:
    """One fold of the graph of ``tree``, into which ``module`` was folded: a `Source` for the loop."""

    module: nn.Module
    tree: nn.Module
    decided: tuple[Decision, ...]
    """What was decided in the tree."""
    what: Interface
    program: GraphModule
    selection: Selection
    seed: int = 0
    progress: Progress = silent

    def rewritten(self, dropped: Mapping[str, Refusal]) -> Rewritten[GraphModule]:
        """Fold a copy of the program."""
        self.progress("folding")
        left = {site: refusal for one in self.decided for site, refusal in _at_fault(one)} | dict(dropped)
        attempt = program_pass.fold(self.program, self.tree, self.what.example, self.selection, left)
        decisions = _later(self.decided, attempt.decisions, left)
        # Compared also where nothing went: a program is not the module that it was exported from.
        return replace(attempt, decisions=tuple(decisions), changed=True)

    def compared(self, attempt: Rewritten[GraphModule]) -> Verification:
        """Run ``attempt`` beside the module, at several sizes of the dynamic dimensions."""
        self.progress("comparing with the module")
        return compare(InProcess, self.module, RunnableModule(attempt.model), self.what, Setup((), seed=self.seed))


def export_program(module: nn.Module, what: Interface) -> GraphModule:
    """The graph that ``torch.export`` makes of ``module``, ready to be folded.

    Raises:
        UsageError: ``not-exportable``, with PyTorch's reason.
    """
    program: Any = exported_program(module, what).module()
    return prepare(program)


def _at_fault(decision: Decision) -> Iterable[tuple[str, Refusal]]:
    """The site of ``decision`` and why, where folding it in the tree was at fault."""
    return ((decision.site, one) for one in decision.refused_by if one.premise == VERIFICATION_FAILED)


def _later(first: Iterable[Decision], second: Iterable[Decision], dropped: Mapping[str, Refusal]) -> Iterable[Decision]:
    """The decisions in the tree, with those in the graph where they went further, or were dropped."""
    listed = {decision.site: decision for decision in first}
    later = (one for one in second if one.outcome != "kept" or one.site not in listed or one.site in dropped)
    return {**listed, **{one.site: one for one in later}}.values()
