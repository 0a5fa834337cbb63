"""The one loop of cleaning: every rewrite in turn until none finds anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

import onnx_ir as ir

from normfold.backends.onnx.clean.branches import open_branch
from normfold.backends.onnx.clean.cones import Cones
from normfold.backends.onnx.clean.dead import remove_dead
from normfold.backends.onnx.clean.duplicates import merge_constants, merge_nodes
from normfold.backends.onnx.clean.editor import DEFAULT_DOMAIN, Editor
from normfold.backends.onnx.clean.noops import Around, Late, joined, regrouped, same_input, told, undone
from normfold.backends.onnx.clean.sizes import Sizes
from normfold.backends.onnx.reading.constants import UNEVALUATED
from normfold.backends.onnx.reading.inference import Inference
from normfold.backends.onnx.reading.names import Names

ROUNDS: Final = 16
"""Most times that shapes are inferred anew: what is cleaned tells more of them."""
PASSES: Final = 100
"""Most times that every node is looked at in a round: each pass leaves fewer nodes or shorter chains."""
GROWTH: Final = 1000
"""All constants together may make a file larger by one part in so many."""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What was taken out of a model."""

    before: int
    """Nodes, those of subgraphs and functions counted, too."""
    after: int
    removed: Mapping[str, int]
    """Number of nodes that went, by operator."""
    moved: Mapping[str, str | None]
    """Names of values that are gone, and the value that holds the same, if one does."""
    changed: bool


def clean(model: ir.Model, inference: Inference) -> Cleaning:
    """Take out of ``model``, in place, what does not change a bit of any output.

    Inputs, outputs, their names and declarations, functions, operator sets and metadata stay; whatever value keeps
    its name keeps its content. Functions are left as they are. ``inference`` says what shapes values have.
    """
    before, names = _census(model), _names(model)
    cleaner = _Cleaner(model, inference)
    changed = False
    for _ in range(ROUNDS):
        if not cleaner.round():
            break
        changed = True
    after, left = _census(model), _names(model)
    moved = {name: _followed(cleaner.editor.moved, name, left) for name in names - left}
    return Cleaning(before.total(), after.total(), before - after, moved, changed)


def _census(model: ir.Model) -> Counter[str]:
    functions = (function.all_nodes() for function in model.functions.values())
    return Counter(node.op_type for node in chain(model.graph.all_nodes(), chain.from_iterable(functions)))


def count_nodes(model: ir.Model) -> int:
    """Nodes of ``model``, those of subgraphs and functions counted, too."""
    return _census(model).total()


def _names(model: ir.Model) -> set[str]:
    made = {output.name for node in model.graph.all_nodes() for output in node.outputs if output.name}
    return made | {str(name) for graph in _graphs(model) for name in graph.initializers}


def _made(graph: ir.Graph) -> list[str]:
    """Names of the values that ``graph`` itself holds."""
    outputs = [output.name for node in graph for output in node.outputs if output.name]
    return [*outputs, *graph.initializers, *(str(value.name) for value in graph.inputs)]


def _followed(moved: Mapping[str, str], name: str, left: set[str]) -> str | None:
    seen: set[str] = set()
    while name in moved and name not in left and name not in seen:
        seen.add(name)
        name = moved[name]
    return name if name in left else None


def _graphs(model: ir.Model) -> list[ir.Graph]:
    return [model.graph, *model.graph.subgraphs()]


class _Cleaner:
    def __init__(self, model: ir.Model, inference: Inference) -> None:
        self.model, self.inference = model, inference
        self.editor = Editor(self._overridable)
        self.names = Names(model)
        self.opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
        self.functions = frozenset(model.functions)
        # Before IR version 4 every initializer is an input: a new one would change what the model takes.
        self.constants = (model.ir_version or 4) >= 4
        stored = (value.const_value for graph in _graphs(model) for value in graph.initializers.values())
        self.spare = sum(tensor.nbytes for tensor in stored if tensor is not None) // GROWTH

    def round(self) -> bool:
        """Clean every graph until nothing more is found with the shapes that are known now."""
        shapes = Late(self.model, self.inference)
        found = False
        for _ in range(PASSES):
            sizes = Sizes(self.editor, shapes.of)
            around = Around(self.editor, sizes, self.opset, self.constants, shapes, self.names.fresh)
            graphs = _graphs(self.model)
            held = Counter(name for graph in graphs for name in _made(graph))
            once = [self._once(graph, around, held) for graph in graphs]
            if self.constants:
                stored, self.spare = Cones(self.editor, self.functions).store(self.model, self.spare)
                once.append(stored)
            once += [remove_dead(graph) for graph in reversed(_graphs(self.model))]
            if not any(once):
                break
            found = True
        return found

    def _once(self, graph: ir.Graph, around: Around, held: Counter[str]) -> bool:
        found = False
        for node in graph:
            try:
                found |= self._node(node, around) or open_branch(self.editor, node, self.names.fresh, held)
            except UNEVALUATED:
                continue  # what does not fit its operator stays as it is
        if self.constants:
            found |= merge_constants(self.editor, graph)
        return merge_nodes(self.editor, graph, self.functions) or found

    def _node(self, node: ir.Node, around: Around) -> bool:
        if node.domain not in DEFAULT_DOMAIN or node.op_identifier() in self.functions:
            return False
        if self.constants and self._constant(node, around):
            return True
        for rule in (same_input, undone):
            same = rule(around, node)
            if same is not None and self.editor.replace(node, same):
                return True
        return joined(around, node) or (self.constants and (told(around, node) or regrouped(around, node)))

    def _constant(self, node: ir.Node, around: Around) -> bool:
        """Store what ``node`` makes, if it is a Constant, or computes a size that is known."""
        if len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            return False
        if node.op_type == "Constant":
            tensor = ir.convenience.get_const_tensor(node.outputs[0])
            return tensor is not None and self.editor.to_constant(node, tensor)
        sizes = around.sizes.follow(node)
        tensor = None if sizes is None else sizes.tensor
        return tensor is not None and self.editor.to_constant(node, tensor)

    def _overridable(self, value: ir.Value) -> bool:
        return (self.model.ir_version or 4) >= 4 and value.is_graph_input()
