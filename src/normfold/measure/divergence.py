"""Where in the graph a target's values begin to differ: the model with every value an output, on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from normfold.errors import FindingError
from normfold.measure.candidate import Candidate
from normfold.measure.checks import Values, check_outputs

Compute = Callable[[Candidate], Values]


class Step(NamedTuple):
    """A value and the operation that makes it."""

    value: str
    operator: str


def first_divergence(candidate: Candidate, there: Compute, here: Compute, rtol: float | None, folder: Path) -> str:
    """A clause that names the first value in which the two differ, or says that none does.

    ``there`` and ``here`` compute all outputs of a candidate; ``folder`` is for its file.
    """
    exposed, steps = _exposed(candidate, folder)
    truth, found = here(exposed), there(exposed)
    for name, operator in steps:
        if name not in truth or name not in found:
            continue
        try:
            check_outputs(candidate, candidate, {name: truth[name]}, {name: found[name]}, rtol)
        except FindingError:
            return f"the first value that differs is {name!r}, which {operator} makes"
    return "with every value an output, nothing differs: it comes from how operations are fused"


def _exposed(candidate: Candidate, folder: Path) -> tuple[Candidate, list[Step]]:
    """The model with the outputs of all nodes of its graph as outputs, and these in order."""
    import onnx

    model = onnx.load(candidate.model.file, load_external_data=False)
    steps = [Step(name, node.op_type) for node in model.graph.node for name in node.output if name]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=step.value) for step in steps if step.value not in known)
    file = folder / f"exposed-{len(list(folder.iterdir()))}.onnx"
    onnx.save(model, file)
    return replace(candidate, model=replace(candidate.model, file=file)), steps
