"""Emit a norm that is written out as the one operation that it amounts to.

What it does:
    The elementary operations with which an exporter wrote a LayerNorm, RMSNorm or InstanceNorm become one
    LayerNormalization, RMSNormalization or InstanceNormalization with the scale and bias that they had. Those are then
    open to every fold.

When it holds:
    The model's opset has the operator, it normalises the same axes, and ONNX Runtime has a kernel for it in the type at
    hand. It computes in float32 at least, and in no case with fewer digits than what was written out.

Example:
    ``ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add`` becomes ``LayerNormalization``.

Refused when:
    The operations cannot become that operator, which they say themselves: the opset does not have it
    (``opset-has-operator``), the axes are not those that it normalises (``trailing-axes``) or their sizes not known
    (``known-sizes``, ``known-rank``), statistics may be broadcast beyond the input's shape (``same-shape``), there is
    no kernel (``has-kernel``), epsilon does not fit the operator's attribute (``representable``), something reads a
    value on the way (``single-use``), or the operations are those of a module's own forward (``needs-structure``). What
    follows the norm, a scale and a shift, is then folded by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from normfold.core.graph import Graph
from normfold.core.laws import definition
from normfold.core.plan import Plan, Remove, SetView
from normfold.core.rules.rule import Place, Rewrite
from normfold.core.views import Norm


def _places(graph: Graph, view: Norm) -> Iterable[Place[Norm]]:
    if view.parts or view.unemitted is not None:
        said = () if view.unemitted is None else (view.unemitted,)
        yield Place(graph, replace(view, refusals=said))


def _plan(place: Place[Norm]) -> Plan:
    view = place.view
    whole = replace(view, parts=())
    return Plan((SetView(whole), *map(Remove, view.parts)), into=(view.node,), rules=(RULE.name,))


RULE = Rewrite(name="emit_norm", law=definition.LAW, view=Norm, places=_places, premises=(), plan=_plan)
