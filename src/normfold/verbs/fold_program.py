"""A module as a graph: folds that a module tree has no place for, and programs of ``torch.export`` as files."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from normfold.backends.torch import ProgramGraph, prepare, rewrite, trace
from normfold.core import driver as engine
from normfold.models.exporter.exporter import exported_program, quiet
from normfold.models.exporter.interface import Dynamic, interface
from normfold.models.module.example import Example
from normfold.models.module.save import replacing
from normfold.pipeline import modules as folding
from normfold.pipeline.modules import copied
from normfold.proof.comparison import Setup
from normfold.proof.exported import compare
from normfold.proof.modules import InProcess, RunnableModule
from normfold.records import Decision, Progress, Verification, silent
from normfold.verbs.export import checked, handed_over
from normfold.verbs.fold_result import FoldResult


def fold_program(  # noqa: PLR0913 - each keyword is an option of `fold`
    module: nn.Module,
    example_inputs: Any,
    *,
    dynamic: Dynamic | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    verify: bool = True,
    progress: Progress = silent,
) -> FoldResult:
    """Fold ``module`` into a ``torch.fx.GraphModule``, in which operations can go that a module tree has to keep.

    What `fold` can do in the tree is done there; the rest, such as parallel branches that become one convolution, in
    the graph that ``torch.export`` makes of it. The graph is called as the module is, on the sizes of the example but
    for those that are ``dynamic``, and its state has the names of the module's.

    Args:
        module: in evaluation mode; left as it is.
        example_inputs: as for `fold`.
        dynamic: free sizes, as for `export`.
        only: glob patterns; norms whose site matches none of them are kept.
        skip: glob patterns; norms whose site matches one of them are kept.
        seed: for the random test inputs.
        verify: compare the result with the module, at several sizes of what is dynamic.
        progress: told what is being done.

    Raises:
        DiffersError: the result differs from the module.
        NormfoldError: any other reason; ``not-exportable`` carries that of ``torch.export``.
    """
    source, example = copied(checked(module)), Example.of(example_inputs)
    choice: dict[str, Any] = {"only": only, "skip": skip, "seed": seed, "progress": progress}
    tree = folding.fold(source, example, "prove" if verify else "skip", **choice)
    if verify:
        handed_over(tree.verification, tree.decisions)
    progress("tracing")
    what = interface(tree.module, example, dynamic or {})
    program = prepare(exported_program(tree.module, what).module())
    graph = ProgramGraph(trace(program, example.args, example.kwargs), tree.module)
    progress("folding")
    decisions = tuple(_later(tree.decisions, engine.fold(graph, only=only, skip=skip).decisions))
    with quiet():
        result = copy.deepcopy(program)
    rewrite(graph, result)
    proof = Verification("skipped", because="not asked for")
    if verify:
        progress("comparing with the module")
        proof = handed_over(compare(InProcess, source, RunnableModule(result), what, Setup((), seed=seed)), decisions)
    before, after = list(source.state_dict()), list(result.state_dict())
    removed = tuple(name for name in before if name not in after)
    return FoldResult(result, decisions, proof, removed, tuple(name for name in after if name not in before))


def _later(first: Iterable[Decision], second: Iterable[Decision]) -> Iterable[Decision]:
    """The decisions in the tree, with those in the graph where they went further."""
    listed = {decision.site: decision for decision in first}
    return {**listed, **{one.site: one for one in second if one.outcome != "kept" or one.site not in listed}}.values()


def save_program(module: nn.Module, example: Any, dynamic: Dynamic, target: Path) -> None:
    """Write ``module`` to ``target``, a ``.pt2`` file, by way of ``torch.export``.

    Raises:
        UsageError: ``not-exportable``, with PyTorch's reason.
        OutputError: ``output-not-writable``.
    """
    with replacing(target) as file:
        program = exported_program(module, interface(module, Example.of(example), dynamic))
        with quiet():
            torch.export.save(program, file)
