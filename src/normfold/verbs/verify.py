"""`verify`: are two models the same, and if not, how far apart are they?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normfold.errors import UsageError
from normfold.limits import limited
from normfold.models.data import Arrays, Shapes, user_inputs
from normfold.models.source import File, OnnxModel, module_of, name_of, onnx_source
from normfold.proof.comparison import Comparison, Setup
from normfold.proof.files import about, compare_part
from normfold.records import Progress, Verification, silent, verification_record
from normfold.report.blocks import Blocks, Detail, Heading
from normfold.report.decisions import verification_blocks
from normfold.report.result import Result
from normfold.runtime import Evaluator

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, repr=False)
class VerifyResult(Result):
    """The comparison of two models, ``a`` and ``b`` as they were named; None for those in memory."""

    verification: Verification
    a: str | None = None
    b: str | None = None

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """The verdict; in full, with every input that was fed."""
        named = self.a is not None and self.b is not None and detail > Detail.SUMMARY
        title = (Heading(f"{self.a} <> {self.b}"),) if named else ()
        return (*title, *verification_blocks(self.verification, detail))

    def document(self) -> dict[str, Any]:
        """The comparison."""
        return {"source": self.a, "other": self.b, "verification": verification_record(self.verification)}


def verify(
    a: OnnxModel | nn.Module,
    b: OnnxModel | nn.Module,
    *,
    example_inputs: Any = None,
    shapes: Shapes | None = None,
    inputs: Arrays | File | None = None,
    rtol: float | None = None,
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> VerifyResult:
    """Compare ``b`` with ``a`` on random and adversarial inputs.

    Where nothing can run the two the status is "unavailable".

    Args:
        a: a path, a ``ModelProto``, an ``onnx_ir.Model`` or an ``nn.Module``.
        b: likewise; an ONNX model may be compared with a module.
        example_inputs: what modules are called with, as for `fold`.
        shapes: by input name, for inputs with dynamic dimensions.
        inputs: arrays by input name to compare on, or the path of an ``.npz`` file of them.
        rtol: tolerance: the largest deviation allowed, relative to each output's range; by default the type decides.
        seed: for the random test inputs.
        custom_ops: libraries of custom operators, loaded to run the models.
        time_limit: seconds for the whole call; by default 15 minutes. For a module both limits hold between
            its forward passes.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: called with what is being done.

    Raises:
        NormfoldError: a model cannot be read, or an input given does not fit.
    """
    with limited(time_limit, memory_limit):
        given = user_inputs(shapes, inputs)
        setup = Setup((), given, rtol=rtol, seed=seed, custom_ops=custom_ops)
        if module_of(a) is not None or module_of(b) is not None:
            if given.names:
                raise UsageError("usage", "shapes and inputs are for ONNX models.", "A module takes example_inputs=.")
            from normfold.pipeline.compare_modules import compare_modules

            proof = compare_modules(a, b, example_inputs, setup, progress)
        else:
            if example_inputs is not None:
                raise UsageError("usage", "example_inputs are for modules.", "ONNX models take inputs={name: array}.")
            proof = _files(a, b, setup, progress)
        return VerifyResult(proof, name_of(a), name_of(b))


def _files(a: object, b: object, setup: Setup, progress: Progress) -> Verification:
    with Evaluator() as evaluator, ExitStack() as files:
        evaluator.start()
        progress("reading")
        source, result = onnx_source(a), onnx_source(b)
        evaluator.expect(max(source.nbytes, result.nbytes))
        comparison = Comparison(evaluator, about(source.fresh(), setup))
        progress("running both")
        comparison.begin(files.enter_context(source.runnable()))
        proof = comparison.finish(files.enter_context(result.runnable()))
        if comparison.source_fails:
            return compare_part(evaluator, source.fresh(), result.fresh(), setup, proof)
        return proof
