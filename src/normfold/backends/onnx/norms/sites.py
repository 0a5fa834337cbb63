"""Where the norms of an ONNX model stand, and what to call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context
from normfold.backends.onnx.lift.norms import KINDS
from normfold.backends.onnx.norms.decompositions import Decomposition, GroupNorm, find_group_norms
from normfold.backends.onnx.norms.running import running_norm
from normfold.backends.onnx.reading.inline import NAME, PATH
from normfold.backends.onnx.write.preprocessing import STAGE, preprocessing
from normfold.core.algebra import Permute
from normfold.core.algebra.affine import Array
from normfold.core.graph import Site, maker
from normfold.core.health import findings
from normfold.core.views import AffineOp, Embedding, Linear, Moving, Product, Recurrent, Value, View, unquantized
from normfold.records import Role

if TYPE_CHECKING:
    from normfold.backends.onnx.graph import OnnxGraph

BATCH_NORMALIZATION = ("", "BatchNormalization")
SCALER = ("ai.onnx.ml", "Scaler")
NORM_OPERATORS = KINDS.keys() | {BATCH_NORMALIZATION, SCALER}
DYNAMIC_TANH = "DynamicTanh"
GATES = frozenset({"Erf", "Tanh"})
"""What makes the gate of a GELU."""
LINEAR_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def may_hold_norm(operators: Collection[tuple[str, str]]) -> bool:
    """Whether a body made of these operators, each with its domain, may contain a norm."""
    names = {name for domain, name in operators if not domain}
    decomposed = not names.isdisjoint({"ReduceMean", "ReduceSum"}) and not names.isdisjoint({"Sqrt", "Pow"})
    chain = not names.isdisjoint(LINEAR_OPERATORS) and not names.isdisjoint({"Mul", "Div"})
    return decomposed or chain or not NORM_OPERATORS.isdisjoint(operators)


def walk(graph: ir.Graph | ir.Function, path: str = "") -> Iterator[tuple[ir.Node, str]]:
    """Every node with its call path, subgraphs right before the node that owns them."""
    for node in graph:
        for attribute in node.attributes.values():
            for body in _bodies(attribute):
                owner = node.name or node.outputs[0].name or node.op_type
                yield from walk(body, f"{path}{owner}/{attribute.name}/")
        yield node, path


def _bodies(attribute: ir.Attr) -> Sequence[ir.Graph]:
    if attribute.is_ref():
        return ()
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else ()


def walk_model(model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
    """Every node of the model, those of its functions last."""
    yield from walk(model.graph)
    for function in model.functions.values():
        yield from walk(function, f"{function.name}/")


class Labels:
    """A name for every node that stays the same while the model changes.

    It is the node's own name behind its call path; where that is empty, its output's name; where it is repeated,
    both.
    """

    def __init__(self, model: ir.Model) -> None:
        own: dict[ir.Node, str] = {}
        for node, path in walk_model(model):
            call = f"{node.meta[PATH]}/" if PATH in node.meta else ""
            own[node] = f"{path}{call}{node.meta.get(NAME) or node.name or _output(node)}"
        repeated = {name for name, count in Counter(own.values()).items() if count > 1}
        self._names = {node: f"{name}:{_output(node)}" if name in repeated else name for node, name in own.items()}

    def name(self, node: ir.Node) -> str:
        """The name of ``node``; a node that a fold inserted has the one it was given."""
        return self._names.get(node) or node.name or _output(node)


def _output(node: ir.Node) -> str:
    return next((output.name for output in node.outputs if output.name), node.op_type)


def find_sites(
    graph: OnnxGraph, labels: Labels, context: Context, written: Iterable[Decomposition]
) -> tuple[Site, ...]:
    """Every norm, in topological order: operators, decompositions, and chains of constants next to linear ones."""
    finder = _Finder(graph, labels, context)
    nodes = graph.nodes()
    for norm in written:
        finder.claim(norm)
    for group_norm in find_group_norms(nodes, context):
        finder.claim(group_norm)
    finder.squash(nodes)
    return (*finder.preprocessing(preprocessing(nodes)), *(site for node in nodes for site in finder.at(node)))


@dataclass
class _Finder:
    graph: OnnxGraph
    labels: Labels
    context: Context
    claimed: set[ir.Node] = field(default_factory=set)
    decomposed: dict[ir.Node, Decomposition | GroupNorm] = field(default_factory=dict)
    tanhs: dict[ir.Node, Site] = field(default_factory=dict)

    def claim(self, norm: Decomposition | GroupNorm) -> None:
        self.claimed.update(norm.whole)
        self.decomposed[norm.whole[-1]] = norm

    def preprocessing(self, nodes: Sequence[ir.Node]) -> Iterator[Site]:
        """The site of a preprocessing put in. Its scale is tried first: alone, it passes a padding."""
        if nodes:
            yield replace(self.site(nodes, "Preprocess"), nodes=tuple(reversed(nodes)))

    def at(self, node: ir.Node) -> Iterator[Site]:
        """The site that begins at ``node``, or, if it is a decomposed norm, ends there."""
        if STAGE in node.meta:
            return
        if node in self.decomposed:
            found = self.decomposed[node]
            yield self.site(found.whole, found.norm, named=found.named)
        elif node in self.tanhs:
            yield self.tanhs[node]
        elif node in self.claimed:
            return
        elif (("" if node.domain == "ai.onnx" else node.domain), node.op_type) in NORM_OPERATORS:
            health = findings(running_norm(self.context, node)) if node.op_type == "BatchNormalization" else ()
            yield self.site((node,), node.op_type, health=health)
        elif self._constant_map(node) is not None:
            yield from self._chain(node)

    def site(
        self,
        nodes: Sequence[ir.Node],
        norm: str,
        *,
        named: ir.Node | None = None,
        health: Iterable[str] = (),
        role: Role = "norm",
    ) -> Site:
        """The norm, or another scale, made up of ``nodes``."""
        name = self.labels.name(named or nodes[0])
        output = nodes[-1].outputs[0]
        return Site(name, norm, tuple(nodes), self.graph.shape(output), output.name or "", tuple(health), role=role)

    def _constant_map(self, node: ir.Node) -> AffineOp | None:
        """``node`` as arithmetic of a value by constants: no BatchNormalization, no constant expression."""
        if node.op_type not in ("Mul", "Add", "Sub", "Div", "Neg"):
            return None
        view = self.graph.view(node)
        if not isinstance(view, AffineOp):
            return None
        computed = any(
            value is not None and isinstance(self.context.constants.find(value), str) for value in node.inputs
        )
        return view if computed else None

    def squash(self, nodes: Sequence[ir.Node]) -> None:
        """Find every DyT: its site is made of what scales and shifts before its tanh and behind it."""
        for node in nodes:
            standard = node.op_type == "Tanh" and node.domain in ("", "ai.onnx")
            steps = self._dynamic_tanh(node) if standard and node not in self.claimed else ()
            if steps:
                self.claimed.update(steps)
                self.tanhs[node] = self.site(steps, DYNAMIC_TANH, named=node)

    def _dynamic_tanh(self, node: ir.Node) -> tuple[ir.Node, ...]:
        """What stands around the tanh ``node`` if it is that of ``tanh(alpha * x) * weight + bias``; else nothing."""
        value = node.inputs[0]
        before = None if value is None else value.producer()
        alpha = None if before is None else self._constant_map(before)
        if value is None or before is None or alpha is None or len(list(value.uses())) != 1 or alpha.affine.shifts:
            return ()
        behind: list[ir.Node] = []
        made = node.outputs[0]
        while len(behind) < 2 and not made.is_graph_output() and len(readers := list(made.uses())) == 1:
            reader, _ = readers[0]
            view = self._constant_map(reader)
            if view is None or (view.affine.scales if behind else not _per_channel(view.affine.scale)):
                break
            behind.append(reader)
            made = reader.outputs[0]
        return (before, *behind) if behind and not alpha.affine.scale.ndim else ()

    def _chain(self, first: ir.Node) -> Iterator[Site]:
        run = list(self._run(first))
        self.claimed.update(run)
        views = {node: view for node in run if (view := self._constant_map(node)) is not None}
        scaling = [node for node, view in views.items() if node.op_type in ("Mul", "Div") or view.affine.scales]
        if not any(node.op_type in ("Mul", "Div") for node in scaling):
            return
        scalar = not any(views[node].affine.scale.ndim for node in scaling)
        before, after = self._linear_before(run[0], sole=scalar), self._linear_after(run[-1], sole=scalar)
        at_input = run[0].inputs and self._is_input(self.graph.view(run[0]).inputs[0])
        whole = any(map(_per_channel, (views[node].affine.scale for node in scaling))) and any(
            _per_channel(view.affine.shift) for view in views.values()
        )
        if before is None and not whole and not (after and (not scalar or at_input)):
            yield from self._scale([node for node in scaling if not self._in_gelu(node)])
            return
        # A shift between a matrix product and the first scale is the product's bias, not part of the norm.
        bare = before is not None and not _takes_shift(before)
        biased = bare and not self._scaled_before(run[0])
        nodes = run[run.index(scaling[0]) :] if biased else run
        yield self.site(nodes, "+".join(node.op_type for node in nodes if node in views), named=scaling[0])

    def _scale(self, nodes: Sequence[ir.Node]) -> Iterator[Site]:
        """What scales but stands next to nothing linear, and is no norm: that of attention scores, of a branch."""
        if nodes:
            yield self.site(nodes, "+".join(node.op_type for node in nodes), role="scale")

    def _in_gelu(self, node: ir.Node) -> bool:
        """Whether a scale belongs to a GELU written out, ``x (1 + erf(x / sqrt(2))) / 2``.

        ONNX Runtime makes one operation of that, as long as it finds all of its constants.
        """
        view = self.graph.view(node)
        beside = [self.graph.view(reader) for reader, _ in self.graph.consumers(view.outputs[0])]
        beside += [before for before in [maker(self.graph, view.inputs[0])] if before is not None]
        return any(
            self._is_gate(value) for product in beside if isinstance(product, Product) for value in product.inputs
        )

    def _is_gate(self, value: Value) -> bool:
        """Whether ``value`` is what Erf or Tanh makes, with constants added."""
        shifted, view = False, maker(self.graph, value)
        while isinstance(view, AffineOp):
            shifted |= view.affine.shifts
            view = maker(self.graph, view.inputs[0])
        return shifted and view is not None and view.op in GATES

    def _is_input(self, value: Value) -> bool:
        """Whether ``value`` is an input of the model, or what a preprocessing made of it."""
        producer = self.graph.producer(value)
        return producer is None or STAGE in producer.meta

    def _run(self, node: ir.Node) -> Iterator[ir.Node]:
        """The longest row of constant maps from ``node`` on, past identities, each read by the next alone."""
        pending: list[ir.Node] = []
        while node not in self.claimed:
            pending.append(node)
            if self._constant_map(node) is not None:
                yield from pending
                pending.clear()
            elif not _is_identity(self.graph.view(node)):
                return
            output = node.outputs[0]
            readers = self.graph.consumers(output)
            if len(readers) != 1 or self.graph.escapes(output):
                return
            node = readers[0][0]

    def _linear_before(self, node: ir.Node, *, sole: bool) -> View | None:
        """The linear operation whose output arrives at ``node``, past identities and other constant maps."""
        value = self.graph.view(node).inputs[0]
        while (producer := self.graph.producer(value)) is not None:
            if sole and len(self.graph.consumers(value)) != 1:
                return None
            view = unquantized(self.graph.view(producer))
            if isinstance(view, Linear | Embedding):
                return view
            if producer.op_type in ("Conv", "ConvTranspose"):
                return view
            if not isinstance(view, AffineOp) and not _is_identity(view):
                return None
            value = view.inputs[0]
        return None

    def _scaled_before(self, node: ir.Node) -> bool:
        """Whether another scale stands between ``node`` and the operation before it, past identities and shifts."""
        view = maker(self.graph, self.graph.view(node).inputs[0])
        while view is not None and (isinstance(view, AffineOp) or _is_identity(view)):
            if isinstance(view, AffineOp) and view.affine.scales:
                return True
            view = maker(self.graph, view.inputs[0])
        return False

    def _linear_after(self, node: ir.Node, *, sole: bool) -> bool:
        """Whether a linear operation reads the output of ``node``, past identities and other constant maps."""
        readers = self.graph.consumers(node.outputs[0])
        if sole and len(readers) != 1:
            return False
        for reader, _ in readers:
            view = unquantized(self.graph.view(reader))
            if isinstance(view, Linear | Recurrent):
                return view.inputs[0] is node.outputs[0]
            if (isinstance(view, AffineOp) or _is_identity(view)) and self._linear_after(reader, sole=sole):
                return True
        return False


def _takes_shift(view: View) -> bool:
    return isinstance(view, Embedding) or (isinstance(view, Linear) and view.bias_slot)


def _per_channel(constant: Array) -> bool:
    """Whether a constant varies along one axis."""
    return len([size for size in constant.shape if size > 1]) == 1


def _is_identity(view: View) -> bool:
    return isinstance(view, Moving) and view.moves == (Permute(),)
