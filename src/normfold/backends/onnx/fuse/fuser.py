"""Puts ONNX Runtime's one operation in the place of attention that is written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.clean.dead import remove_dead
from normfold.backends.onnx.clean.editor import DEFAULT_DOMAIN
from normfold.backends.onnx.clean.noops import Late
from normfold.backends.onnx.fuse.attention import Attention, Bias, read_attention
from normfold.backends.onnx.fuse.heads import Heads, Reader
from normfold.backends.onnx.reading.constants import UNEVALUATED, Constants, budget
from normfold.backends.onnx.reading.contributed import MICROSOFT
from normfold.backends.onnx.reading.expressions import EXPRESSIONS
from normfold.backends.onnx.reading.inference import Inference
from normfold.backends.onnx.reading.names import Names, values_of
from normfold.records import Fusion

OPERATOR: Final = "MultiHeadAttention"


@dataclass(frozen=True, slots=True)
class Fused:
    """What became one operation each, and the names of values that are gone."""

    fusions: tuple[Fusion, ...]
    moved: Mapping[str, None]


def fuse(model: ir.Model, inference: Inference) -> Fused:
    """Fuse the attention of ``model``'s graph, in place; inputs, outputs and their declarations stay."""
    if MICROSOFT in model.opset_imports and model.opset_imports[MICROSOFT] != 1:
        return Fused((), {})
    fuser = _Fuser(model, inference)
    softmaxes = [node for node in model.graph if node.op_type == "Softmax" and node.domain in DEFAULT_DOMAIN]
    # All of them are read first: shapes and constants are those of the model as it came.
    found = [(node, fuser.read(node)) for node in softmaxes]
    fusions = tuple(fuser.replaced(node, attention) for node, attention in found if attention is not None)
    if not fusions:
        return Fused((), {})
    names = {value.name for value in values_of(model) if value.name}
    while remove_dead(model.graph):
        pass
    model.graph.sort()
    model.opset_imports.setdefault(MICROSOFT, 1)
    left = {value.name for value in values_of(model)}
    return Fused(fusions, dict.fromkeys(names - left))


@dataclass
class _Fuser:
    model: ir.Model
    inference: Inference
    reader: Reader = field(init=False)
    opset: int = field(init=False)
    _now: dict[ir.Value, ir.Value] = field(default_factory=dict)
    """What has taken the place of a value."""
    _parts: dict[ir.Value, ir.Node] = field(default_factory=dict)
    _expanded: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = Late(self.model, self.inference)
        overridable = (self.model.ir_version or 4) >= 4
        constants = Constants(
            lambda value: overridable and value.is_graph_input(), EXPRESSIONS, shapes.of, budget(self.model)
        )
        self.reader = Reader(shapes, constants)
        self.opset = self.model.opset_imports.get("", self.model.opset_imports.get("ai.onnx", 1))
        self._names = Names(self.model)

    def read(self, softmax: ir.Node) -> Attention | None:
        """The attention around ``softmax``, where there is any."""
        try:
            return read_attention(self.reader, softmax, self.opset)
        except UNEVALUATED:
            return None  # what does not fit its operator stays as it is

    def replaced(self, softmax: ir.Node, attention: Attention) -> Fusion:
        """Put the operation in front of the Reshape that merges the heads, and in its place where it does no more."""
        inputs = [self._tokens(one) for one in (attention.query, attention.key, attention.value)]
        slots: list[ir.Value | None] = (
            [*inputs, None, None, self._added(attention.bias)] if attention.bias else [*inputs]
        )
        name = self._names.fresh(f"{softmax.name or softmax.outputs[0].name}_attention")
        given = [ir.AttrInt64("num_heads", attention.query.count), ir.AttrFloat32("scale", attention.scale)]
        node = ir.Node(MICROSOFT, OPERATOR, slots, given, name=name)
        self.model.graph.insert_before(attention.merge, node)
        made, old = node.outputs[0], attention.merge.outputs[0]
        if attention.only_merges:
            made.name, made.shape, made.type, old.name = old.name, old.shape, old.type, None
            self._now[old] = made
            old.replace_all_uses_with(made, replace_graph_outputs=True)
            self.model.graph.remove(attention.merge, safe=True)
        else:
            made.name = self._names.fresh(f"{name}_output")
            attention.merge.replace_input_with(0, made)
        return Fusion(f"{MICROSOFT}::{OPERATOR}", name, tuple(each.name or "" for each in attention.nodes))

    def _tokens(self, heads: Heads) -> ir.Value:
        """The value [batch, sequence, hidden] that ``heads`` are cut out of: one part of it, where it holds several."""
        source = self._now.get(heads.source, heads.source)
        if heads.parts == 1:
            return source
        split = self._parts.get(source)
        if split is None:
            given = [ir.AttrInt64("axis", 2)]
            given += [ir.AttrInt64("num_outputs", heads.parts)] if self.opset >= 18 else []
            name = self._names.fresh(f"{source.name}_parts")
            split = ir.Node("", "Split", [source], given, num_outputs=heads.parts, name=name)
            for index, output in enumerate(split.outputs):
                output.name = self._names.fresh(f"{name}_{index}")
            self.model.graph.append(split)
            self._parts[source] = split
        return split.outputs[heads.part]

    def _added(self, bias: Bias) -> ir.Value:
        """What ``bias`` adds, in the shape that the operator asks for."""
        value = self._now.get(bias.value, bias.value)
        if bias.expanded is None:
            return value
        key = value, bias.expanded
        if key not in self._expanded:
            name = self._names.fresh(f"{value.name}_expanded")
            sizes = ir.Tensor(np.asarray(bias.expanded, dtype=np.int64))
            shape = ir.Node(
                "", "Constant", [], [ir.AttrTensor("value", sizes)], name=self._names.fresh(f"{name}_shape")
            )
            shape.outputs[0].name = shape.name
            node = ir.Node("", "Expand", [value, shape.outputs[0]], name=name)
            node.outputs[0].name = name
            # Anywhere: the graph is sorted in the end.
            self.model.graph.extend((shape, node))
            self._expanded[key] = node.outputs[0]
        return self._expanded[key]
