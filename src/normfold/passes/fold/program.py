"""Folding the ``torch.fx`` graph of a module, in which operations can go that a module tree has to keep."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.fx import GraphModule

from normfold.backends.torch import ProgramGraph, closed, copied, rewrite, stored, trace
from normfold.core.size import size
from normfold.models.exporter.exporter import quiet
from normfold.models.module.example import Example
from normfold.passes.fold.selection import Selection
from normfold.passes.rewritten import Rewritten
from normfold.records import Refusal


def fold(
    program: GraphModule, tree: nn.Module, example: Example, selection: Selection, dropped: Mapping[str, Refusal]
) -> Rewritten[GraphModule]:
    """Fold a copy of ``program``, which ``prepare`` made of the export of ``tree``."""
    with quiet():
        # The run may change its buffers.
        result, ran = copied(program), copied(program)
    graph = ProgramGraph(closed(trace(ran, example.args, example.kwargs)), tree)
    before = size(graph, *stored(program))
    folding = selection.fold(graph, dropped)
    rewrite(graph, result)
    sizes = before, size(graph, *stored(result))
    return Rewritten(result, folding.decisions, folding.pairs, graph.committed, sizes)
