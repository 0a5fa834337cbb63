"""Operations that only move elements as `Moving`; pooling and means as `Pool`, resizing as `Resample`."""

from __future__ import annotations

from collections.abc import Callable

from normfold.backends.torch.tracer import Op, Value
from normfold.backends.torch.tree import ModuleTree
from normfold.core.algebra import Chain, Move, Permute, Regroup, Take
from normfold.core.premises import EVAL_MODE, EVERY_TAP
from normfold.core.views import Moving, NotLifted, Pool, Resample, View

Lift = Callable[[ModuleTree, Op], View]


def data(op: Op) -> Value:
    """The value that ``op`` works on."""
    value = op.arguments["input"] if "input" in op.arguments else op.arguments["self"]
    if not isinstance(value, Value):
        raise TypeError(f"the input of {op.kind} is no tensor")
    return value


def negative(op: Op, axis: int) -> int:
    """``axis`` of the data of ``op``, counted from the end."""
    rank = len(data(op).shape)
    return axis % rank - rank


def _moving(op: Op, *moves: Move) -> Moving:
    return Moving(node=op, op=op.kind, inputs=(data(op),), outputs=op.outputs, moves=moves)


def _identity(_: ModuleTree, op: Op) -> View:
    return _moving(op, Permute())


def _dropout(tree: ModuleTree, op: Op) -> View:
    if op.arguments["train"]:
        raise NotLifted(EVAL_MODE, f"{tree.label(op)} is in training mode; call .eval() on the module first")
    return _moving(op, Permute())


def _regroup(_: ModuleTree, op: Op) -> View:
    return _moving(op, Regroup.between(data(op).shape, op.outputs[0].shape))


def _permute(_: ModuleTree, op: Op) -> View:
    rank = len(data(op).shape)
    return _moving(op, Permute(tuple(axis % rank for axis in op.arguments["dims"])))


def _transpose(_: ModuleTree, op: Op) -> View:
    rank = len(data(op).shape)
    names = ("dim0", "dim1") if "dim0" in op.arguments else ("axis0", "axis1")
    first, second = (int(op.arguments[name]) % rank for name in names)
    order = list(range(rank))
    order[first], order[second] = second, first
    return _moving(op, Permute(tuple(order)))


def _t(_: ModuleTree, op: Op) -> View:
    return _moving(op, Permute(tuple(range(len(data(op).shape)))[::-1]))


def _slice(_: ModuleTree, op: Op) -> View:
    axis = negative(op, op.arguments["dim"])
    size = data(op).shape[axis]
    taken = range(size)[op.arguments["start"] : op.arguments["end"] : op.arguments["step"]]
    return _moving(op, Take(axis, size, taken, shared=False))


def _split(_: ModuleTree, op: Op) -> View:
    axis = negative(op, op.arguments["dim"])
    size, start, moves = data(op).shape[axis], 0, []
    for output in op.outputs:
        stop = start + output.shape[axis]
        moves.append(Take(axis, size, range(start, stop)))
        start = stop
    return _moving(op, *moves)


def _select(_: ModuleTree, op: Op) -> View:
    axis, shape = negative(op, op.arguments["dim"]), data(op).shape
    single = tuple(1 if k - len(shape) == axis else size for k, size in enumerate(shape))
    place = int(op.arguments["index"]) % shape[axis]
    take = Take(axis, shape[axis], range(place, place + 1), shared=False)
    return _moving(op, Chain((take, Regroup.between(single, op.outputs[0].shape))))


def _unbind(_: ModuleTree, op: Op) -> View:
    axis, shape = negative(op, op.arguments["dim"]), data(op).shape
    single = tuple(1 if k - len(shape) == axis else size for k, size in enumerate(shape))
    squeeze = Regroup.between(single, op.outputs[0].shape)
    takes = (Take(axis, shape[axis], range(k, k + 1)) for k in range(len(op.outputs)))
    return _moving(op, *(Chain((take, squeeze)) for take in takes))


def _pool(op: Op, axes: tuple[int, ...], *, maximum: bool, keeps_shift: bool = True, move: Move | None = None) -> Pool:
    return Pool(
        node=op,
        op=op.kind,
        inputs=(data(op),),
        outputs=op.outputs[:1],
        axes=axes,
        move=move or Permute(),
        maximum=maximum,
        keeps_shift=keeps_shift,
    )


def _average(tree: ModuleTree, op: Op) -> View:
    if op.arguments.get("divisor_override") is not None:
        raise NotLifted(EVERY_TAP, f"{tree.label(op)} divides by a divisor of its own")
    counted = op.arguments["count_include_pad"] and (any(op.arguments["padding"]) or op.arguments["ceil_mode"])
    return _pool(op, _spatial(op), maximum=False, keeps_shift=not counted)


def _maximum(_: ModuleTree, op: Op) -> View:
    return _pool(op, _spatial(op), maximum=True)


def _adaptive_average(_: ModuleTree, op: Op) -> View:
    return _pool(op, _spatial(op), maximum=False)


def _resize(_: ModuleTree, op: Op) -> View:
    axes = tuple(range(2 - len(data(op).shape), 0))
    return Resample(node=op, op=op.kind, inputs=(data(op),), outputs=op.outputs[:1], axes=axes)


def _spatial(op: Op) -> tuple[int, ...]:
    """The axes that a pooling operation, which ends in its number of them, works on."""
    return tuple(range(-int(op.kind[-2]), 0))


def _reduction(_: ModuleTree, op: Op) -> View:
    shape = data(op).shape
    rank, dims = len(shape), op.arguments.get("dim")
    chosen = [dims] if isinstance(dims, int) else dims or range(rank)
    axes = tuple(sorted(axis % rank - rank for axis in chosen))
    single = tuple(1 if k - rank in axes else size for k, size in enumerate(shape))
    move = Permute() if op.arguments.get("keepdim") else Regroup.between(single, op.outputs[0].shape)
    return _pool(op, axes, maximum=op.kind == "amax", move=move)


LIFTS: dict[str, Lift] = {
    **dict.fromkeys(("contiguous", "clone", "detach", "lift_fresh"), _identity),
    **dict.fromkeys(("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"), _dropout),
    **dict.fromkeys(
        ("view", "view_as", "reshape", "reshape_as", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"),
        _regroup,
    ),
    "permute": _permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose),
    **dict.fromkeys(("t", "numpy_T"), _t),
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split"), _split),
    "unbind": _unbind,
    **{f"avg_pool{k}d": _average for k in (1, 2, 3)},
    **{f"max_pool{k}d": _maximum for k in (1, 2, 3)},
    **{f"adaptive_avg_pool{k}d": _adaptive_average for k in (1, 2, 3)},
    **dict.fromkeys(("mean", "amax"), _reduction),
    **{f"upsample_nearest{k}d": _resize for k in (1, 2, 3)},
    **{f"_upsample_nearest_exact{k}d": _resize for k in (1, 2, 3)},
    **dict.fromkeys(
        ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"), _resize
    ),
}
