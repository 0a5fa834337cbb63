"""`convert --to batch --reestimate`: BatchNorms get the statistics that calibration inputs have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normfold.errors import UsageError
from normfold.passes.fold.selection import Selection
from normfold.records import Certificate, Decision, Refusal, Verification
from normfold.verbs.fold_result import FoldResult

if TYPE_CHECKING:
    from torch import nn

    from normfold.pipeline.calibrate_module import Calibration, Inputs

WHY = "statistics were computed anew, so that the module computes something else"


def reestimated(
    module: nn.Module, inputs: Inputs, calibration: Calibration, selection: Selection, target: Path | None
) -> FoldResult[nn.Module]:
    """A copy of ``module`` whose BatchNorms store what the calibration inputs have; written to ``target``.

    Raises:
        UsageError: ``usage`` where there are no calibration inputs, or no BatchNorms.
        DiffersError: the metric is worse by more than it may be.
    """
    from normfold.models.module.duplicate import duplicate
    from normfold.models.module.save import Structure, save_state
    from normfold.passes.convert.calibrated.reestimate import reestimate
    from normfold.pipeline.calibrate_module import evaluated
    from normfold.pipeline.judged import by_score
    from normfold.pipeline.prove import refused

    if calibration.fitting_data is None:
        raise UsageError("usage", "There are no inputs to take statistics from.", "Name some with --calibrate.")
    result, before = duplicate(module), duplicate(module)
    kept = {path: reason for path, _ in result.named_modules() if (reason := selection.refusal(path)) is not None}
    found = reestimate(result, [_call(inputs, tensors) for tensors in inputs.stream(calibration.fitting_data)], kept)
    if not found.done and not found.refused:
        raise UsageError("usage", "The module has no BatchNorms.")
    decisions = tuple(_decisions(result, found.done, found.refused))
    proof, score = Verification("skipped", because=WHY), None
    if calibration.evaluation is not None and calibration.metric is not None:
        score = evaluated(before, result, calibration, calibration.evaluation, calibration.metric)
        proof = by_score(score, calibration.max_drop, None)
        if proof.status == "different":
            raise refused(decisions, proof)
    structure = Structure.between(before, result, (), ())

    def write(path: Path) -> None:
        save_state(result, structure, decisions, path)

    if target is not None:
        write(target)
    output = None if target is None else str(target)
    done = FoldResult(result, decisions, proof, output=output, write=write)
    return replace(done, score=score)


def _call(inputs: Inputs, tensors: Any) -> Any:
    return lambda module: inputs.call(module, tensors)


def _decisions(module: nn.Module, done: list[str], refused: dict[str, Refusal]) -> list[Decision]:
    kinds = {path: type(one).__name__ for path, one in module.named_modules()}
    certificate = Certificate("calibrated")
    made = [
        Decision(path, kinds[path], "converted", rules=("reestimate",), to="batch", certificate=certificate)
        for path in done
    ]
    return [*made, *(Decision(path, kinds[path], "kept", refused_by=(why,)) for path, why in refused.items())]
