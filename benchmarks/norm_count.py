"""The neutral counter: how many norms a model file still has, whoever wrote it.

It knows nothing of any tool. A norm is

- a BatchNormalization node in inference on live data, wherever it stands (subgraphs and functions included);
- an *affine chain*: a maximal run of Mul, Div, Add, Sub by constants that contains at least one *per-channel*
  Mul or Div (a constant with exactly one dimension larger than one) and that either
  touches a linear operation with constant weights or a BatchNormalization (its producer, or one of its
  consumers), or is a complete affine map (it also contains a per-channel Add or Sub). The second clause keeps
  a tool from hiding a norm by spelling it as Mul and Add.

LayerNormalization, RMSNormalization, GroupNormalization, InstanceNormalization and their fused forms are
counted apart, because only their affine can be folded.

*Live* means computed from a graph input other than through Shape or Size: arithmetic on shapes and on
constants is not part of the network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx

AFFINE: Final = frozenset({"Mul", "Div", "Add", "Sub"})
SCALING: Final = frozenset({"Mul", "Div"})
LINEAR: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FUSED: Final[dict[str, str]] = {
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "FusedGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "FusedMatMulActivation": "MatMul",
    "TransposeMatMul": "MatMul",
    "NhwcConv": "Conv",
}
"""Fused forms that runtimes write, and the operation that each of them is."""
BATCH_NORMS: Final = frozenset({"BatchNormalization", "BatchNormInternal"})
OTHER_NORMS: Final = frozenset(
    {
        "LayerNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "EmbedLayerNormalization",
        "RMSNormalization",
        "GroupNormalization",
        "GroupNorm",
        "SkipGroupNorm",
        "InstanceNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
    }
)
INSERTABLE: Final = frozenset({"Pad", "Add", "Sub", "Mul", "Div", "Concat", *LINEAR})
"""Operations whose live number a fold might raise; the linear ones count together (see `Census.inserted`)."""


@dataclass(frozen=True, slots=True)
class Census:
    """What one model holds: norms by kind, and the live operations that are not part of a norm."""

    batch_norms: int
    affine_chains: int
    other_norms: int
    operations: Counter[str]

    @property
    def norms(self) -> int:
        """Batch norms and affine chains together."""
        return self.batch_norms + self.affine_chains

    def inserted(self, source: Census) -> dict[str, int]:
        """Operations that this model has more of than ``source``, by type, norms not counted again.

        Gemm, MatMul and the convolutions are one family: turning MatMul + Add into Gemm inserts nothing.
        """
        more = {kind: self.operations[kind] - source.operations[kind] for kind in self.operations}
        return {kind: count for kind, count in sorted(more.items()) if count > 0}


Shapes = dict[str, tuple[int, ...] | None]
"""Name of a constant to its shape, None where shape inference cannot tell it."""


class Body:
    """One graph, subgraph or function body, indexed for the counter."""

    def __init__(
        self, nodes: Iterable[onnx.NodeProto], constants: Shapes, live: Iterable[str], inferred: Shapes
    ) -> None:
        self.constants = dict(constants)
        self.live = set(live)
        self.inferred = inferred
        self.nodes: list[onnx.NodeProto] = []
        for node in nodes:
            self.add(node)

    def add(self, node: onnx.NodeProto) -> None:
        """Classify ``node`` as live, constant or arithmetic on shapes (which is neither)."""
        inputs = [name for name in node.input if name]
        if node.op_type in {"Shape", "Size"}:
            return
        if any(name in self.live for name in inputs):
            self.live.update(name for name in node.output if name)
            self.nodes.append(node)
        elif all(name in self.constants for name in inputs):
            self.constants.update((name, self.shape_of(node, name)) for name in node.output)

    def shape_of(self, node: onnx.NodeProto, name: str) -> tuple[int, ...] | None:
        """Shape of the computed constant ``name``; None where it is not known."""
        for attribute in node.attribute:
            if attribute.name == "value" and node.op_type == "Constant":
                return tuple(attribute.t.dims)
        return self.inferred.get(name)

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """Output name to live node."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Value name to the live nodes that read it."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        return readers

    def constant_operand(self, node: onnx.NodeProto) -> str | None:
        """Name of the one constant operand of a Mul, Div, Add or Sub, else None."""
        if node.op_type not in AFFINE:
            return None
        constants = [name for name in node.input if name in self.constants]
        return constants[0] if len(constants) == 1 else None

    def is_per_channel(self, node: onnx.NodeProto) -> bool:
        """Whether the node's constant operand has exactly one dimension larger than one."""
        name = self.constant_operand(node)
        shape = None if name is None else self.constants[name]
        return shape is not None and wide_dimensions(shape) == 1

    def is_linear(self, node: onnx.NodeProto | None) -> bool:
        """Whether the node is a linear operation one of whose first two inputs is constant."""
        if node is None or base_type(node) not in LINEAR:
            return False
        return any(name in self.constants for name in node.input[:2])

    def norm_part(self, chain: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Nodes of a chain that are the norm: an Add right behind a linear operation is that one's bias."""
        if not self.is_linear(self.producers.get(self.data_input(chain[0]))):
            return chain
        first = next(place for place, node in enumerate(chain) if node.op_type in SCALING)
        return chain[first:]

    def absorbs(self, node: onnx.NodeProto | None) -> bool:
        """Whether an affine chain next to this node could become part of it."""
        return node is not None and (node.op_type in BATCH_NORMS or self.is_linear(node))

    def data_input(self, node: onnx.NodeProto) -> str:
        """Name of the operand of an affine node that is not its constant."""
        constant = self.constant_operand(node)
        data: str = next(name for name in node.input if name != constant)
        return data

    def chains(self) -> Iterator[list[onnx.NodeProto]]:
        """Maximal runs of affine nodes, each read by the next one alone."""
        for node in self.nodes:
            if self.constant_operand(node) is None or self.continues(node):
                continue
            chain = [node]
            while (follower := self.follower(chain[-1])) is not None:
                chain.append(follower)
            yield chain

    def continues(self, node: onnx.NodeProto) -> bool:
        """Whether an affine node is a later link of a chain."""
        before = self.producers.get(self.data_input(node))
        return before is not None and self.constant_operand(before) is not None and self.follower(before) is node

    def follower(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return the affine node that alone reads this one's output, if any."""
        readers = self.consumers.get(node.output[0], [])
        return readers[0] if len(readers) == 1 and self.constant_operand(readers[0]) is not None else None

    def is_norm(self, chain: list[onnx.NodeProto]) -> bool:
        """Whether a chain is a norm by the definition at the top of this file."""
        scales = any(node.op_type in SCALING and self.is_per_channel(node) for node in chain)
        if not scales:
            return False
        shifts = any(node.op_type not in SCALING and self.is_per_channel(node) for node in chain)
        neighbours = [
            self.producers.get(self.data_input(chain[0])),
            *self.consumers.get(chain[-1].output[0], []),
        ]
        return shifts or any(self.absorbs(node) for node in neighbours)


def wide_dimensions(shape: tuple[int, ...]) -> int:
    """Number of dimensions larger than one."""
    return sum(size > 1 for size in shape)


def base_type(node: onnx.NodeProto) -> str:
    """Operation type with the fused forms of runtimes mapped to what they are."""
    kind: str = node.op_type
    return FUSED.get(kind, kind)


def bodies(model: onnx.ModelProto) -> Iterator[Body]:
    """Every graph, subgraph and function body of the model, with the shapes that shape inference finds."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    yield from graph_bodies(graph, {}, ())
    for function in model.functions:
        body = Body(function.node, {}, function.input, {})
        yield body
        yield from inner_bodies(function.node, body)


def graph_bodies(graph: onnx.GraphProto, outer: Shapes, outer_live: Iterable[str]) -> Iterator[Body]:
    """Yield the body of ``graph`` and those nested in it; outer values stay visible inside."""
    constants = {**outer, **{tensor.name: tuple(tensor.dims) for tensor in graph.initializer}}
    live = {*outer_live, *(value.name for value in graph.input if value.name not in constants)}
    inferred: Shapes = {
        value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
        for value in graph.value_info
        if value.type.tensor_type.HasField("shape")
    }
    body = Body(graph.node, constants, live, inferred)
    yield body
    yield from inner_bodies(graph.node, body)


def inner_bodies(nodes: Iterable[onnx.NodeProto], body: Body) -> Iterator[Body]:
    """Bodies of the subgraphs that ``nodes`` carry."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from graph_bodies(graph, body.constants, body.live)


def census(model: onnx.ModelProto) -> Census:
    """Count the norms and the live operations of ``model``."""
    batch = chains = other = 0
    operations: Counter[str] = Counter()
    for body in bodies(model):
        norms = [chain for chain in body.chains() if body.is_norm(chain)]
        inside = {id(node) for chain in norms for node in body.norm_part(chain)}
        chains += len(norms)
        batch += sum(node.op_type in BATCH_NORMS for node in body.nodes)
        other += sum(node.op_type in OTHER_NORMS for node in body.nodes)
        outside = (node for node in body.nodes if id(node) not in inside)
        operations.update(family(base_type(node)) for node in outside if base_type(node) in INSERTABLE)
    return Census(batch, chains, other, operations)


def family(kind: str) -> str:
    """Name under which an insertable operation is counted: signs and directions do not matter."""
    if kind in LINEAR:
        return "Linear"
    return {"Sub": "Add", "Div": "Mul"}.get(kind, kind)


def census_of(path: Path) -> Census:
    """Count the norms of the model file at ``path``; its external data is not read."""
    import onnx

    return census(onnx.load(path, load_external_data=False))
