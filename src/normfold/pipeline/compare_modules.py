"""A module compared with another one, or with an ONNX model."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from normfold.models.exporter.interface import Interface, interface
from normfold.models.module.duplicate import duplicate
from normfold.models.module.example import Example
from normfold.models.module.untouched import untouched
from normfold.models.source import OnnxSource, module_of, onnx_source
from normfold.proof.comparison import Setup
from normfold.proof.exported import FilesAndModules, compare
from normfold.proof.modules import InProcess, RunnableModule
from normfold.proof.probes import input_specs
from normfold.records import Progress, Verification
from normfold.runtime import Evaluator


@untouched()
def compare_modules(a: Any, b: Any, example_inputs: Any, setup: Setup, progress: Progress) -> Verification:
    """Compare ``b`` with ``a``, one of which is a module, on inputs like ``example_inputs``.

    Raises:
        UsageError: a module does not run on the example inputs, or takes and gives something else than the model.
    """
    example = Example.of(example_inputs)
    first, second = module_of(a), module_of(b)
    progress("running both")
    if first is not None and second is not None:
        what = interface(duplicate(first), example, {})
        return compare(InProcess, duplicate(first), RunnableModule(duplicate(second)), what, setup)
    module = first or second
    if module is None:
        raise ValueError("two ONNX models are compared as files")
    return _with_file(duplicate(module), onnx_source(b if second is None else a), example, setup)


def _with_file(module: nn.Module, source: OnnxSource, example: Example, setup: Setup) -> Verification:
    with Evaluator() as evaluator, source.runnable() as file:
        return compare(partial(FilesAndModules, evaluator), module, file, _interface(module, source, example), setup)


def _interface(module: nn.Module, source: OnnxSource, example: Example) -> Interface:
    """What goes in and out of ``module``, by the names that the ONNX model gives it."""
    model = source.fresh()
    inputs = [spec.name for spec in input_specs(model)]
    return interface(module, example, {}, inputs, [output.name or "" for output in model.graph.outputs])
