"""What passes do to an ``nn.Module``: a copy is traced, and what comes of the trace is written into another copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from normfold.backends.torch import Change, TorchGraph, explore, shared_memory, stored, write
from normfold.core.size import size
from normfold.models.module.duplicate import duplicate
from normfold.models.module.example import Example
from normfold.passes.rewritten import GraphPass, Rewritten
from normfold.records import Progress, Refusal


@dataclass(frozen=True, slots=True)
class FoldedModule:
    """A folded copy of a module, what changed in it, and the graph that says so."""

    module: nn.Module
    change: Change
    graph: TorchGraph

    def write_into(self, module: nn.Module) -> Change:
        """Fold ``module``, of which this is a copy, in the same way."""
        return write(self.graph, module)


def rewrite(
    module: nn.Module,
    traced: nn.Module,
    example: Example,
    work: GraphPass,
    dropped: Mapping[str, Refusal],
    progress: Progress,
) -> Rewritten[FoldedModule]:
    """Do ``work`` on a copy of ``module``; ``traced`` is another one, which is run on ``example``."""
    progress("tracing")
    graph = TorchGraph(explore(traced, example.args, example.kwargs), shared_memory(module))
    progress("rewriting")
    before = size(graph, *stored(module))
    done = work(graph, dropped)
    result = duplicate(module)
    folded = FoldedModule(result, write(graph, result), graph)
    sizes = before, size(graph, *stored(result))
    return Rewritten(folded, done.decisions, done.pairs, graph.committed, sizes)
