"""Stored figures, and the comparison of two sets of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from normfold.errors import UsageError
from normfold.measure import statistics
from normfold.measure.candidate import Conditions
from normfold.measure.figures import instructions
from normfold.measure.statistics import Comparison, Interval
from normfold.runtime.side_files import read_json
from normfold.runtime.targets import LOCAL

SCHEMA: Final = "normfold.bench/1"
DECISIVE: Final = ("processor", "cpus", "cpu_features")
"""Fields of the environment that must agree, besides the version of ONNX Runtime and the GPUs."""


@dataclass(frozen=True, slots=True)
class Series:
    """One model under one set of conditions: logarithm of its latency, or of its count, in each process."""

    conditions: Conditions
    kind: str
    """Of the figures."""
    machine: Mapping[str, Any]
    """That of a target other than this machine, its version of ONNX Runtime included."""
    provider: str
    name: str
    sha256: str | None
    levels: tuple[float, ...]
    control: Interval | None


@dataclass(frozen=True, slots=True)
class Stored:
    """The part of a document that a comparison needs."""

    decisive: Mapping[str, Any]
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class StoredComparison:
    """Time, or count, of ``other`` over that of ``reference`` under one set of conditions."""

    conditions: Conditions
    reference: str
    other: str
    comparison: Comparison


def read_document(path: Path) -> Stored:
    """The figures in a file.

    Raises:
        UsageError: ``bad-measurement``, it holds none.
    """
    try:
        return from_document(read_json(path))
    except (OSError, ValueError) as error:
        raise UsageError("bad-measurement", f"{path} cannot be read: {error}") from error
    except UsageError as error:
        raise UsageError(error.code, f"{path}: {error.message}", error.hint) from error


def from_document(document: Any) -> Stored:
    """The figures of a document; raises as `read_document`."""
    try:
        if document["schema"] != SCHEMA:
            raise UsageError("bad-measurement", f"Its schema is {document['schema']}, not {SCHEMA}.")
        versions = document["environment"]["packages"]
        decisive = {name: document["environment"][name] for name in DECISIVE}
        decisive |= {
            "onnxruntime": versions["onnxruntime"],
            "gpus": [_kind(one) for one in document["environment"]["gpus"]],
        }
        models = {model["name"]: model for model in document["models"]}
        series = [one for cell in document["cells"] for one in _series(cell, models)]
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        message = f"It does not hold what {SCHEMA} promises: {type(error).__name__} {error}."
        raise UsageError("bad-measurement", message) from error
    return Stored(decisive, tuple(series))


def _kind(gpu: Mapping[str, str]) -> str:
    return f"{gpu['name']}, driver {gpu['driver']}"


def _series(cell: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]) -> list[Series]:
    where = Conditions(cell["batch"], cell["threads"], cell["use"], tuple(cell["cpus"]), cell.get("target", LOCAL.name))
    machine = {} if where.target == LOCAL.name else _machine(cell)
    control = cell["control"]
    found = []
    for figure in cell["figures"]:
        if figure["kind"] not in LEVELS:
            continue
        model = models[figure["name"]]
        levels = tuple(LEVELS[figure["kind"]](sample, figure["name"]) for sample in cell["samples"])
        if not levels:
            raise ValueError(f"{figure['name']} has no samples")
        bounds = None if control is None else Interval(*(_log(control[key]) for key in ("value", "low", "high")))
        provider = str(model["session"]["provider"])
        kind = figure["kind"]
        found.append(Series(where, kind, machine, provider, figure["name"], model["sha256"], levels, bounds))
    return found


def _machine(cell: Mapping[str, Any]) -> dict[str, Any]:
    versions = sorted({sample["onnxruntime"] for sample in cell["samples"]})
    return {**(cell["machine"] or {}), "onnxruntime": ", ".join(versions)}


def _level(sample: Mapping[str, Any], name: str) -> float:
    blocks = sample["ns"][name][sample["steady_from"] or 0 :]
    return _log(np.median(statistics.block_medians(blocks)))


def _count(sample: Mapping[str, Any], name: str) -> float:
    return _log(instructions(sample["counts"][name]))


LEVELS: Final[Mapping[str, Callable[[Mapping[str, Any], str], float]]] = {"measured": _level, "counted": _count}
"""The logarithm to compare of a sample, for each kind of figures in which there is one."""


def _log(value: Any) -> float:
    """The logarithm of a time or a ratio of times; raises ValueError where it is none."""
    if not 0.0 < value < math.inf:
        raise ValueError(f"{value} is no time")
    return math.log(value)


def compare_stored(
    a: Stored, b: Stored, *, force: bool = False, threshold: float = statistics.THRESHOLD
) -> tuple[StoredComparison, ...]:
    """``b`` over ``a`` under each set of conditions that both were measured under.

    Where each document has one model, those are compared; else those of equal names.

    Raises:
        UsageError: ``environment-differs``, or there is nothing to compare.
    """
    if not force:
        _check_same(a.decisive, b.decisive)
    pairs = [(x, y) for x in a.series for y in b.series if _alike(x, y, a.series, b.series)]
    if not pairs:
        message = "There are no figures of the same kind, model, target, provider, batch size, threads and use in both."
        raise UsageError("environment-differs", message)
    for x, y in () if force else pairs:
        _check_same(x.machine, y.machine)
    return tuple(_compared(x, y, threshold) for x, y in pairs)


def _check_same(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raise `UsageError` ``environment-differs`` unless both say the same."""
    differing = [name for name in a if a[name] != b.get(name)]
    if differing:
        said = "; ".join(f"{name}: {_short(a[name])} and {_short(b.get(name))}" for name in differing)
        message = f"The figures were measured in different environments ({said})."
        raise UsageError("environment-differs", message, "Compare them regardless with --force.")


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _alike(x: Series, y: Series, xs: Sequence[Series], ys: Sequence[Series]) -> bool:
    lone = len({one.name for one in xs}) == len({one.name for one in ys}) == 1
    same = (x.conditions, x.kind, x.provider) == (y.conditions, y.kind, y.provider)
    return same and (lone or x.name == y.name)


def _compared(x: Series, y: Series, threshold: float) -> StoredComparison:
    logs = statistics.welch_interval(x.levels, y.levels)
    controls = [one.control for one in (x, y) if one.control is not None]
    control = max(controls, key=lambda one: max(abs(one.low), abs(one.high)), default=None)
    judged = statistics.judge(logs, control, threshold, counted=x.kind == "counted")
    return StoredComparison(x.conditions, x.name, y.name, judged)
