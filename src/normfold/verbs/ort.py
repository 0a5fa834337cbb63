"""The verb `ort`: a model in ONNX Runtime's own format, for builds that contain only what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from normfold.errors import OutputError, UsageError
from normfold.limits import limited
from normfold.measure.candidate import open_candidate, with_batch
from normfold.measure.checks import check_outputs
from normfold.measure.inputs import ArrayFolder, prepare_inputs
from normfold.models.data import Arrays, Shapes, user_inputs
from normfold.models.source import File, OnnxModel, name_of
from normfold.records import Progress, finite, silent
from normfold.report.blocks import Blocks, Code, Detail, Heading, KeyValues, Paragraph, Verdict
from normfold.report.document import write_bytes
from normfold.report.result import Result
from normfold.runtime import Runnable
from normfold.runtime.session_profile import SessionProfile, Threading, session_request
from normfold.runtime.targets.timing_client import TimingClient

SUFFIX: Final = ".ort"
PORTABLE: Final = SessionProfile(disabled_optimizers=("NchwcTransformer",))
"""The optimisations are in the file; this one lays weights out for one kind of processor."""
PLAIN: Final = SessionProfile(options={"graph_optimization_level": "ORT_DISABLE_ALL"})
WORKER_TIMEOUT: Final = 300.0


@dataclass(frozen=True, slots=True, repr=False)
class OrtResult(Result):
    """A model in ONNX Runtime's format, proven to compute what the source does."""

    model: str | None
    output: str
    operators_file: str
    operators: tuple[str, ...]
    """A line for each domain and opset: ``ai.onnx;17;Add,Conv``."""
    bytes_before: int
    bytes_after: int
    runtime_bytes: int
    """Size of the complete ONNX Runtime that was used here."""
    deviation: float
    """Largest, from the source's outputs without optimisations, relative to their range."""

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """Sizes, the operators, and how to build with them."""
        verdict = Verdict(f"equal outputs: they deviate by {self.deviation:.1e} of their range", "good")
        if detail == Detail.SUMMARY:
            return (verdict,)
        facts = (
            ("model", f"{self.bytes_before:,} bytes"),
            (self.output, f"{self.bytes_after:,} bytes"),
            ("complete ONNX Runtime", f"{self.runtime_bytes:,} bytes"),
            *((line.rsplit(";", 1)[0], line.rsplit(";", 1)[1]) for line in self.operators),
        )
        build = f"./build.sh --config MinSizeRel --minimal_build --include_ops_by_config {self.operators_file}"
        said = Paragraph("A reduced build of ONNX Runtime that runs it:")
        return Heading(f"{self.model or 'model'} -> {self.output}"), KeyValues(facts), verdict, said, Code((build,))

    def document(self) -> dict[str, Any]:
        """``result`` of the JSON document."""
        return {
            "source": self.model,
            "output": self.output,
            "operators_file": self.operators_file,
            "operators": list(self.operators),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "runtime_bytes": self.runtime_bytes,
            "deviation": finite(self.deviation),
        }


def ort(
    model: OnnxModel,
    *,
    output: File,
    shapes: Shapes | None = None,
    inputs: Arrays | File | None = None,
    rtol: float | None = None,
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> OrtResult:
    """Write ``model`` in ONNX Runtime's format, and beside it the list of operators that a reduced build has to have.

    Args:
        model: a path, a ``ModelProto`` or an ``onnx_ir.Model``.
        output: where to write, ending in ``.ort``; the list goes beside it, with ``.config`` in place of that.
        shapes: by input name, for inputs with dynamic dimensions.
        inputs: arrays by input name to compare on, or the path of an ``.npz`` file of them.
        rtol: tolerance: the largest deviation allowed, relative to each output's range; by default the type decides.
        seed: for the random test inputs.
        custom_ops: libraries of custom operators.
        time_limit: seconds for the whole call; by default 15 minutes.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: called with what is being done.

    Raises:
        FindingError: ``outputs-differ``, it computes something else; nothing is written.
        OutputError: the files cannot be written, or would overwrite the source.
        NormfoldError: the model cannot be read, or ONNX Runtime cannot run it.
    """
    target = Path(output)
    if target.suffix != SUFFIX:
        raise UsageError("usage", f"{target} does not end in {SUFFIX}, by which ONNX Runtime knows its format.")
    listed = target.with_suffix(".config")
    given = user_inputs(shapes, inputs)
    with limited(time_limit, memory_limit), open_candidate(model) as source, ArrayFolder() as folder:
        if target.exists() and target.samefile(source.model.file):
            raise OutputError("output-is-input", f"{target} is an input of this command.", "Choose another name.")
        specs, given = with_batch(source.inputs, given, None)
        made, config = folder.path / "model.ort", folder.path / "model.config"
        with TimingClient(time_limit=WORKER_TIMEOUT) as client:
            hello = client.hello((), 0)
            plain, portable = (session_request(one, 1, "edge", Threading(0), custom_ops) for one in (PLAIN, PORTABLE))
            progress("running the model")
            client.open("source", source.model, plain)
            fed = prepare_inputs(client, "source", specs, given, seed, folder)
            expected = folder.keep(client.outputs("source"))
            client.close("source")
            progress("converting")
            client.reduce(source.model, portable, made, config)
            progress("comparing")
            client.open("result", Runnable(made, folder.path), portable)
            client.bind("result", fed.entries)
            deviation = check_outputs(source, source, expected, client.outputs("result"), rtol, " in this format")
        lines = config.read_text(encoding="utf-8").splitlines()
        result = OrtResult(
            name_of(model),
            str(target),
            str(listed),
            tuple(line for line in lines if line and not line.startswith("#")),
            source.nbytes or 0,
            made.stat().st_size,
            hello["runtime_bytes"],
            deviation,
        )
        write_bytes(listed, config.read_bytes())
        write_bytes(target, made.read_bytes())
    return result
