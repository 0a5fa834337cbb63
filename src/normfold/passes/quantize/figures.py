"""What quantising a model comes to, in figures: of its nodes, its accuracy, its speed, and of what else was tried."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from normfold.records import finite

Width = Literal["int8", "a16w8", "int4", "fp16", "bf16", "fp32", "auto"]
"""What a model computes in; ``auto`` takes what is best within the budget."""
Format = Literal["auto", "qdq", "contrib"]
"""Standard operators with quantisers between them, or operators of ONNX Runtime's own; ``auto`` takes the faster."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """An estimate and its confidence bounds."""

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float | None]:
        """As a document holds it."""
        return {"value": self.value, "low": finite(self.low), "high": finite(self.high)}


@dataclass(frozen=True, slots=True)
class Choice:
    """A part of the recipe that was tried, and whether it stayed."""

    name: str
    loss: float
    """Noise over signal at the outputs, on held-out samples of the calibration data."""
    kept: bool

    def record(self) -> dict[str, Any]:
        """As a document holds it."""
        return {"name": self.name, "loss": self.loss, "kept": self.kept}


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """One operation of the folded model, and what it has become."""

    name: str
    operator: str
    width: str
    because: str = ""
    """Why it stays in floating point; empty where it does not."""
    ms_before: float | None = None
    ms_after: float | None = None
    sqnr: float | None = None
    """Signal to quantisation noise at its output, in decibels."""

    def record(self) -> dict[str, Any]:
        """As a document holds it."""
        return {
            "name": self.name,
            "operator": self.operator,
            "width": self.width,
            "because": self.because,
            "ms_before": self.ms_before,
            "ms_after": self.ms_after,
            "sqnr": self.sqnr,
        }


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A metric before and after, on the same samples."""

    metric: str
    unit: str
    before: float
    after: float
    difference: Bounds
    """After less before, with the paired interval."""
    drop: float
    """How much worse it is, in the metric's unit."""
    worst: float
    """The end of the interval at which it is worst, as a drop."""
    samples: int
    method: str
    """How the interval was found: t, proportions or bootstrap."""
    unoptimised: float | None = None
    """``after`` with ONNX Runtime's optimisations off."""

    def record(self) -> dict[str, Any]:
        """As a document holds it."""
        return {
            "metric": self.metric,
            "unit": self.unit,
            "before": self.before,
            "after": self.after,
            "difference": self.difference.record(),
            "drop": self.drop,
            "worst": finite(self.worst),
            "samples": self.samples,
            "method": self.method,
            "unoptimised": self.unoptimised,
        }

    @classmethod
    def of(cls, record: dict[str, Any]) -> Accuracy:
        """From what `record` returned, which has nothing for what is infinite."""
        low, value, high = (record["difference"][name] for name in ("low", "value", "high"))
        bounds = Bounds(value, -inf if low is None else low, inf if high is None else high)
        return cls(**{**record, "difference": bounds, "worst": inf if record["worst"] is None else record["worst"]})


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of the result over that of its source, measured beside one another."""

    ratio: Bounds
    verdict: str
    threads: int
    batch: int | None
    ms_before: float
    ms_after: float

    def record(self) -> dict[str, Any]:
        """As a document holds it."""
        return {
            "ratio": self.ratio.record(),
            "verdict": self.verdict,
            "threads": self.threads,
            "batch": self.batch,
            "ms_before": self.ms_before,
            "ms_after": self.ms_after,
        }


@dataclass(frozen=True, slots=True)
class Point:
    """One model that was tried: a point of the front of accuracy and speed."""

    name: str
    format: Format
    width: Width
    nbytes: int
    latency: Latency | None = None
    accuracy: Accuracy | None = None
    chosen: bool = False

    def record(self) -> dict[str, Any]:
        """As a document holds it."""
        return {
            "name": self.name,
            "format": self.format,
            "width": self.width,
            "bytes": self.nbytes,
            "latency": None if self.latency is None else self.latency.record(),
            "accuracy": None if self.accuracy is None else self.accuracy.record(),
            "chosen": self.chosen,
        }
