"""`export`: exporter, fold, comparison with eager PyTorch, and only then the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx_ir
from torch import nn

from normfold._version import __version__
from normfold.limits import limited
from normfold.models import onnxfile
from normfold.models.data import UserInputs
from normfold.models.exporter.dynamic import with_shapes
from normfold.models.exporter.exporter import lowered
from normfold.models.exporter.interface import Interface, interface
from normfold.models.module.duplicate import duplicate
from normfold.models.module.example import Example, to_array
from normfold.models.module.packages import needs
from normfold.models.module.untouched import untouched
from normfold.models.source import File, is_random, name_of, onnx_source, scratch_path
from normfold.passes.fold.selection import Selection
from normfold.pipeline.export import (
    check_that_it_repeats_itself,
    compare_export,
    evaluation_module,
    exported_model,
    not_equivalent,
)
from normfold.pipeline.fold_onnx import External, Request, fold_proven, fold_unproven
from normfold.pipeline.prove import Proven
from normfold.proof.comparison import Setup
from normfold.records import Cleaning, Decision, Progress, Size, Verification, silent
from normfold.runtime import Evaluator
from normfold.verbs.fold_result import FoldResult


@untouched()
def export(
    module: nn.Module,
    example_inputs: Any,
    *,
    output: File | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
    fold: bool = True,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    verify: bool = True,
    external_data: External = "auto",
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> FoldResult[onnx_ir.Model]:
    """Export ``module`` to ONNX, fold its norms there, and, if ``output`` is given, write the result in one step.

    The result is compared with ``module`` itself, run eagerly, on random and adversarial inputs, at several sizes of
    the dynamic dimensions.

    Args:
        module: in evaluation mode, or a learner that has one as its ``model``; left as it is.
        example_inputs: a tuple of positional arguments, a dict of named ones, or the only one. Arguments may be
            tuples, lists and dicts of tensors; what is no tensor is fixed in the result.
        output: where to write; nothing is written unless the result is proven (or ``verify`` is off).
        dynamic: dynamic axes: input name to axis to the name of its dimension, as in ``{"x": {0: "batch"}}``.
        dynamic_shapes: the same as ``torch.export`` takes it, with ``Dim`` and its hints: by name of an argument, or
            one for each of them, nested as they are.
        input_names: names of the result's inputs; by default those of the arguments.
        output_names: names of its outputs; by default the keys or fields of what the module returns.
        opset: of the result; by default the exporter's.
        fold: whether to fold the norms.
        only: glob patterns; norms whose site matches none of them are kept.
        skip: glob patterns; norms whose site matches one of them are kept.
        seed: for the random test inputs.
        verify: compare the result with the module.
        external_data: whether weights go into a file of their own; "auto" does so from 1.8 GB on.
        time_limit: seconds for the whole call; by default 15 minutes. For a module both limits hold between
            its forward passes.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: called with what is being done.

    Returns:
        The ``onnx_ir.Model``, a decision for every norm, and the comparison with the module.

    Raises:
        DiffersError: the result differs from the module.
        UnprovenError: nothing here can run the result.
        NormfoldError: any other reason, with its code; ``not-exportable`` carries the exporter's.
    """
    with limited(time_limit, memory_limit):
        needs("onnxscript")
        chosen = Selection(tuple(only), tuple(skip))
        progress("exporting")
        source = duplicate(evaluation_module(module))
        what = interface(source, Example.of(example_inputs), dynamic or {}, input_names, output_names)
        what = with_shapes(source, what, dynamic, dynamic_shapes)
        model = exported_model(source, what, opset)
        decisions: tuple[Decision, ...] = ()
        sizes: tuple[Size, Size] | None = None
        cleaning: Cleaning | None = None
        if fold:
            request = Request(chosen.fold, progress=progress)
            folded = _folded(model, what, request, seed, verify=verify)
            model, decisions = folded.model, folded.decisions
            sizes, cleaning = folded.sizes, folded.cleaning
        model = lowered(model, opset)
        model.metadata_props["normfold.version"] = __version__
        model.metadata_props["normfold.module"] = f"{type(source).__module__}.{type(source).__qualname__}"
        with ExitStack() as stack:
            progress("writing")
            path = stack.enter_context(scratch_path()) if output is None else Path(output)
            staged = stack.enter_context(onnxfile.stage(model, path, external=external_data))
            proof = Verification("skipped", because="not asked for")
            if verify:
                progress("comparing with the module")
                setup = Setup((), seed=seed, random=is_random(model))
                proof = compare_export(source, staged, what, setup)
                if proof.status == "different" or (proof.because and not setup.random):
                    check_that_it_repeats_itself(source, what, decisions, proof)
                if proof.status != "equivalent":
                    raise not_equivalent(decisions, proof)
            if output is not None:
                staged.commit()
        return FoldResult(
            model,
            decisions,
            proof,
            output=name_of(output),
            sizes=sizes,
            unmatched=chosen.unmatched(decision.site for decision in decisions),
            cleaning=cleaning,
            write=lambda path: onnxfile.write(model, path, external=external_data),
        )


def _folded(
    model: onnx_ir.Model, what: Interface, request: Request, seed: int, *, verify: bool
) -> Proven[onnx_ir.Model]:
    """``model`` folded, and proven to be equivalent on inputs like the example."""
    source = onnx_source(model)
    if not verify:
        return fold_unproven(source, request, "not asked for")
    tensors = zip(what.inputs, what.example.tensors(), strict=True)
    given = UserInputs(arrays={name: to_array(tensor) for name, tensor in tensors})
    with Evaluator() as evaluator:
        evaluator.start()
        return fold_proven(evaluator, source, request, Setup((), given, seed=seed))
