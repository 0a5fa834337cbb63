"""`fold_program`: fold a module into a graph, in which operations can go that a module tree has to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from normfold.limits import limited
from normfold.models.exporter.exporter import exported_program, quiet
from normfold.models.exporter.interface import Dynamic, interface
from normfold.models.module.duplicate import duplicate
from normfold.models.module.example import Example
from normfold.models.module.save import replacing
from normfold.models.module.untouched import untouched
from normfold.models.source import File, name_of
from normfold.passes.fold.selection import Selection
from normfold.pipeline.export import evaluation_module, not_equivalent
from normfold.pipeline.fold_module import ModuleFold
from normfold.pipeline.fold_program import ProgramFold, export_program
from normfold.pipeline.prove import prove, unproven
from normfold.records import Progress, silent
from normfold.verbs.fold_result import FoldResult


@untouched()
def fold_program(
    module: nn.Module,
    example_inputs: Any,
    *,
    output: File | None = None,
    dynamic: Dynamic | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    verify: bool = True,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> FoldResult[GraphModule]:
    """Fold ``module`` into a ``torch.fx.GraphModule``, in which operations can go that a module tree has to keep.

    What `fold` can do in the tree is done there; the rest, such as parallel branches that become one convolution, in
    the graph that ``torch.export`` makes of it. The graph is called as the module is, on the sizes of the example but
    for those that are ``dynamic``, and its state has the names of the module's.

    Args:
        module: in evaluation mode; left as it is.
        example_inputs: as for `fold`.
        output: where to write the result, as ``.pt2``.
        dynamic: dynamic axes, as for `export`.
        only: glob patterns; norms whose site matches none of them are kept.
        skip: glob patterns; norms whose site matches one of them are kept.
        seed: for the random test inputs.
        verify: compare the result with the module, at several sizes of the dynamic dimensions.
        time_limit: seconds for the whole call; by default 15 minutes. For a module both limits hold between
            its forward passes.
        memory_limit: bytes that each process may take; by default 90 % of what is free.
        progress: called with what is being done.

    Raises:
        DiffersError: the result differs from the module.
        NormfoldError: any other reason; ``not-exportable`` carries that of ``torch.export``.
    """
    with limited(time_limit, memory_limit):
        source, example = duplicate(evaluation_module(module)), Example.of(example_inputs)
        selection = Selection(tuple(only), tuple(skip))
        in_tree = ModuleFold(source, example, selection, seed, progress)
        tree = prove(in_tree, not_equivalent) if verify else unproven(in_tree, "not asked for")
        progress("tracing")
        what = interface(tree.model.module, example, dynamic or {})
        program = export_program(tree.model.module, what)
        in_graph = ProgramFold(source, tree.model.module, tree.decisions, what, program, selection, seed, progress)
        done = prove(in_graph, not_equivalent) if verify else unproven(in_graph, "not asked for")
        before, after = list(source.state_dict()), list(done.model.state_dict())

        def write(path: Path) -> None:
            progress("writing")
            save_program(done.model, example, dynamic or {}, path)

        if output is not None:
            write(Path(output))
        return FoldResult(
            done.model,
            done.decisions,
            done.verification,
            tuple(name for name in before if name not in after),
            tuple(name for name in after if name not in before),
            output=name_of(output),
            sizes=(tree.sizes[0], done.sizes[1]) if tree.sizes and done.sizes else None,
            unmatched=selection.unmatched(decision.site for decision in done.decisions),
            write=write,
        )


@untouched()
def save_program(module: nn.Module, example: Example, dynamic: Dynamic, target: Path) -> None:
    """Write ``module`` to ``target``, a ``.pt2`` file, by way of ``torch.export``.

    Raises:
        UsageError: ``not-exportable``, with PyTorch's reason.
        OutputError: ``output-not-writable``.
    """
    with replacing(target) as file:
        program = exported_program(module, interface(module, example, dynamic))
        with quiet():
            torch.export.save(program, file)
