"""What a norm could become, and what to choose for which purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from normfold.core.graph import Graph, Site
from normfold.passes.convert.conversion import TARGETS, Kind, Target
from normfold.passes.convert.kinds import is_norm, kind_at
from normfold.passes.convert.matrix import ALREADY, MATRIX
from normfold.records import Label

PURPOSES: Final = (
    "batch size",
    "architecture",
    "real time",
    "fine-tuning at small batches",
    "quantisation",
    "NPUs without the operator",
)
"""What norms are converted for."""


@dataclass(frozen=True, slots=True)
class Option:
    """What a norm could become: how exactly at best, and how."""

    to: Target
    label: Label
    says: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What to make of a norm for one purpose; ``to`` is None where it is best left as it is."""

    purpose: str
    to: Target | None
    why: str


@dataclass(frozen=True, slots=True)
class Advised:
    """A norm, what it could become, and what to choose."""

    site: str
    norm: str
    kind: Kind | None
    options: tuple[Option, ...] = ()
    choices: tuple[Choice, ...] = ()


_Row = dict[str, tuple[Target | None, str]]
_ALONE: Final[tuple[Target | None, str]] = (None, "it looks at each sample alone: the batch size changes nothing")
_STORED_ROW: Final[_Row] = {
    "batch size": (None, "its statistics are stored: the batch size changes nothing at inference"),
    "architecture": ("static", "next to a linear operation nothing of it is left"),
    "real time": ("static", "what is folded takes no time, and what is not stays one affine map"),
    "fine-tuning at small batches": ("group", "statistics of a few samples are noise; a GroupNorm needs no batch"),
    "quantisation": ("static", "a norm between quantised operations is computed in float; fold it first"),
    "NPUs without the operator": ("static", "a convolution, or a multiplication and an addition, are everywhere"),
}
_LAYER_ROW: Final[_Row] = {
    "batch size": _ALONE,
    "architecture": ("rms", "one reduction and one subtraction less, wherever its input's mean can be taken out"),
    "real time": ("rms", "one reduction and one subtraction less"),
    "fine-tuning at small batches": _ALONE,
    "quantisation": ("rms", "its bias goes into what reads it, and its input has the mean zero"),
    "NPUs without the operator": ("rms", "a mean of squares, a root and a division are what is left of it"),
}
_RMS_ROW: Final[_Row] = {
    "batch size": _ALONE,
    "architecture": (None, "it is the cheapest norm by statistics of its input"),
    "real time": (None, "it is the cheapest norm by statistics of its input"),
    "fine-tuning at small batches": _ALONE,
    "quantisation": (None, "fold its scale first, and leave the rest in float"),
    "NPUs without the operator": ("layer", "operators for LayerNorm are more common; twice the elements is the price"),
}
_GROUP_ROW: Final[_Row] = {
    "batch size": _ALONE,
    "architecture": ("instance", "the same between two reshapes, for which runtimes have a kernel"),
    "real time": ("instance", "ONNX Runtime's CPU provider has a kernel for it, and none for GroupNormalization"),
    "fine-tuning at small batches": _ALONE,
    "quantisation": ("static", "only a norm with fixed statistics folds into a quantised convolution; calibrate it"),
    "NPUs without the operator": ("instance", "operators for InstanceNorm are more common"),
}
_CHOICES: Final[Mapping[Kind, _Row]] = {
    "batch": _STORED_ROW,
    "running-instance": _STORED_ROW,
    "static-bln": _STORED_ROW,
    "frozen": _STORED_ROW | {"fine-tuning at small batches": (None, "its statistics stay as they are in training")},
    "layer": _LAYER_ROW,
    "rms": _RMS_ROW,
    "group": _GROUP_ROW,
    "instance": _GROUP_ROW
    | {
        "architecture": (None, "it is the form of a GroupNorm that runtimes have a kernel for"),
        "real time": (None, "ONNX Runtime's CPU provider has a kernel for it"),
        "NPUs without the operator": ("layer", "a LayerNorm of each channel's positions"),
    },
    "weight": dict.fromkeys(PURPOSES, ("static", "the weight is computed once instead of at each call"))
    | {"fine-tuning at small batches": (None, "it does not look at the batch")},
    "live-bln": dict.fromkeys(PURPOSES, ("layer", "the part of the batch can go where its share is small")),
    "dyt": dict.fromkeys(PURPOSES, ("tanh", "its scales go into what stands around it"))
    | {"batch size": _ALONE, "fine-tuning at small batches": _ALONE},
}


def advised(graph: Graph) -> tuple[Advised, ...]:
    """Every norm of ``graph``, with what it could become and what to choose."""
    return tuple(_advised(graph, site) for site in graph.sites() if is_norm(graph, site))


def _advised(graph: Graph, site: Site) -> Advised:
    found = kind_at(graph, site)
    if found is None:
        return Advised(site.name, site.norm, None)
    _, kind = found
    row = MATRIX[kind]
    options = tuple(
        Option(to, cell.label, cell.says)
        for to in TARGETS
        for cell in row[to][:1]
        if cell.label is not None and row[to] is not ALREADY and to != kind
    )
    choices = tuple(Choice(purpose, *_CHOICES[kind][purpose]) for purpose in PURPOSES)
    return Advised(site.name, site.norm, kind, options, choices)
