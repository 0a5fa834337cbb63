"""Exporting a module to ONNX: the exporter's model, and its comparison with eager PyTorch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import onnx_ir
from torch import nn

from normfold.backends.torch import carried
from normfold.errors import UsageError
from normfold.models import onnxfile
from normfold.models.exporter.exporter import lowered, opset_for, raw_model
from normfold.models.exporter.interface import Interface
from normfold.models.exporter.tidying import tidy
from normfold.models.module.behaviour import unsteadiness
from normfold.models.source import module_of, no_module
from normfold.pipeline.prove import DiffersError, UnprovenError
from normfold.proof.comparison import Setup
from normfold.proof.exported import FilesAndModules, compare
from normfold.records import Decision, Verification
from normfold.runtime import CHECKER, Evaluator, Runnable


def evaluation_module(module: Any, verb: str = "export") -> nn.Module:
    """``module``, or the one of a learner, in evaluation mode.

    Raises:
        UsageError: it is none, or in training mode.
    """
    found = module_of(module)
    if found is None:
        raise no_module(module, verb)
    if found.training:
        raise UsageError("not-exportable", "The module is in training mode.", "Call module.eval() first.")
    return found


def exported_model(module: nn.Module, what: Interface, opset: int | None) -> onnx_ir.Model:
    """``module`` in ONNX, with the names of its own and the records that it carries.

    It is in ``opset``, or by default in one that has its types; in a later one where `lowered` cannot get there yet:
    what stands in its way may be folded.

    Raises:
        UsageError: ``not-exportable``, with the exporter's reason.
    """
    model = raw_model(module, what, opset or opset_for(module, what))
    tidy(model, what, carried(module))
    try:
        return lowered(model.clone(), opset)
    except UsageError:
        return model


def compare_export(module: nn.Module, staged: onnxfile.Staged, what: Interface, setup: Setup) -> Verification:
    """The comparison of the file ``staged`` with ``module``, run eagerly, at several sizes of the dynamic dimensions.

    Raises:
        UsageError: ``not-exportable`` where it is not valid ONNX.
    """
    problem = CHECKER.rejection(staged.file).result()
    if problem is not None:
        raise UsageError(
            "not-exportable", f"The model that PyTorch exported is not valid ONNX: {problem}", "Try another opset."
        )
    with Evaluator() as evaluator:
        result = Runnable(staged.file, staged.data_folder)
        return compare(partial(FilesAndModules, evaluator), module, result, what, setup)


def check_that_it_repeats_itself(
    module: nn.Module, what: Interface, decisions: tuple[Decision, ...], proof: Verification
) -> None:
    """Raise `UnprovenError` ``not-repeatable`` where the two differ since the module differs from itself.

    What such a module does looks like chaos, too, which the proof excuses, and says so.
    """
    why = unsteadiness(module, what.example, seeded=False)
    if why:
        message = f"The module gives other outputs for the same inputs, so no file can be compared with it: {why}."
        hint = "Switch that off before the export, or export without the comparison: --no-verify, or verify=False."
        raise UnprovenError(
            "not-repeatable", message, hint, decisions, replace(proof, status="unavailable", because=why)
        )


def not_equivalent(decisions: tuple[Decision, ...], proof: Verification) -> UnprovenError:
    """The error that the export of a module is not handed over."""
    if proof.status == "different":
        message = f"The exported model differs from the module, so it is not handed over: {proof.because}"
        hint = "Does the control flow depend on sizes or values? An example that takes the other branch shows more."
        return DiffersError("export-differs", message, hint, decisions, proof)
    message = f"The exported model cannot be compared with the module, so it is not handed over: {proof.because}"
    hint = "Export without the comparison: --no-verify, or verify=False."
    return UnprovenError("unverified", message, hint, decisions, proof)
