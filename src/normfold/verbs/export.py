"""`export`: exporter, fold, comparison with eager PyTorch, and only then the file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from normfold._version import __version__
from normfold.errors import UsageError
from normfold.models import onnxfile as modelfile
from normfold.models.exporter.exporter import lowered, raw_model
from normfold.models.exporter.interface import Interface, interface
from normfold.models.exporter.tidying import tidy
from normfold.models.module.example import Example, to_array
from normfold.models.module.packages import needs
from normfold.pipeline.modules import copied
from normfold.proof.comparison import Setup
from normfold.proof.exported import FilesAndModules, compare
from normfold.records import Decision, Progress, Verification, silent
from normfold.runtime import Evaluator, Runnable
from normfold.verbs import fold as api
from normfold.verbs.fold_result import DiffersError, FoldResult, UnprovenError


def export(  # noqa: PLR0913 - each keyword is an option of the command line
    module: nn.Module,
    example_inputs: Any,
    output: str | os.PathLike[str] | None = None,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
    fold: bool = True,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    verify: bool = True,
    external_data: Literal["auto", "always", "never"] = "auto",
    progress: Progress = silent,
) -> FoldResult:
    """Export ``module`` to ONNX, fold its norms there, and, if ``output`` is given, write the result in one step.

    The result is compared with ``module`` itself, run eagerly, on random and adversarial inputs, at several sizes of
    what is dynamic.

    Args:
        module: in evaluation mode, or a learner that has one as its ``model``; left as it is.
        example_inputs: a tuple of positional arguments, a dict of named ones, or the only one. Arguments may be
            tuples, lists and dicts of tensors; what is no tensor is fixed in the result.
        output: where to write; nothing is written unless the result is proven (or ``verify`` is off).
        dynamic: free sizes: input name to axis to a name, as in ``{"x": {0: "batch"}}``.
        input_names: names of the result's inputs; by default those of the arguments.
        output_names: names of its outputs; by default the keys or fields of what the module returns.
        opset: of the result; by default the exporter's.
        fold: whether to fold the norms.
        only: glob patterns; norms whose site matches none of them are kept.
        skip: glob patterns; norms whose site matches one of them are kept.
        seed: for the random test inputs.
        verify: compare the result with the module.
        external_data: whether weights go into a file of their own; "auto" does so from 1.8 GB on.
        progress: told what is being done.

    Returns:
        The ``onnx_ir.Model``, a decision for every norm, and the comparison with the module.

    Raises:
        DiffersError: the result differs from the module.
        UnprovenError: nothing here can run the result.
        NormfoldError: any other reason, with its code; ``not-exportable`` carries the exporter's.
    """
    needs("onnxscript")
    progress("exporting")
    source = copied(checked(module))
    what = interface(source, Example.of(example_inputs), dynamic or {}, input_names, output_names)
    model = raw_model(source, what, opset)
    tidy(model, what)
    model = lowered(model, opset)
    decisions: tuple[Decision, ...] = ()
    if fold:
        feeds = {name: to_array(one) for name, one in zip(what.inputs, what.example.tensors(), strict=True)}
        folded = api.fold(model, inputs=feeds, only=only, skip=skip, seed=seed, verify=verify, progress=progress)
        model, decisions = folded.model, folded.decisions
    model.metadata_props["normfold.version"] = __version__
    model.metadata_props["normfold.module"] = f"{type(source).__module__}.{type(source).__qualname__}"
    target = None if output is None else Path(output)
    with ExitStack() as stack:
        progress("writing")
        path = target or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="normfold-"))) / "model.onnx"
        staged = stack.enter_context(modelfile.stage(model, path, external=external_data))
        proof = Verification("skipped", because="not asked for")
        if verify:
            progress("comparing with the module")
            random = any(node.op_type in api.RANDOM for node in model.graph.all_nodes())
            proof = _proven(source, staged, what, Setup((), seed=seed, random=random), decisions)
        if target is not None:
            staged.commit()
    return FoldResult(model, decisions, proof)


def checked(module: Any) -> nn.Module:
    """``module``, or the one of a learner.

    Raises:
        UsageError: it is none, or in training mode.
    """
    found = api.module_of(module)
    if found is None:
        raise UsageError("usage", f"What is exported is an nn.Module, not a {type(module).__name__}.")
    if found.training:
        raise UsageError("not-exportable", "The module is in training mode.", "Call module.eval() first.")
    return found


def _proven(
    source: nn.Module, staged: modelfile.Staged, what: Interface, setup: Setup, decisions: tuple[Decision, ...]
) -> Verification:
    """The comparison, where it speaks for the result."""
    problem = api.rejection(staged.file)
    if problem is not None:
        raise UsageError("not-exportable", f"What PyTorch exports is not valid ONNX: {problem}", "Try another opset.")
    with Evaluator() as evaluator:
        proof = compare(
            partial(FilesAndModules, evaluator), source, Runnable(staged.file, staged.data_folder), what, setup
        )
    return handed_over(proof, decisions)


def handed_over(proof: Verification, decisions: tuple[Decision, ...]) -> Verification:
    """``proof``, unless it forbids to hand the result over.

    Raises:
        DiffersError: the result differs from the module.
        UnprovenError: the two cannot be compared.
    """
    if proof.status == "different":
        message = f"The exported model differs from the module, so it is not handed over: {proof.because}"
        hint = "Does the code take another way for other sizes or numbers? An example that takes it shows more."
        raise DiffersError("export-differs", message, hint, decisions, proof)
    if proof.status != "equivalent":
        message = f"The exported model cannot be compared with the module, so it is not handed over: {proof.because}"
        hint = "Export without the comparison: --no-verify, or verify=False."
        raise UnprovenError("unverified", message, hint, decisions, proof)
    return proof
