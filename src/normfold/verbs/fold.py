"""`fold`: fold the norms of a model, and prove the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

import onnx

from normfold.core.costs import DEFAULT, cost_table
from normfold.core.preprocess import Preprocess
from normfold.errors import UsageError
from normfold.limits import limited
from normfold.models.data import Arrays, Shapes
from normfold.models.source import File, OnnxModel, module_of
from normfold.passes.fold.selection import Selection
from normfold.pipeline.fold_onnx import External
from normfold.records import Progress, silent
from normfold.verbs.fold_result import FoldResult
from normfold.verbs.rewriting import Job

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn


class ModuleOptions(TypedDict, total=False):
    """Keywords of `fold` for an ``nn.Module``."""

    output: File | None
    only: Sequence[str]
    skip: Sequence[str]
    seed: int
    verify: bool
    in_place: bool
    dry_run: bool
    time_limit: float | None
    memory_limit: int | None
    progress: Progress


class OnnxOptions(ModuleOptions, total=False):
    """Keywords of `fold` for an ONNX model."""

    shapes: Shapes | None
    inputs: Arrays | File | None
    custom_ops: Sequence[str]
    external_data: External
    preprocess: Preprocess | None
    allow_inserted: bool
    ep: str
    clean: bool
    allow_contrib: bool


@overload
def fold(model: nn.Module, example_inputs: Any, **options: Unpack[ModuleOptions]) -> FoldResult[nn.Module]: ...


@overload
def fold(
    model: onnx.ModelProto, example_inputs: None = None, **options: Unpack[OnnxOptions]
) -> FoldResult[onnx.ModelProto]: ...


@overload
def fold(
    model: File | onnx_ir.Model, example_inputs: None = None, **options: Unpack[OnnxOptions]
) -> FoldResult[onnx_ir.Model]: ...


def fold(
    model: OnnxModel | nn.Module,
    example_inputs: Any = None,
    *,
    output: File | None = None,
    shapes: Shapes | None = None,
    inputs: Arrays | File | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    verify: bool = True,
    external_data: External = "auto",
    in_place: bool = False,
    dry_run: bool = False,
    preprocess: Preprocess | None = None,
    allow_inserted: bool = False,
    ep: str = DEFAULT,
    clean: bool = True,
    allow_contrib: bool = False,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> FoldResult[Any]:
    """Fold the norms of ``model`` and, if ``output`` is given, write the result there in one step.

    An ``nn.Module`` comes back as one of the same make, with ``nn.Identity`` for norms.

    Args:
        model: a path, a ``ModelProto``, an ``onnx_ir.Model`` or an ``nn.Module``; left as it is.
        example_inputs: what an ``nn.Module`` is traced with: a tuple of positional arguments, a dict of named ones, or
            the only one. ONNX models need none.
        output: where to write; nothing is written unless the result is proven (or ``verify`` is off). The state of a
            module is written as ``.safetensors``.
        shapes: by input name, for inputs with dynamic dimensions; ONNX only.
        inputs: arrays by input name to compare on, or the path of an ``.npz`` file of them; ONNX only.
        only: glob patterns; norms whose site matches none of them are kept.
        skip: glob patterns; norms whose site matches one of them are kept.
        seed: for the random test inputs.
        custom_ops: libraries of custom operators, loaded to run the model; ONNX only.
        verify: compare the result with the source.
        external_data: whether weights go into a file of their own; "auto" does as the source does; ONNX only.
        in_place: allow ``output`` to be ``model``; fold a module itself instead of a copy.
        dry_run: decide only; the source's copy that comes back is folded but neither compared nor written.
        preprocess: what is done to an image before ``model`` sees it; the result does it itself. Shapes and arrays
            of that input are then those of the raw image; ONNX only.
        allow_inserted: insert operations for a fold also where the cost table says that it does not pay; ONNX only.
        clean: take out, too, what changes no bit of an output: dead nodes, copies, duplicates, computed constants; ONNX
            only, and not where the result could not be proven with it.
        allow_contrib: let operators of ONNX Runtime's own (``com.microsoft``) into the result, where each computes what
            several did: attention that is written out becomes one MultiHeadAttention; ONNX only.
        ep: the execution provider whose cost table decides; ONNX only.
        time_limit: seconds for the whole call; by default 15 minutes. For a module both limits hold between
            its forward passes.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: called with what is being done.

    Raises:
        DiffersError: the result differs from its source.
        UnprovenError: nothing here can run the two.
        NormfoldError: any other reason, with its code.
    """
    with limited(time_limit, memory_limit):
        selection = Selection(tuple(only), tuple(skip))
        if (allow_inserted or allow_contrib) and module_of(model) is not None:
            raise UsageError("usage", "allow_inserted and allow_contrib are for ONNX models.")
        costs = replace(cost_table(ep), allow_inserted=allow_inserted)
        job = Job(
            work=partial(selection.fold, costs=costs),
            selection=selection,
            output=output,
            shapes=shapes,
            inputs=inputs,
            seed=seed,
            custom_ops=custom_ops,
            verify=verify,
            external_data=external_data,
            in_place=in_place,
            dry_run=dry_run,
            progress=progress,
            preprocess=preprocess,
            clean=clean,
            allow_contrib=allow_contrib,
        )
        return job.run(model, example_inputs)
