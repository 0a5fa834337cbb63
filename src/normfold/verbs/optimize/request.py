"""What a caller of `optimize` asks for, checked, and as the result echoes it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from normfold.errors import EnvironmentUnavailableError, UsageError, suggestion
from normfold.measure.candidate import Effort
from normfold.measure.metrics import Metric, metric
from normfold.measure.scores import UserMetric
from normfold.models.data import Arrays, Shapes, user_inputs
from normfold.models.dataset import read_dataset
from normfold.models.source import File, onnx_source
from normfold.passes.quantize.figures import Width
from normfold.passes.quantize.recipes import RECIPES
from normfold.pipeline.fold_onnx import External
from normfold.proof.probes import input_specs
from normfold.runtime import processors, providers
from normfold.runtime.session_profile import Use
from normfold.verbs.quantize import latency_limit

StageName = Literal["export", "fold", "convert", "quantize", "evaluate", "measure", "tune"]
OPTIONAL: Final = ("convert", "quantize", "tune")
"""Stages that can be left out."""
STAGES: Final = get_args(StageName)
DROPS: Final[Mapping[str, float]] = {"top1": 0.2, "top5": 0.2, "cosine": 0.01}
"""Largest loss by default, in the unit of the metric."""
WIDTHS: Final[Mapping[str, Width]] = {"cpu": "int8"}
"""What is quantised to on each execution provider by default; `HALF` on the others."""
HALF: Final[Width] = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for; ``metric`` and ``max_drop`` are None without evaluation data."""

    calibrate: Any = None
    evaluate: Any = None
    metric: Metric | None = None
    named: str | UserMetric | None = None
    """The same as the caller gave it."""
    max_drop: float | None = None
    shift: tuple[str, ...] = ()
    """How the inputs are shifted to measure the accuracy on those, too."""
    latency: str | None = None
    """The largest time of a run, as it was written."""
    max_latency: float | None = None
    """The same over the source's or, where ``absolute``, in seconds."""
    absolute: bool = False
    width: Width = "int8"
    ep: str = "cpu"
    target: str = "local"
    use: Use = "server"
    threads: int = 1
    batch: int | None = None
    shapes: Shapes | None = None
    inputs: Arrays | File | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    seed: int = 0
    custom_ops: tuple[str, ...] = ()
    external_data: External = "auto"
    without: tuple[str, ...] = ()
    force: bool = False
    effort: Effort = Effort()  # noqa: RUF009 - it is frozen

    def echo(self) -> dict[str, Any]:
        """The effective configuration, as plain data."""
        return {
            "calibrate": name_of_data(self.calibrate),
            "evaluate": name_of_data(self.evaluate),
            "metric": None if self.metric is None else self.metric.name,
            "max_drop": self.max_drop,
            "shift": list(self.shift),
            "max_latency": self.latency,
            "width": self.width,
            "ep": self.ep,
            "target": self.target,
            "use": self.use,
            "threads": self.threads,
            "batch": self.batch,
            "shapes": {name: list(shape) for name, shape in (self.shapes or {}).items()},
            "inputs": name_of_data(self.inputs),
            "only": list(self.only),
            "skip": list(self.skip),
            "seed": self.seed,
            "custom_ops": list(self.custom_ops),
            "external_data": self.external_data,
            "without": list(self.without),
        }


def request(
    *,
    metric_name: str | UserMetric | None,
    max_latency: float | str | None,
    width: Width | None,
    threads: int | None,
    without: Sequence[str],
    **options: Any,
) -> Request:
    """The request of a call with these ``options``.

    Raises:
        UsageError: ``usage`` or ``bad-metric`` where one of them is not valid, or needs another one.
        EnvironmentUnavailableError: ``provider-unavailable``.
    """
    _check_provider(options["ep"], options["target"])
    unknown = [name for name in without if name not in OPTIONAL]
    if unknown:
        raise UsageError("usage", f"The stage {unknown[0]!r} cannot be left out.", f"These can: {', '.join(OPTIONAL)}.")
    chosen = width or WIDTHS.get(options["ep"], HALF)
    if chosen not in RECIPES:
        raise UsageError("usage", f"There is no width {chosen!r}.", f"Choose one of {', '.join(RECIPES)}.")
    limit, absolute = latency_limit(max_latency)
    judged, drop = _budget(options.pop("evaluate"), metric_name, options.pop("max_drop"), options["shift"])
    return Request(
        **options,
        **judged,
        max_drop=drop,
        latency=None if max_latency is None else str(max_latency),
        max_latency=limit,
        absolute=absolute,
        width=chosen,
        threads=threads or processors.cores(processors.usable()),
        without=tuple(without),
    )


def _budget(
    evaluate: Any, named: str | UserMetric | None, drop: float | None, shifts: Sequence[str]
) -> tuple[dict[str, Any], float | None]:
    if evaluate is None:
        if named is not None or drop is not None or shifts:
            hint = "Name labelled inputs with --evaluate."
            raise UsageError("usage", "There are no data to measure the accuracy on.", hint)
        return {}, None
    found = metric(named or "top1")
    if drop is None and found.name not in DROPS:
        hint = "Say how much may be lost: --max-drop, in its own unit."
        raise UsageError("usage", f"There is no usual budget for the metric {found.name}.", hint)
    if drop is not None and not 0.0 <= drop < float("inf"):
        raise UsageError("usage", f"max_drop is {drop!r}; it has to be zero or more.")
    return {"evaluate": evaluate, "metric": found, "named": named or "top1"}, DROPS[
        found.name
    ] if drop is None else drop


def _check_provider(ep: str, target: str) -> None:
    if ep not in providers.PROVIDERS:
        hint = suggestion(ep, providers.PROVIDERS) or f"There are: {', '.join(providers.PROVIDERS)}."
        raise UsageError("usage", f"There is no execution provider {ep!r}.", hint)
    if target == "local" and providers.PROVIDERS[ep] not in providers.available():
        message = f"The execution provider {ep} is not part of the installed ONNX Runtime."
        raise EnvironmentUnavailableError("provider-unavailable", message, "`normfold env` says how to install it.")


def name_of_data(given: object) -> str | None:
    """What data are called in a report: their path, or the type of the object that holds them."""
    if given is None:
        return None
    return os.fspath(given) if isinstance(given, str | os.PathLike) else f"({type(given).__name__})"


def data_digests(asked: Request, file: Path) -> dict[str, str | None]:
    """SHA-256 of the data, by what they are for; None where there are none.

    Raises:
        UsageError: ``bad-data`` or ``bad-input``: they cannot be read, or do not fit the model in ``file``.
    """
    takes = input_specs(onnx_source(file).fresh())
    found: dict[str, str | None] = {}
    for name in ("calibrate", "evaluate"):
        given = getattr(asked, name)
        found[name] = None if given is None else read_dataset(given, takes).digest()
    if asked.metric is not None and asked.metric.labelled:
        # Better known now than after quantising.
        read_dataset(asked.evaluate, takes).labels()
    arrays = user_inputs(None, asked.inputs).arrays
    hashed = sha256()
    for name, array in sorted(arrays.items()):
        hashed.update(f"{name} {array.dtype} {array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    found["inputs"] = hashed.hexdigest() if arrays else None
    return found
