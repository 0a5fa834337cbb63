"""Operations that only move elements as `Moving`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context, data, opaque
from normfold.core.algebra import Chain, Crop, Move, Permute, Regroup, Shuffle, Take
from normfold.core.algebra.moves import Dim
from normfold.core.premises import INFERENCE_MODE, STATIC_RESHAPE, WELL_FORMED
from normfold.core.views import Moving, NotLifted, View


def _moving(node: ir.Node, *moves: Move) -> Moving:
    return Moving(
        node=node, op=node.op_type, inputs=(data(node),), outputs=tuple(node.outputs[: len(moves)]), moves=moves
    )


def identity(_: Context, node: ir.Node) -> View:
    """An operation that gives back what it gets."""
    return _moving(node, Permute())


def _dropout(context: Context, node: ir.Node) -> View:
    training = context.opset >= 12 and len(node.inputs) > 2 and node.inputs[2] is not None
    if training:
        mode = context.constant(node, 2)
        training = mode is None or bool(mode.any())
    if training or (context.opset < 7 and not node.attributes.get_int("is_test", 0)):
        raise NotLifted(INFERENCE_MODE, f"{context.label(node)} is not known to be in inference mode")
    return _moving(node, Permute())


def _transpose(context: Context, node: ir.Node) -> View:
    order = node.attributes.get_ints("perm", None)
    if order is None:
        rank = context.rank(data(node))
        if rank is None:
            raise NotLifted(STATIC_RESHAPE, f"the rank of the input of {context.label(node)} is not known")
        order = range(rank)[::-1]
    rank = context.rank(data(node))
    context.require(node, "the perm", fits=sorted(order) == list(range(len(order) if rank is None else rank)))
    return _moving(node, Permute(tuple(order)))


def _source(context: Context, node: ir.Node) -> tuple[Dim, ...]:
    shape = context.shape(data(node))
    if shape is None:
        raise NotLifted(STATIC_RESHAPE, f"the shape of the input of {context.label(node)} is not known")
    return tuple(f"?{k}" if dim is None else dim for k, dim in enumerate(shape))


def _reshape(context: Context, node: ir.Node) -> View:
    source = _source(context, node)
    if "shape" in node.attributes or context.constant(node, 1) is not None:
        sizes = context.integers(node, "shape", 1) or []
        context.require(node, "the target shape", fits=all(size >= -1 for size in sizes) and sizes.count(-1) <= 1)
        target = _resolved(source, sizes, keep_zero=bool(node.attributes.get_int("allowzero", 0)))
    else:
        inferred = context.shape(node.outputs[0])
        if inferred is None:
            raise NotLifted(STATIC_RESHAPE, f"the target shape of {context.label(node)} is computed at run time")
        target = list(inferred)
    sizes_known = [dim for dim in (*source, *target) if isinstance(dim, int)]
    if len(sizes_known) == len(source) + len(target):
        context.require(
            node, "the target shape", fits=prod(sizes_known[: len(source)]) == prod(sizes_known[len(source) :])
        )
    return _moving(node, Regroup.between(source, target))


def _resolved(source: Sequence[Dim], sizes: Sequence[int], *, keep_zero: bool) -> list[Dim]:
    """The target dimensions of a Reshape with its 0 and -1 replaced, as far as they can be known."""
    target: list[Dim] = [
        source[k] if size == 0 and not keep_zero and k < len(source) else size for k, size in enumerate(sizes)
    ]
    if -1 not in sizes:
        return target
    left = [dim for dim in source if not isinstance(dim, int)]
    for dim in target:
        if isinstance(dim, str) and dim in left:
            left.remove(dim)
    known = prod(dim for k, dim in enumerate(target) if isinstance(dim, int) and sizes[k] != -1)
    total = prod(dim for dim in source if isinstance(dim, int))
    at = sizes.index(-1)
    if not left and known and total % known == 0:
        target[at] = total // known
    elif len(left) == 1 and known == total:
        target[at] = left[0]
    else:
        target[at] = None
    return target


def _flatten(context: Context, node: ir.Node) -> View:
    source = _source(context, node)
    axis = node.attributes.get_int("axis", 1)
    context.require(node, f"axis {axis}", fits=-len(source) <= axis <= len(source))
    axis = axis + len(source) if axis < 0 else axis
    return _moving(node, Regroup.between(source, [_joined(source[:axis]), _joined(source[axis:])]))


def _joined(dims: Sequence[Dim]) -> Dim:
    if all(isinstance(dim, int) for dim in dims):
        return prod(dim for dim in dims if isinstance(dim, int))
    return next((dim for dim in dims if dim != 1), None) if sum(dim != 1 for dim in dims) == 1 else None


def _squeeze(context: Context, node: ir.Node) -> View:
    source = _source(context, node)
    axes = context.integers(node, "axes", 1)
    if axes is None:
        if not all(isinstance(dim, int) for dim in source):
            raise NotLifted(STATIC_RESHAPE, f"which axes {context.label(node)} removes is not known")
        axes = [k for k, dim in enumerate(source) if dim == 1]
    gone = context.axes(node, axes, len(source))
    context.require(node, "an axis", fits=all(source[axis] == 1 or isinstance(source[axis], str) for axis in gone))
    kept = [dim for k, dim in enumerate(source) if k - len(source) not in gone]
    return _moving(node, Regroup.between(source, kept))


def _unsqueeze(context: Context, node: ir.Node) -> View:
    source = _source(context, node)
    axes = context.integers(node, "axes", 1) or []
    rank = len(source) + len(axes)
    new = context.axes(node, axes, rank)
    kept = iter(source)
    return _moving(node, Regroup.between(source, [1 if k - rank in new else next(kept) for k in range(rank)]))


def _slice(context: Context, node: ir.Node) -> View:
    source = _source(context, node)
    rank = len(source)
    starts, ends = context.integers(node, "starts", 1), context.integers(node, "ends", 2)
    if starts is None or ends is None:
        raise NotLifted(WELL_FORMED, f"{context.label(node)} has no starts and ends")
    axes = context.axes(node, context.integers(node, "axes", 3) or range(len(starts)), rank)
    steps = context.integers(node, "steps", 4) or [1] * len(starts)
    lengths = {len(starts), len(ends), len(axes), len(steps)}
    context.require(node, "the length of starts, ends, axes or steps", fits=len(lengths) == 1)
    moves: list[Move] = []
    for negative, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = source[negative]
        if isinstance(size, int) and step > 0:
            moves.append(Take(negative, size, range(size)[start:end:step], shared=False))
        else:
            moves.append(Crop((negative,)))
    return _moving(node, Chain(tuple(moves)))


def _split(context: Context, node: ir.Node) -> View:
    source = _source(context, node)
    (axis,) = context.axes(node, (node.attributes.get_int("axis", 0),), len(source))
    size, count = source[axis], len(node.outputs)
    if not isinstance(size, int):
        raise NotLifted(STATIC_RESHAPE, f"the size that {context.label(node)} splits is not known")
    part = -(-size // count)
    sizes = context.integers(node, "split", 1) or [min(part, size - k * part) for k in range(count)]
    fits = len(sizes) == count and sum(sizes) == size and min(sizes) >= 0
    context.require(node, "the split", fits=fits)
    starts = [sum(sizes[:k]) for k in range(count)]
    takes = [Take(axis, size, range(start, start + length)) for start, length in zip(starts, sizes, strict=True)]
    return _moving(node, *takes)


def gather_elements(context: Context, node: ir.Node) -> View:
    """A Gather that takes each element of an axis once, or one of them, such as a class token.

    Its indices may have a shape of their own, which the elements then get: PyTorch's ``as_strided``.
    """
    picked = context.constant(node, 1)
    shape = None if picked is None else context.shape(data(node))
    if picked is None or shape is None:
        return opaque(node)
    (axis,) = context.axes(node, (node.attributes.get_int("axis", 0),), len(shape))
    if picked.ndim == 0:
        return _selected(node, axis, shape, int(picked))
    size, places = shape[axis], context.integers(node, "indices", 1) or []
    if not isinstance(size, int) or size != len(places) or not all(-size <= k < size for k in places):
        return opaque(node)
    order = tuple(k % size for k in places)
    if len(set(order)) != size:
        return opaque(node)
    taken = Shuffle(axis, order)
    if picked.ndim == 1:
        return _moving(node, taken)
    place = axis + len(shape)
    regrouped = Regroup.between(shape, (*shape[:place], *picked.shape, *shape[place + 1 :]))
    return _moving(node, regrouped if taken.identity else Chain((taken, regrouped)))


def _selected(node: ir.Node, axis: int, shape: Sequence[Dim], place: int) -> View:
    size = shape[axis]
    if not isinstance(size, int) or not -size <= place < size:
        return opaque(node)
    single = tuple(1 if k - len(shape) == axis else dim for k, dim in enumerate(shape))
    rest = tuple(dim for k, dim in enumerate(shape) if k - len(shape) != axis)
    take = Take(axis, size, range(place % size, place % size + 1), shared=False)
    return _moving(node, Chain((take, Regroup.between(single, rest))))


LIFTS: dict[str, Callable[[Context, ir.Node], View]] = {
    "Identity": identity,
    "Dropout": _dropout,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
}
