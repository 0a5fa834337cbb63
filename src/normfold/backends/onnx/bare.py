"""A network whose norms can be told apart in a profile, and the same network without them."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from normfold.backends.onnx.graph import OnnxGraph


def mark(graph: OnnxGraph, sites: Collection[str]) -> dict[str, str]:
    """Name the nodes of each norm after a mark that nothing else in the model has; the mark of each site."""
    marks = {}
    for k, site in enumerate(site for site in graph.sites() if site.name in sites):
        marks[site.name] = graph.fresh_name(f"normfold_site_{k}_")
        for j, node in enumerate(one for one in site.nodes if isinstance(one, ir.Node)):
            for part, each in enumerate((node, *_parts(graph, node))):
                each.name = f"{marks[site.name]}{j}_{part}"
    return marks


def _parts(graph: OnnxGraph, node: ir.Node) -> tuple[ir.Node, ...]:
    """The other operations that ``node`` stands for."""
    return tuple(part for part in getattr(graph.view(node), "parts", ()) if isinstance(part, ir.Node))


def take_out(graph: OnnxGraph, sites: Collection[str]) -> ir.Model:
    """The model of ``graph`` in which what reads a norm of ``sites`` reads the norm's input: another function."""
    for site in [site for site in graph.sites() if site.name in sites]:
        first, last = site.nodes[0], site.nodes[-1]
        views = [graph.view(node) for node in (first, last)]
        value = next((view.inputs[0] for view in views if view.inputs), None)
        if not isinstance(last, ir.Node) or not isinstance(value, ir.Value):
            continue
        output = last.outputs[0]
        # An input of the model cannot be its output, nor may a value be two outputs.
        if not output.is_graph_output():
            output.replace_all_uses_with(value)
    RemoveUnusedNodesPass()(graph.model)
    return graph.model
