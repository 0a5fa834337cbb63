"""What kind of norm an operation is, as conversions tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from normfold.core.graph import Graph, Site
from normfold.core.views import AffineOp, BatchLayer, DynamicTanh, Node, Norm, NormKind, View
from normfold.passes.convert.conversion import Kind

DYNAMIC_TANH: Final = "DynamicTanh"
"""What a DyT is called that is several operations."""
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


def kind_at(graph: Graph, site: Site) -> tuple[Node, Kind] | None:
    """The operation at ``site`` that a conversion is about, and its kind; None where there is none."""
    if site.norm == DYNAMIC_TANH and kind_of(graph.view(site.nodes[0])) is None:
        return site.nodes[0], "dyt"
    return next(((node, kind) for node in site.nodes if (kind := kind_of(graph.view(node)))), None)


def is_norm(graph: Graph, site: Site) -> bool:
    """Whether ``site`` normalises, and is not some other map by constants, which no conversion is about."""
    views = [graph.view(node) for node in site.nodes]
    known = any(isinstance(view, Norm) or kind_of(view) is not None or view.refusals for view in views)
    return site.role == "norm" and (known or site.norm == DYNAMIC_TANH)
