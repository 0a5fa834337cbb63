"""What a recipe gets, and what it hands back: a width is a recipe that makes quantised models of a folded one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir

from normfold.models.dataset import Dataset
from normfold.passes.quantize.figures import Choice, Format, NodeFigures, Width
from normfold.records import Progress, StatisticsRecord, silent
from normfold.runtime import Evaluator


@dataclass(frozen=True, slots=True)
class Work:
    """A folded model, and what there is to quantise it with."""

    fresh: Callable[[], onnx_ir.Model]
    """A copy of the folded model at each call."""
    width: Width
    formats: Sequence[Format]
    """Those asked for, without ``auto``."""
    evaluator: Evaluator
    calibration: Dataset | None = None
    records: tuple[StatisticsRecord, ...] = ()
    """What the norms that were folded know about values of the model."""
    ep: str = "cpu"
    seed: int = 0
    custom_ops: tuple[str, ...] = ()
    progress: Progress = silent
    compared: Dataset | None = None
    """Samples to compare outputs on where there are no calibration data; their labels are not looked at."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The operations that a recipe made narrow, any of which can stay in floating point instead."""

    names: tuple[str, ...]
    loss: Callable[[frozenset[str]], float]
    """Noise over signal at the outputs with those of these names in floating point, on samples that no metric sees."""
    made: Callable[[frozenset[str]], Sequence[Quantized]]
    """The models in which they are."""


Stepwise = tuple[onnx_ir.Model, Sequence[str], str]
"""A model, and its output that holds by how many steps of its codes each operation is off, of which these are named."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A model that a recipe has made."""

    model: onnx_ir.Model
    width: Width
    format: Format
    nodes: tuple[NodeFigures, ...]
    simulation: onnx_ir.Model | None = None
    """Computes the same codes in floating point; what the model is verified against. None: against the folded model."""
    budget: float | None = None
    """Deviation from ``simulation`` that rounding explains, relative to the output's range."""
    rewritten: Callable[[], onnx_ir.Model] | None = None
    """The model in the form that was quantised, in floating point."""
    approximate: bool = False
    """Whether that form stands for the model only nearly."""
    stepwise: Callable[[], Stepwise] | None = None
    """The model with each operation compared with what it should make of the codes that it reads."""
    emulation: onnx_ir.Model | None = None
    """Computes the same with operations that the CPU's provider has; what is run in its place where it has not."""
    choices: tuple[Choice, ...] = ()
    """Parts of the recipe that were tried."""
    mixture: Mixture | None = None
    noise: Callable[[], Mapping[str, float]] | None = None
    """Finds signal to quantisation noise by the name of the operation, in decibels."""
    name: str = ""
    """What tells it from others of the same width and format."""


Recipe = Callable[[Work], Sequence[Quantized]]
