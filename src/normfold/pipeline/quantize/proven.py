"""Whether a quantised model computes what it should: from end to end, and where that says little, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import numpy as np
import onnx_ir

from normfold.errors import FindingError
from normfold.models.data import UserInputs
from normfold.models.dataset import Dataset
from normfold.models.source import runnable
from normfold.passes.quantize import outputs
from normfold.passes.quantize.recipe import Quantized
from normfold.proof.comparison import Setup, verify
from normfold.proof.files import about
from normfold.proof.probes import KINDS, layouts, make_feed
from normfold.records import Verification
from normfold.runtime import Evaluator, Failed, Runnable, WorkerClient

EMULATED: Final = "each operation was emulated: computed in float32, what it makes rounded"
EXACTLY: Final = 1e-3
"""Deviation from the folded model of what is rewritten exactly, in float32, relative to the output's range."""
NEARLY: Final = 0.1
"""The same where sigmoids stand for GELUs."""
NEAREST: Final = 1.0
"""Steps between what an operation computes from codes and the code that it makes; half of one is rounding."""


def check_form(
    evaluator: Evaluator, made: Sequence[Quantized], folded: onnx_ir.Model, setup: Setup, calibration: Dataset | None
) -> None:
    """Compare the form of the network that ``made`` are quantised from with ``folded``, both in floating point.

    Raises:
        FindingError: ``result-differs``.
    """
    one = next((quantized for quantized in made if quantized.rewritten is not None), None)
    if one is None or one.rewritten is None:
        return
    fed = setup.given if setup.given.arrays else _first(calibration, setup.given)
    with ExitStack() as files:
        ours, theirs = (files.enter_context(runnable(model)) for model in (folded.clone(), one.rewritten()))
        rtol = NEARLY if one.approximate else EXACTLY
        proof = verify(evaluator, ours, theirs, replace(about(folded, setup), given=fed, rtol=rtol))
    if proof.status == "different":
        message = f"The network in the form that integer kernels have computes something else: {proof.because}"
        raise FindingError("result-differs", message, "Please report this.")


def proven(
    evaluator: Evaluator,
    quantized: Quantized,
    runs: Runnable,
    folded: onnx_ir.Model,
    setup: Setup,
    calibration: Dataset | None,
) -> Verification:
    """How ``quantized``, of which ``runs`` is run, compares with its simulation, or with ``folded`` where it has none.

    A network can make anything of sums that were rounded in another order. Where outputs are further apart than the
    budget allows, each operation is compared alone, on the codes that it reads.
    """
    fed = setup.given if setup.given.arrays else _first(calibration, setup.given)
    budget = quantized.budget
    with ExitStack() as files:
        expected = folded.clone() if quantized.simulation is None else quantized.simulation
        truth = files.enter_context(runnable(expected))
        known = replace(about(expected, setup), given=fed, rtol=budget)
        proof = verify(evaluator, truth, runs, known)
        if proof.status not in ("equivalent", "different") or budget is None:
            return proof
        said = [proof.because, EMULATED if quantized.emulation is not None else ""]
        if proof.max_rel is None or proof.max_rel > budget:
            alone = None if quantized.stepwise is None else _step_by_step(evaluator, quantized, known)
            if isinstance(alone, str):
                return replace(proof, status="different", because=alone)
            if alone is None and proof.status == "different":
                return proof
            if alone is not None:
                said = [f"each operation makes the nearest code, {alone:.2g} steps off at most; {proof.because}"]
    return replace(proof, status="within-budget", budget=budget, because="; ".join(filter(None, said)))


def _first(calibration: Dataset | None, given: UserInputs) -> UserInputs:
    """The first of the calibration data, on which codes are what they will be in use."""
    if calibration is None:
        return given
    return UserInputs(arrays=next(calibration.batches(outputs.BATCH)).inputs)


def _step_by_step(evaluator: Evaluator, quantized: Quantized, setup: Setup) -> float | str | None:
    """How many steps any operation is off; which one where that is too many; None where they cannot be run alone."""
    model, names, output = quantized.stepwise() if quantized.stepwise is not None else (None, [], "")
    feed = make_feed(setup.inputs, setup.given, next(iter(layouts(setup.inputs, setup.given))), KINDS[0], setup.seed)

    def task(client: WorkerClient) -> list[np.ndarray]:
        found = []
        for optimised in (True, False):
            loaded = client.load(file, custom_ops=setup.custom_ops, optimised=optimised)
            ran = loaded if isinstance(loaded, Failed) else client.run(feed.arrays, [output])
            found += [] if isinstance(ran, Failed) else [np.array(ran.outputs[output])]
        return found

    if model is None:
        return None
    with runnable(model) as file:
        found = evaluator.submit(task).result()
    if not found:
        return None
    off = np.max(found, axis=0)
    worst = int(off.argmax())
    if off[worst] > NEAREST:
        return f"operation {names[worst]!r} is {off[worst]:.3g} steps off what its codes stand for"
    return float(off[worst])
