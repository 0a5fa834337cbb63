"""Attention that is written out: softmax(scale * Q K^T + bias) V by heads, which are merged again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from normfold.backends.onnx.clean.editor import DEFAULT_DOMAIN
from normfold.backends.onnx.fuse.heads import Heads, Reader
from normfold.core.algebra.moves import Dim

QUERIES: Final = (0, 2, 1, 3)
"""Heads before positions, as the product takes queries and values."""
KEYS: Final = (0, 2, 3, 1)
"""The same of keys, which are transposed."""
LONG_WITH_BIAS: Final = 192
"""Least length of queries and of keys from which on the operator is faster with a bias, which it copies by head."""
LONG_IN_PARTS: Final = 1024
"""The same where queries, keys and values are parts of one product, which have to be copied apart."""
HELD: Final = 1e-35
"""Least magnitude of a scale: the operator takes 0 for 'none given'."""


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to the scores."""

    value: ir.Value
    expanded: tuple[int, ...] | None
    """What it is to be expanded to, in as many dimensions; None where the operator takes it as it is."""


@dataclass(frozen=True, slots=True)
class Attention:
    """What one operation computes, from three values [batch, sequence, hidden]."""

    query: Heads
    key: Heads
    value: Heads
    scale: float
    bias: Bias | None
    nodes: tuple[ir.Node, ...]
    """The products, the softmax and what stands between them, in order."""
    merge: ir.Node
    """The Reshape that makes one axis of heads and elements."""
    only_merges: bool
    """Whether it does nothing else."""


def read_attention(reader: Reader, softmax: ir.Node, opset: int) -> Attention | None:
    """The attention around ``softmax``; None where it is anything else, or where something inside is read besides."""
    value = softmax.inputs[0] if softmax.inputs else None
    axis = softmax.attributes.get_int("axis", -1 if opset >= 13 else 1)
    product = _only_reader(softmax.outputs[0], "MatMul")
    if value is None or axis not in (-1, 3) or product is None or product.inputs[0] is not softmax.outputs[0]:
        return None
    values = None if product.inputs[1] is None else reader.heads(product.inputs[1], QUERIES)
    merge = _merged(product.outputs[0]) if values is not None else None
    scores = None if merge is None else _scores(reader, value)
    if values is None or merge is None or scores is None:
        return None
    query, key = scores.query, scores.key
    scale = scores.scale * query.scale * key.scale
    if not (
        _fits(reader, query, key, values)
        and _pays(query, key, values)
        and HELD < abs(scale) < 1 / HELD
        and values.scale == 1.0
    ):
        return None
    bias = None if scores.bias is None else _bias(reader, scores.bias, query, key)
    if scores.bias is not None and bias is None:
        return None
    only = _only_merges(reader, merge, query, values)
    if not only and not _merges_any(reader, merge):
        return None
    return Attention(query, key, values, scale, bias, (*scores.nodes, softmax, product), merge, only)


@dataclass(frozen=True, slots=True)
class _Scores:
    query: Heads
    key: Heads
    scale: float
    bias: ir.Value | None
    nodes: tuple[ir.Node, ...]


def _scores(reader: Reader, value: ir.Value) -> _Scores | None:
    add = reader.node(value, "Add")
    if add is None:
        return _scaled_product(reader, value, None, ())
    for product, bias in (tuple(add.inputs), tuple(reversed(add.inputs))):
        if _is_alone(value) and product is not None and bias is not None:
            found = _scaled_product(reader, product, bias, (add,))
            if found is not None:
                return found
    return None


def _scaled_product(
    reader: Reader, value: ir.Value, bias: ir.Value | None, nodes: tuple[ir.Node, ...]
) -> _Scores | None:
    scale = 1.0
    while _is_alone(value):
        node, product, scaled = value.producer(), reader.node(value, "MatMul"), reader.scaled(value)
        if product is not None:
            query = None if product.inputs[0] is None else reader.heads(product.inputs[0], QUERIES)
            key = None if product.inputs[1] is None else reader.heads(product.inputs[1], KEYS)
            return _Scores(query, key, scale, bias, (product, *nodes)) if query and key else None
        if scaled is None or node is None:
            return None
        value, scale, nodes = scaled[0], scale * scaled[1], (node, *nodes)
    return None


def _is_alone(value: ir.Value) -> bool:
    """Whether one node reads ``value``, and nobody else does."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def _only_reader(value: ir.Value, operator: str) -> ir.Node | None:
    """The one node that reads ``value``, where it is an ``operator``."""
    if not _is_alone(value):
        return None
    node = next(iter(value.uses())).node
    return node if node.domain in DEFAULT_DOMAIN and node.op_type == operator and node.graph is value.graph else None


def _merged(value: ir.Value) -> ir.Node | None:
    """The Reshape behind the Transpose that puts positions before heads again."""
    transpose = _only_reader(value, "Transpose")
    if transpose is None or tuple(transpose.attributes.get_ints("perm", ())) != QUERIES:
        return None
    merge = _only_reader(transpose.outputs[0], "Reshape")
    return merge if merge is not None and merge.inputs[0] is transpose.outputs[0] else None


def _only_merges(reader: Reader, merge: ir.Node, query: Heads, values: Heads) -> bool:
    target = reader.integers(merge.inputs[1])
    # What the Reshape is told counts: an output may be declared otherwise.
    shape = reader.shapes.of(merge.outputs[0]) if target is None else _asked(merge, target, query)
    if shape is None or len(shape) != 3 or shape[2] != values.count * values.size:
        return False
    return _same(shape[0], query.batch) or _same(shape[1], query.sequence)


def _asked(merge: ir.Node, target: list[int], query: Heads) -> tuple[Dim, ...]:
    """The sizes that ``target`` asks for; a zero copies one of the first two, which are those of ``query``."""
    copied = (query.batch, query.sequence) if merge.attributes.get_int("allowzero", 0) == 0 else ()
    sizes: list[Dim] = [size if size > 0 else None for size in target]
    for axis, size in enumerate(copied):
        if axis < len(sizes) and target[axis] == 0:
            sizes[axis] = size
    return tuple(sizes)


def _merges_any(reader: Reader, merge: ir.Node) -> bool:
    """Whether ``merge`` comes to the same of a value whose heads are one axis with their elements."""
    target = reader.integers(merge.inputs[1]) if merge.attributes.get_int("allowzero", 0) == 0 else None
    # A zero stands for the size of the same axis: the first two have not changed.
    return target is not None and 0 not in target[2:]


def _fits(reader: Reader, query: Heads, key: Heads, values: Heads) -> bool:
    """Whether the three belong together without any broadcasting, in the type of the operator's kernel."""
    heads = query.count == key.count == values.count and query.size == key.size
    batch = _same(query.batch, key.batch) and _same(key.batch, values.batch)
    together = query.source is key.source is values.source
    kinds = all(reader.shapes.dtype(one.source) == ir.DataType.FLOAT for one in (query, key, values))
    return heads and (batch or together) and kinds


def _pays(query: Heads, key: Heads, values: Heads) -> bool:
    """Whether the operator is faster, as far as that is a matter of where its inputs come from."""
    parted = [one for one in (query, key, values) if one.parts > 1]
    return all(isinstance(one.sequence, int) and one.sequence >= LONG_IN_PARTS for one in parted)


def _same(left: Dim, right: Dim) -> bool:
    return left is not None and left == right


def _bias(reader: Reader, value: ir.Value, query: Heads, key: Heads) -> Bias | None:
    """``value`` as the operator takes it, [batch or 1, heads or 1, queries, keys], where that pays."""
    shape = reader.shapes.of(value)
    lengths = [one for one in (query.sequence, key.sequence) if isinstance(one, int) and one >= LONG_WITH_BIAS]
    if shape is None or len(shape) > 4 or len(lengths) < 2 or reader.shapes.dtype(value) != ir.DataType.FLOAT:
        return None
    sizes = (*(1,) * (4 - len(shape)), *shape)
    wholes: tuple[Dim, ...] = (query.batch, query.count, *lengths)
    if not all(size == 1 or _same(size, whole) for size, whole in zip(sizes, wholes, strict=True)):
        return None
    fits = len(shape) == 4 and list(sizes[2:]) == lengths
    return Bias(value, None if fits else (1, 1, *lengths))
