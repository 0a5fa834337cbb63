"""`convert`: make norms of one kind norms of another, and say how exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normfold.errors import UsageError
from normfold.limits import limited
from normfold.models.data import Arrays, Shapes, user_inputs
from normfold.models.source import File, OnnxModel, is_onnx, module_of
from normfold.passes.convert import CONVERSIONS
from normfold.passes.convert.run import Converter
from normfold.passes.fold.selection import Selection
from normfold.pipeline.fold_onnx import External, Request, Target
from normfold.proof.comparison import Setup
from normfold.records import Progress, silent
from normfold.verbs.fold_result import FoldResult
from normfold.verbs.rewriting import DRY_RUN, NOT_ASKED_FOR, rewrite_file, rewrite_module


def convert(
    model: OnnxModel | Any,
    example_inputs: Any = None,
    *,
    to: str,
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
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> FoldResult[Any]:
    """Make the norms of ``model`` norms of the kind ``to``, and write the result to ``output`` if that is given.

    A LayerNorm becomes an RMSNorm (``to="rms"``) where the mean that it subtracts can be taken out of everything that
    writes its input: the result computes the same. Every other norm stays, with the reason.

    Args:
        model: a path, a ``ModelProto``, an ``onnx_ir.Model`` or an ``nn.Module``; left as it is.
        example_inputs: what an ``nn.Module`` is traced with, as for `fold`; ONNX models need none.
        to: the kind of norm asked for.
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
        in_place: allow ``output`` to be ``model``; convert a module itself instead of a copy.
        dry_run: decide only.
        time_limit: seconds for the whole call; by default 15 minutes. For a module both limits hold between its forward
            passes.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: called with what is being done.

    Returns:
        The model, of the kind that came in, with a decision for every norm: ``converted`` with ``to`` and ``label``,
        or ``kept`` with what stands in the way.

    Raises:
        DiffersError: the result differs from its source.
        UnprovenError: nothing here can run the two.
        NormfoldError: any other reason, with its code.
    """
    if to not in CONVERSIONS:
        raise UsageError("usage", f"Nothing becomes {to!r}.", f"Choose one of {', '.join(sorted(CONVERSIONS))}.")
    with limited(time_limit, memory_limit):
        selection = Selection(tuple(only), tuple(skip))
        converter = Converter(to, CONVERSIONS[to], selection)
        skipped = DRY_RUN if dry_run else "" if verify else NOT_ASKED_FOR
        target = None if output is None or dry_run else Path(output)
        module = module_of(model)
        if module is not None:
            if shapes or inputs or custom_ops:
                raise UsageError("usage", "shapes, inputs and custom_ops are for ONNX models.")
            from normfold.models.module.example import Example
            from normfold.models.module.untouched import untouched
            from normfold.pipeline.fold_module import ModuleFold

            itself = in_place and not dry_run
            job = ModuleFold(module, Example.of(example_inputs), converter.convert, seed, progress, itself)
            with untouched(), job.whole():
                return rewrite_module(job, selection, target, skipped)
        if example_inputs is not None and is_onnx(model):
            hint = "ONNX models take inputs={name: array}, and output=PATH."
            raise UsageError("usage", "example_inputs are for modules.", hint)
        request = Request(converter.convert, target=Target(target, external_data, in_place), progress=progress)
        asked = Setup((), user_inputs(shapes, inputs), seed=seed, custom_ops=custom_ops)
        return rewrite_file(model, request, selection, asked, skipped)
