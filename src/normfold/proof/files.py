"""Comparing ONNX files: what a model says about itself, and the comparison of no more than what was changed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import onnx_ir as ir

from normfold.models.data import UserInputs
from normfold.models.source import is_random, runnable
from normfold.proof.comparison import Setup, verify
from normfold.proof.parts import changed_part
from normfold.proof.probes import input_specs
from normfold.proof.runner import Queue
from normfold.records import Pair, Verification
from normfold.runtime import Runnable

COARSE: Final = ("bfloat16", "float16")
"""Types whose rounding decides how close two models can be, coarsest first."""
APART: Final = "no output depends on what was changed"


def about(model: ir.Model, setup: Setup) -> Setup:
    """``setup`` with what the model itself says: its inputs, its precision, its randomness."""
    types = {value.dtype.name.lower() for value in model.graph.initializers.values() if value.dtype is not None}
    precision = next((name for name in COARSE if name in types), None)
    return replace(setup, inputs=input_specs(model), precision=precision, random=is_random(model))


def compare_part(
    queue: Queue[Runnable],
    source: ir.Model,
    result: ir.Model,
    setup: Setup,
    whole: Verification,
    pairs: Sequence[Pair] = (),
) -> Verification:
    """The comparison of what ``result`` has changed of ``source``, both of which are used up.

    ``whole`` is the comparison of the two that could not be had, and is the answer where this one cannot either.
    """
    part = changed_part(source, result)
    if part is None:
        return whole
    if not part[0].graph.outputs:
        return Verification("equivalent", because=APART, max_abs=0.0, max_rel=0.0)
    about_part = about(part[0], setup)
    names = {spec.name for spec in about_part.inputs}
    given = UserInputs(
        {name: shape for name, shape in setup.given.shapes.items() if name in names},
        {name: array for name, array in setup.given.arrays.items() if name in names},
    )
    inner = [{value.name for node in model.graph for value in node.outputs} for model in part]
    kept = [pair for pair in pairs if pair.source in inner[0] and pair.result in inner[1]]
    with ExitStack() as files:
        ours, theirs = (files.enter_context(runnable(model)) for model in part)
        proof = verify(queue, ours, theirs, replace(about_part, given=given), kept)
    if proof.status == "unavailable":
        return whole
    said = f"only what was changed was compared ({whole.because})"
    return replace(proof, because="; ".join(filter(None, [proof.because, said])))
