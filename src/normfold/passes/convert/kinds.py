"""What kind of norm an operation is, as conversions tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from normfold.core.algebra import Affine
from normfold.core.graph import Graph, Site
from normfold.core.premises import FIXED_STATISTICS
from normfold.core.views import AffineOp, BatchLayer, DynamicTanh, Node, Norm, NormKind, View
from normfold.passes.convert.conversion import Kind
from normfold.records import Refusal

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


def squashed(graph: Graph, node: Node) -> DynamicTanh | None:
    """The bare tanh behind ``node``, which scales by the alpha of a DyT of several operations; None where none is.

    Its tail changes nothing, and has the shape of the scale behind it.
    """
    readers = graph.consumers(graph.view(node).outputs[0])
    tanh = graph.view(readers[0][0]) if len(readers) == 1 else None
    if kind_of(graph.view(node)) is not None or tanh is None or tanh.op != "Tanh":
        return None
    behind = [graph.view(reader) for reader, _ in graph.consumers(tanh.outputs[0])]
    shape = behind[0].affine.shape if behind and isinstance(behind[0], AffineOp) else ()
    return DynamicTanh(
        node=tanh.node,
        op=tanh.op,
        inputs=tanh.inputs,
        outputs=tanh.outputs,
        alpha=1.0,
        tail=Affine(np.ones(shape), np.zeros(shape)),
        core=Refusal(FIXED_STATISTICS, f"{graph.label(tanh.node)} squashes its input"),
    )
