"""The document of schema ``normfold.bench/1``: figures, and the raw samples that they are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from normfold.errors import NormfoldError
from normfold.measure.candidate import Candidate, Effort
from normfold.measure.figures import (
    Cell,
    Compiled,
    Details,
    Emulation,
    Figure,
    GpuState,
    Reading,
    Sample,
    instructions,
)
from normfold.measure.statistics import Comparison, Interval
from normfold.measure.stored import SCHEMA, StoredComparison
from normfold.records import finite, probe_record

Json = dict[str, Any]


def bench_record(
    models: Iterable[Candidate],
    cells: Iterable[Cell],
    effort: Effort,
    *,
    seed: int,
    started: str,
    environment: Mapping[str, Any],
) -> Json:
    """The whole document."""
    return {
        "schema": SCHEMA,
        "started": started,
        "environment": dict(environment),
        "seed": seed,
        "effort": asdict(effort),
        "models": [model_record(model) for model in models],
        "cells": [cell_record(cell) for cell in cells],
    }


def model_record(model: Candidate) -> Json:
    """A model and the settings of its session."""
    return {
        "name": model.name,
        "file": model.model.file.name,
        "sha256": model.sha256,
        "bytes": model.nbytes,
        "session": model.profile.to_json(),
    }


def cell_record(cell: Cell) -> Json:
    """One set of conditions; ``figures`` is empty where ``refused`` says why."""
    processes: Sequence[Sample | Emulation] = cell.samples or cell.emulations
    first = next((one.name for one in cell.figures or cell.readings), None)
    return {
        "batch": cell.conditions.batch,
        "threads": cell.conditions.threads,
        "use": cell.conditions.use,
        "cpus": list(cell.conditions.cpus),
        "target": cell.conditions.target,
        "runtime_bytes": processes[0].runtime_bytes if processes else None,
        "machine": dict(processes[0].machine) if processes else None,
        "refused": None if cell.refused is None else cell.refused.record(),
        "inputs": [probe_record(probe) for probe in cell.probes],
        "figures": [
            *(figure_record(figure, cell) for figure in cell.figures),
            *map(reading_record, cell.readings),
        ],
        "comparisons": [
            {"reference": first, "other": name, **comparison_record(one)} for name, one in cell.comparisons.items()
        ],
        "control": None if cell.control is None else interval_record(cell.control),
        "samples": [
            *(sample_record(sample) for sample in cell.samples),
            *(emulation_record(one) for one in cell.emulations),
        ],
        "warnings": list(cell.warnings),
    }


def figure_record(figure: Figure, cell: Cell) -> Json:
    """Figures of one candidate; times in nanoseconds."""
    batch = cell.conditions.batch or 1
    return {
        "name": figure.name,
        "kind": cell.kind,
        "latency_ns": interval_record(figure.latency),
        "quantiles_ns": [asdict(quantile) for quantile in figure.quantiles],
        "per_second": finite(batch * 1e9 / figure.latency.value),
        "runs": figure.runs,
        "outliers": figure.outliers,
        "import_ns": figure.import_ns,
        "load_ns": figure.load_ns,
        "first_run_ns": figure.first_run_ns,
        "providers": dict(figure.placed),
        "deviation": finite(figure.deviation),
        "microjoules": figure.microjoules,
        "no_energy": figure.no_energy,
        "deadline": None if figure.punctuality is None else figure.punctuality.record(figure.name),
        "details": None if figure.details is None else details_record(figure.details),
    }


def reading_record(reading: Reading) -> Json:
    """What is known of one candidate without a clock."""
    compiled = reading.compiled
    return {
        "name": reading.name,
        "kind": reading.kind,
        "providers": dict(reading.placed),
        "deviation": None if reading.deviation is None else finite(reading.deviation),
        **({"instructions": instructions(reading.counts), "counts": dict(reading.counts)} if reading.counts else {}),
        **({} if compiled is None else {"compiled": compiled_record(compiled)}),
    }


def compiled_record(compiled: Compiled) -> Json:
    """What a compiler makes of a model."""
    return {
        "context_bytes": compiled.context_bytes,
        "operators": {provider: dict(counts) for provider, counts in compiled.operators.items()},
        "elsewhere": [list(node) for node in compiled.elsewhere],
    }


def emulation_record(one: Emulation) -> Json:
    """One process without a clock; ``counts`` by candidate."""
    counts = {name: dict(found) for name, found in one.counts.items()}
    return {"onnxruntime": one.onnxruntime, **({"counts": counts} if counts else {})}


def details_record(details: Details) -> Json:
    """Memory in bytes, nodes with their microseconds a run."""
    fields = ("name", "operator", "provider", "runs", "microseconds")
    return {
        "peak_rss": details.peak_rss,
        "rss_before": details.rss_before,
        "arena_peak": details.arena_peak,
        "arena_size": details.arena_size,
        "nodes": [dict(zip(fields, node, strict=True)) for node in details.nodes],
    }


def interval_record(interval: Interval) -> Json:
    """An estimate and its bounds, null where they are not finite."""
    return {"value": finite(interval.value), "low": finite(interval.low), "high": finite(interval.high)}


def comparison_record(comparison: Comparison) -> Json:
    """Ratio, noise floor and what is to be made of them."""
    return {
        "ratio": interval_record(comparison.ratio),
        "floor": finite(comparison.floor),
        "found": comparison.found,
        "called": comparison.called,
        "verdict": comparison.verdict,
    }


def sample_record(sample: Sample) -> Json:
    """One process: every run, in nanoseconds, by candidate and round."""
    return {
        "orders": [[turn.name for turn in turns] for turns in sample.turns],
        "copies": [[turn.copy for turn in turns] for turns in sample.turns],
        "ns": {name: [list(block) for block in blocks] for name, blocks in sample.blocks.items()},
        "microjoules": None if sample.microjoules is None else _firsts(sample.microjoules),
        "steady_from": sample.steady,
        "onnxruntime": sample.onnxruntime,
        "cpus": None if sample.cpus is None else list(sample.cpus),
        "import_ns": sample.import_ns,
        "load_ns": dict(sample.load_ns),
        "first_run_ns": dict(sample.first_run_ns),
        "gpu": None if sample.gpu is None else [_gpu_record(state) for state in sample.gpu],
    }


def _gpu_record(state: GpuState) -> Json:
    if isinstance(state, str):
        return {"gpus": [], "unknown": state}
    return {"gpus": [dict(one) for one in state], "unknown": None}


def _firsts(blocks: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, list[int]]:
    return {name: [block[0] for block in listed] for name, listed in blocks.items()}


def compare_record(
    a: str, b: str, comparisons: Iterable[StoredComparison], refused: NormfoldError | None = None
) -> Json:
    """``result`` of ``compare``; ``refused`` says why there are no figures."""
    return {
        "a": a,
        "b": b,
        "refused": None if refused is None else refused.record(),
        "comparisons": [
            {
                "batch": one.conditions.batch,
                "threads": one.conditions.threads,
                "use": one.conditions.use,
                "target": one.conditions.target,
                "reference": one.reference,
                "other": one.other,
                **comparison_record(one.comparison),
            }
            for one in comparisons
        ],
    }
