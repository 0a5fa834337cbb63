"""What normfold says about a model: one decision for every norm, and the proof of the result.

These records are plain data. The engine fills them, the report prints them, the API returns them.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Self, get_args

Progress = Callable[[str], None]
"""Told what is being done at the moment."""

Outcome = Literal["folded", "part-folded", "lowered", "converted", "quantized", "kept"]
Role = Literal["norm", "scale"]
"""A norm, or another scale by constants (of attention scores, of a branch), which is told of only where it goes."""
Status = Literal["equivalent", "within-budget", "different", "skipped", "unavailable"]
Label = Literal["exact", "exact-if", "calibrated", "needs-training"]
"""How good a conversion is: the same function, under a condition, fitted to data, or a start for training."""
Derivation = Literal["independent"]


RECORDS_KEY: Final = "normfold.records"
"""Key under which a file's metadata holds statistics records."""
RECORDS_ATTRIBUTE: Final = "normfold_records"
"""Attribute under which a module holds them."""


class Premise(str):
    """Something that must hold for a fold, by the name that `Refusal` and JSON give it; ``statement`` says what.

    ``advice`` says what someone who has the model can do where it does not hold; empty where nothing helps.
    `normfold.core.premises` is the closed list of them.
    """

    __slots__ = ("advice", "statement")
    statement: str
    advice: str

    def __new__(cls, name: str, statement: str, advice: str = "") -> Self:
        """The premise of that name."""
        premise = super().__new__(cls, name)
        premise.statement, premise.advice = statement, advice
        return premise

    def __reduce__(self) -> tuple[type[Premise], tuple[str, str, str]]:
        """How to copy or pickle it."""
        return Premise, (str(self), self.statement, self.advice)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A premise that does not hold at one place, with a sentence a user can act on."""

    premise: Premise
    because: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """How good a conversion is, and how that is known.

    Attributes:
        label: whether the norm computes the same, does so under a condition, was fitted to data, or is to be trained.
        condition: under which it computes the same, up to ``bound``; empty unless the label is ``exact-if``.
        bound: the largest error of the norm's output, relative to that output, while the condition holds.
        r2: the share of the variance of the norm's output that the new one explains, where it was fitted.
        constant_share: the share of the variance that it divides by which does not depend on the input: near 1, the
            norm is inert, and computes little more than an affine map.
    """

    label: Label
    condition: str = ""
    bound: float | None = None
    r2: float | None = None
    constant_share: float | None = None


EXACT: Final = Certificate("exact")
"""That of a norm that computes the same whatever the input."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one norm, or of a scale that is none, and why."""

    site: str
    norm: str
    outcome: Outcome
    into: tuple[str, ...] = ()
    """Names of the nodes that absorbed it."""
    rules: tuple[str, ...] = ()
    """Names of the rules applied, in the order of the route."""
    refused_by: tuple[Refusal, ...] = ()
    error: float | None = None
    """Largest deviation seen at this norm's output, relative to that output's range."""
    to: str | None = None
    """What a norm that was converted is now."""
    certificate: Certificate | None = None
    """How good that is."""
    role: Role = "norm"

    def __post_init__(self) -> None:
        """Whoever decides that something of a norm stays says why."""
        if self.outcome in ("kept", "part-folded") and not self.refused_by:
            raise ValueError(f"the norm {self.site!r} is {self.outcome} without a reason")

    @property
    def label(self) -> Label | None:
        """How good a conversion is, in a word."""
        return None if self.certificate is None else self.certificate.label


@dataclass(frozen=True, slots=True)
class SiteReport:
    """A norm as `inspect` shows it."""

    site: str
    norm: str
    shape: tuple[int | str | None, ...] | None
    health: tuple[str, ...]
    would: Decision


@dataclass(frozen=True, slots=True)
class QuantizedPart:
    """Operations of one kind that are quantised in the same way.

    ``form`` is ``qdq`` (between DequantizeLinear and QuantizeLinear), ``qoperator`` (an operator on codes), ``dynamic``
    (scales computed at run time) or ``weights`` (the activations are floating point); ``weight`` and ``activation`` say
    the types of the codes, and of a weight how many scales it has.
    """

    operator: str
    form: str
    weight: str
    activation: str
    count: int


@dataclass(frozen=True, slots=True)
class Quantization:
    """What of a model is quantised; ``floating`` counts its linear operations that are not, by operator."""

    parts: tuple[QuantizedPart, ...]
    floating: Mapping[str, int]

    def record(self) -> dict[str, Any]:
        """As a document holds it."""
        return {"parts": [asdict(part) for part in self.parts], "floating": dict(self.floating)}


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is.

    Attributes:
        nodes: operations, those of subgraphs and functions included.
        parameters: numbers stored, running statistics included.
        nbytes: what they take.
        macs: multiply-accumulates of the operations with constant weights, for one sample where the batch is open;
            ``None`` where a shape is unknown.
    """

    nodes: int
    parameters: int
    nbytes: int
    macs: int | None


@dataclass(frozen=True, slots=True)
class Probe:
    """One input of one verification run: what was fed and how it was made."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    made: str


@dataclass(frozen=True, slots=True)
class Verification:
    """Numeric comparison of a result with its source.

    ``max_abs`` is the largest absolute difference over all outputs and probes; ``max_rel`` the
    largest difference divided by the range (max - min) of the output it was seen at.
    """

    status: Status
    because: str = ""
    max_abs: float | None = None
    max_rel: float | None = None
    rtol: float | None = None
    budget: float | None = None
    """Deviation allowed where the result only approximates its source, as a quantised one; None where it is exact."""
    inputs: tuple[Probe, ...] = ()
    first_divergence: str | None = None
    """Site of the first norm, in topological order, at whose output the two models diverge."""
    errors: dict[str, float] = field(default_factory=dict)
    """Site to the largest relative deviation seen there."""
    failure: str = ""
    """What the result raised, where it does not run."""


def silent(_doing: str) -> None:
    """Report no progress."""


def counts(decisions: Iterable[Decision]) -> dict[str, int]:
    """Number of norms: key ``norms``, then each `Outcome` with underscores; ``scales`` that went are counted apart."""
    tally = {"norms": 0} | {outcome.replace("-", "_"): 0 for outcome in get_args(Outcome)} | {"scales": 0}
    for decision in decisions:
        if decision.role == "scale":
            tally["scales"] += decision.outcome != "kept"
            continue
        tally["norms"] += 1
        tally[decision.outcome.replace("-", "_")] += 1
    return tally


@dataclass(frozen=True, slots=True)
class StatisticsRecord:
    """Mean and standard deviation by channel of a value, as the running statistics of norms tell them.

    Attributes:
        value: its name in the model that the record belongs to.
        axis: the channels' axis, counted from the last (negative); ``None`` where one number holds for all elements.
        mean: of each channel over the training data, in float32.
        deviation: likewise; not negative.
        sites: the norms that told it.
        derived: ``"independent"`` where the value is a sum of recorded ones: the deviation then holds as far as these
            are uncorrelated.
    """

    value: str
    axis: int | None
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    sites: tuple[str, ...]
    derived: Derivation | None = None


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Nodes that were taken out because no output depends on them, or because others compute the same.

    Nodes of subgraphs and functions are counted, too.
    """

    before: int
    after: int
    removed: Mapping[str, int]
    """Operator to the number of its nodes that went."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """One operation that has taken the place of several."""

    operator: str
    """With its domain: ``com.microsoft::MultiHeadAttention``."""
    node: str
    replaced: tuple[str, ...]
    """The nodes whose place it has taken."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A value of the source and the value of the result that must agree with it, and the norms they stand for."""

    source: str
    result: str
    sites: tuple[str, ...]


def decision_record(decision: Decision) -> dict[str, Any]:
    """One norm's decision; ``error`` is the relative deviation seen at the norm itself."""
    return {
        "site": decision.site,
        "norm": decision.norm,
        "role": decision.role,
        "outcome": decision.outcome,
        "into": list(decision.into),
        "rules": list(decision.rules),
        "refused_by": [refusal_record(refusal) for refusal in decision.refused_by],
        "error": finite(decision.error),
        **({} if decision.to is None else {"to": decision.to}),
        **({} if decision.certificate is None else certificate_record(decision.certificate)),
    }


def certificate_record(certificate: Certificate) -> dict[str, Any]:
    """How good a conversion is; figures only where there are any."""
    figures = {name: getattr(certificate, name) for name in ("bound", "r2", "constant_share")}
    known = {name: finite(figure) for name, figure in figures.items() if figure is not None}
    return (
        {"label": certificate.label} | ({"condition": certificate.condition} if certificate.condition else {}) | known
    )


def cleaning_record(cleaning: Cleaning) -> dict[str, Any]:
    """Nodes of the folded model, those left of them, and by operator those taken out."""
    return {"before": cleaning.before, "after": cleaning.after, "removed": dict(cleaning.removed)}


def fusion_record(fusion: Fusion) -> dict[str, Any]:
    """An operation, and the nodes that it stands for."""
    return {"operator": fusion.operator, "node": fusion.node, "replaced": list(fusion.replaced)}


def refusal_record(refusal: Refusal) -> dict[str, Any]:
    """A premise that does not hold, and why."""
    return {"premise": str(refusal.premise), "because": refusal.because}


def site_record(norm: SiteReport) -> dict[str, Any]:
    """One norm, and the decision that would be taken."""
    return {
        "site": norm.site,
        "norm": norm.norm,
        "shape": None if norm.shape is None else list(norm.shape),
        "health": list(norm.health),
        "would": decision_record(norm.would),
    }


def verification_record(proof: Verification) -> dict[str, Any]:
    """The comparison with the source, and the inputs it was made on."""
    return {
        "status": proof.status,
        "because": proof.because,
        "max_abs": finite(proof.max_abs),
        "max_rel": finite(proof.max_rel),
        "rtol": finite(proof.rtol),
        "budget": finite(proof.budget),
        "inputs": [probe_record(probe) for probe in proof.inputs],
        "first_parting": proof.first_divergence,
    }


def probe_record(probe: Probe) -> dict[str, Any]:
    """One input of one run."""
    return {"name": probe.name, "shape": list(probe.shape), "dtype": probe.dtype, "made": probe.made}


def size_record(size: Size) -> dict[str, int | None]:
    """How large a model is."""
    return {"nodes": size.nodes, "parameters": size.parameters, "bytes": size.nbytes, "macs": size.macs}


def finite(value: float | None) -> float | None:
    """``value``, or ``None`` where JSON could not hold it."""
    return float(value) if value is not None and math.isfinite(value) else None


def statistics_record(record: StatisticsRecord) -> dict[str, Any]:
    """A statistics record with its numbers as lists; nine digits tell one float32 from the next."""
    return _statistics(record) | {
        "mean": [float(f"{number:.9g}") for number in record.mean],
        "deviation": [float(f"{number:.9g}") for number in record.deviation],
    }


def packed(records: Iterable[StatisticsRecord]) -> str:
    """``records`` as one line of JSON, their numbers as base64 of little-endian float32."""
    listed = [
        _statistics(record) | {"mean": _encoded(record.mean), "deviation": _encoded(record.deviation)}
        for record in records
    ]
    return json.dumps(listed, separators=(",", ":"), sort_keys=True)


def unpacked(text: str) -> tuple[StatisticsRecord, ...]:
    """What `packed` made into ``text``; entries that it cannot have made are left out."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    entries = listed if isinstance(listed, list) else []
    return tuple(record for entry in entries if isinstance(entry, dict) and (record := _decoded(entry)) is not None)


def _statistics(record: StatisticsRecord) -> dict[str, Any]:
    return {
        "value": record.value,
        "axis": record.axis,
        "sites": list(record.sites),
        "derived": record.derived,
    }


def _decoded(entry: dict[str, Any]) -> StatisticsRecord | None:
    try:
        value, axis, derived = entry["value"], entry["axis"], entry["derived"]
        mean, deviation = _numbers(entry["mean"]), _numbers(entry["deviation"])
        sites = tuple(entry["sites"])
    except (KeyError, TypeError, ValueError, struct.error):
        return None
    sound = len(mean) == len(deviation) > 0 and all(map(math.isfinite, (*mean, *deviation))) and min(deviation) >= 0
    named = isinstance(value, str) and all(isinstance(site, str) for site in sites)
    placed = axis is None or (type(axis) is int and axis < 0)
    if not (sound and named and placed and derived in (None, "independent")):
        return None
    return StatisticsRecord(value, axis, mean, deviation, sites, derived)


def _encoded(numbers: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _numbers(text: str) -> tuple[float, ...]:
    data = base64.b64decode(text, validate=True)
    return struct.unpack(f"<{len(data) // 4}f", data)
