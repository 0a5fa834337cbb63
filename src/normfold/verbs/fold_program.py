"""`fold_program`: fold a module into a graph, in which operations can go that a module tree has to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.export import ExportedProgram

from normfold.backends.torch import prepare
from normfold.errors import UsageError
from normfold.limits import limited
from normfold.models.exporter.dynamic import with_shapes
from normfold.models.exporter.exporter import dynamic_sizes, exported_again, exported_program, limits, quiet
from normfold.models.exporter.interface import Dynamic, Interface, interface
from normfold.models.module.duplicate import duplicate
from normfold.models.module.example import Example
from normfold.models.module.save import replacing
from normfold.models.module.untouched import untouched
from normfold.models.source import File, name_of
from normfold.passes.fold.selection import Selection
from normfold.pipeline.export import evaluation_module, not_equivalent
from normfold.pipeline.fold_module import ModuleFold
from normfold.pipeline.fold_program import ProgramFold, export_program
from normfold.pipeline.prove import Proven, Source, prove, unproven
from normfold.records import Decision, Progress, Verification, silent
from normfold.verbs.fold_result import FoldResult

T = TypeVar("T")


@untouched()
def fold_program(
    module: nn.Module | ExportedProgram,
    example_inputs: Any = None,
    *,
    output: File | None = None,
    dynamic: Dynamic | None = None,
    dynamic_shapes: Any = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    verify: bool = True,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> FoldResult[Any]:
    """Fold ``module`` into a ``torch.fx.GraphModule``, in which operations can go that a module tree has to keep.

    What `fold` can do in the tree is done there; the rest, such as parallel branches that become one convolution, in
    the graph that ``torch.export`` makes of it. The graph is called as the module is, on the sizes of the example but
    for those that are ``dynamic``, and its state has the names of the module's.

    Args:
        module: in evaluation mode, or an ``ExportedProgram``, of which one comes back that is called as it is; left
            as it is.
        example_inputs: as for `fold`; by default those that a program was exported with.
        output: where to write the result, as ``.pt2``.
        dynamic: dynamic axes, as for `export`.
        dynamic_shapes: the same as ``torch.export`` takes it, as for `export`.
        only: glob patterns; norms whose site matches none of them are kept.
        skip: glob patterns; norms whose site matches one of them are kept.
        seed: for the random test inputs.
        verify: compare the result with the module, at several sizes of the dynamic dimensions.
        time_limit: seconds for the whole call; by default 15 minutes. For a module both limits hold between
            its forward passes.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: called with what is being done.

    Raises:
        DiffersError: the result differs from the module.
        NormfoldError: any other reason; ``not-exportable`` carries that of ``torch.export``.
    """
    selection = Selection(tuple(only), tuple(skip))
    job = _Job(selection, seed, verify, progress)
    with limited(time_limit, memory_limit):
        if isinstance(module, ExportedProgram):
            if dynamic or dynamic_shapes:
                hint = "A program has the dynamic axes it was exported with."
                raise UsageError("usage", "dynamic and dynamic_shapes are for modules.", hint)
            found = _of_program(module, example_inputs, job)
        else:
            own = evaluation_module(module, "fold_program")
            found = _of_module(own, Example.of(example_inputs), dynamic, dynamic_shapes, job)

    def write(path: Path) -> None:
        progress("writing")
        with replacing(path) as file, quiet():
            torch.export.save(found.exported(), file)

    if output is not None:
        write(Path(output))
    return FoldResult(
        found.model,
        found.decisions,
        found.verification,
        tuple(name for name in found.before if name not in found.after),
        tuple(name for name in found.after if name not in found.before),
        output=name_of(output),
        sizes=found.sizes,
        unmatched=selection.unmatched(decision.site for decision in found.decisions),
        write=write,
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """What is asked of a fold."""

    selection: Selection
    seed: int
    verify: bool
    progress: Progress

    def done(self, source: Source[T]) -> Proven[T]:
        return prove(source, not_equivalent) if self.verify else unproven(source, "not asked for")


@dataclass(frozen=True, slots=True)
class _Found:
    """What folding has come to, the names in the state before and after, and how it becomes a program to save."""

    model: Any
    decisions: tuple[Decision, ...]
    verification: Verification
    before: Sequence[str]
    after: Sequence[str]
    sizes: Any
    exported: Callable[[], ExportedProgram]


def _of_module(module: nn.Module, example: Example, dynamic: Dynamic | None, shapes: Any, job: _Job) -> _Found:
    source = duplicate(module)
    tree = job.done(ModuleFold(source, example, job.selection.fold, job.seed, job.progress))
    job.progress("tracing")
    what = interface(tree.model.module, example, dynamic or {})
    what = with_shapes(tree.model.module, what, dynamic, shapes)
    program = export_program(tree.model.module, what)
    in_graph = ProgramFold(
        source, tree.model.module, tree.decisions, what, program, job.selection, job.seed, job.progress
    )
    done = job.done(in_graph)
    sizes = (tree.sizes[0], done.sizes[1]) if tree.sizes and done.sizes else None
    before, after = list(source.state_dict()), list(done.model.state_dict())
    return _Found(
        done.model,
        done.decisions,
        done.verification,
        before,
        after,
        sizes,
        lambda: _exported(done.model, what),
    )


@untouched()
def _exported(module: nn.Module, what: Interface) -> ExportedProgram:
    return exported_program(module, what)


def _of_program(program: ExportedProgram, example_inputs: Any, job: _Job) -> _Found:
    """A program folded, and exported again with the sizes that it is dynamic in."""
    given = program.example_inputs if example_inputs is None else example_inputs
    if given is None:
        raise UsageError("usage", "The program has no example inputs of its own.", "Pass them as the second argument.")
    example = Example(*given) if example_inputs is None else Example.of(given)
    with quiet():
        source: Any = program.module()
        graph: Any = prepare(program.module())
    names = interface(source, example, {}, mutable=True)
    dynamic = {name: axes for name, axes in zip(names.inputs, dynamic_sizes(program), strict=True) if axes}
    what = replace(names, dynamic=dynamic, limits=limits(program))
    done = job.done(ProgramFold(source, source, (), what, graph, job.selection, job.seed, job.progress))
    folded = exported_again(done.model, program, example)
    before, after = list(program.state_dict), list(folded.state_dict)
    return _Found(folded, done.decisions, done.verification, before, after, done.sizes, lambda: folded)
