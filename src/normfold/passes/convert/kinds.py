"""What kind of norm an operation is, as conversions tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from normfold.core.views import AffineOp, BatchLayer, DynamicTanh, Norm, NormKind, View
from normfold.passes.convert.conversion import Kind

LIVE: Final[Mapping[NormKind, Kind]] = {"layer": "layer", "rms": "rms", "group": "group", "instance": "instance"}
"""Norms by live statistics that conversions are about."""
STORED: Final[Mapping[str, Kind]] = {
    "BatchNormalization": "batch",
    "InstanceNormalization": "running-instance",
    "FrozenBatchNormalization": "frozen",
    "BatchLayerNormalization": "static-bln",
}
"""Norms by stored statistics, by the name of their operation."""


def kind_of(view: View) -> Kind | None:
    """The kind of norm that ``view`` is; None for a norm that no conversion is about, and for other operations."""
    if isinstance(view, Norm):
        return LIVE.get(view.kind)
    if isinstance(view, AffineOp):
        return STORED.get(view.op)
    if isinstance(view, BatchLayer):
        return "static-bln" if view.batch is not None and view.features is not None else "live-bln"
    return "dyt" if isinstance(view, DynamicTanh) else None
