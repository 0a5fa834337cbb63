"""What is checked before there are figures: equal inputs, placement of the nodes, outputs within tolerance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from normfold.errors import EnvironmentUnavailableError, FindingError, UsageError
from normfold.measure.candidate import INT8, Candidate
from normfold.proof.deviation import compare, tolerance
from normfold.proof.probes import InputSpec

Values = Mapping[str, NDArray[Any]]
Placed = Sequence[Sequence[str]]

QUANTIZED: Final = 0.1
"""Deviation allowed where activations are quantised: fused or not, sums round to other steps, layer by layer."""
NAMED: Final = 3
"""Nodes named in a message."""


def check_inputs(candidates: Sequence[Candidate]) -> None:
    """Raise `UsageError` ``inputs-differ`` unless all take the same inputs; free sizes may be named differently."""
    reference = candidates[0]
    for other in candidates[1:]:
        mine, theirs = ({spec.name: _signature(spec) for spec in one.inputs} for one in (reference, other))
        if set(mine) != set(theirs):
            parted = ", ".join(map(repr, sorted(set(mine) ^ set(theirs))))
            raise _inputs_differ(reference, other, f"only one of them has {parted}")
        for name, (dtype, shape) in mine.items():
            if dtype != theirs[name][0] or not _compatible(shape, theirs[name][1]):
                raise _inputs_differ(reference, other, f"{name!r} is of another type or shape")


def _signature(spec: InputSpec) -> tuple[Any, tuple[Any, ...] | None]:
    return spec.dtype, spec.shape


def _compatible(a: tuple[Any, ...] | None, b: tuple[Any, ...] | None) -> bool:
    if a is None or b is None:
        return True
    return len(a) == len(b) and all(
        x == y for x, y in zip(a, b, strict=True) if isinstance(x, int) and isinstance(y, int)
    )


def _inputs_differ(a: Candidate, b: Candidate, because: str) -> UsageError:
    return UsageError("inputs-differ", f"{a.name} and {b.name} take different inputs: {because}.")


def check_placement(name: str, wanted: str, placed: Placed | None, *, allow_fallback: bool) -> dict[str, int]:
    """How many nodes went to each provider.

    Raises:
        EnvironmentUnavailableError: ``provider-fallback``, some went elsewhere and that is not allowed, or nobody
            can tell; ``provider-unavailable``, none went to the provider wanted.
    """
    if placed is None:
        if wanted == "CPUExecutionProvider":
            return {}
        raise EnvironmentUnavailableError(
            "provider-fallback",
            "This version of ONNX Runtime does not report which nodes run on which execution provider.",
            "Use a newer onnxruntime.",
        )
    counts = Counter(provider for _name, _operator, provider in placed)
    elsewhere = [(node, operator) for node, operator, provider in placed if provider != wanted]
    if placed and not counts[wanted]:
        message = f"{name}: not one of {len(placed)} nodes would run on {wanted}."
        raise EnvironmentUnavailableError("provider-unavailable", message)
    if elsewhere and not allow_fallback:
        some = ", ".join(f"{node or '?'} ({operator})" for node, operator in elsewhere[:NAMED])
        more = f" and {len(elsewhere) - NAMED} more" if len(elsewhere) > NAMED else ""
        message = f"{name}: {len(elsewhere)} of {len(placed)} nodes would not run on {wanted}: {some}{more}."
        hint = "Measure it regardless, with the nodes of each provider counted: --allow-fallback."
        raise EnvironmentUnavailableError("provider-fallback", message, hint)
    return dict(counts)


def check_outputs(
    candidate: Candidate,
    reference: Candidate,
    expected: Values,
    outputs: Values,
    rtol: float | None,
    where: str = "",
) -> float:
    """Largest deviation from the ``expected`` outputs of the reference, relative to their range.

    Raises:
        FindingError: ``outputs-differ``, by more than rounding explains in the coarsest type of the two, or ``rtol``;
            ``where`` is a part of its sentence.
    """
    if set(expected) != set(outputs):
        because = f"its outputs are {', '.join(outputs)} instead of {', '.join(expected)}"
        raise _outputs_differ(candidate, where, because)
    largest = 0.0
    for name, truth in expected.items():
        allowed = max(_tolerance(truth, one) for one in (candidate, reference))
        if rtol is not None and allowed:
            allowed = rtol
        found = compare(truth, outputs[name], allowed)
        if not found.excess <= 1.0:
            also = ", and by more in one channel" if found.in_channel else ""
            by = found.reason or f"differs by {found.max_rel:.1e} of its range{also}; {allowed:.1e} is allowed"
            raise _outputs_differ(candidate, where, f"output {name!r} {by}")
        largest = max(largest, found.max_rel or 0.0)
    return float(np.float64(largest))


def _tolerance(truth: NDArray[Any], candidate: Candidate) -> float:
    if candidate.precision == INT8:
        return tolerance(truth.dtype) and QUANTIZED
    return tolerance(truth.dtype, candidate.precision or candidate.profile.rounds_to)


def _outputs_differ(candidate: Candidate, where: str, because: str) -> FindingError:
    hint = "Set a larger tolerance with --rtol, relative to the output's range."
    return FindingError("outputs-differ", f"{candidate.name} has other outputs{where}: {because}.", hint)
