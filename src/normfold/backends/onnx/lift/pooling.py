"""Pooling and means over axes as `Pool`, resizing as `Resample`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context, all_equal, check_window, data, window
from normfold.core.algebra import Move, Permute, Regroup
from normfold.core.algebra.moves import Dim
from normfold.core.premises import EVERY_TAP, KNOWN_RANK, SINGLE_USE, STATIC_RESHAPE
from normfold.core.views import NotLifted, Pool, Resample, View


def _rank(context: Context, node: ir.Node) -> int:
    rank = context.rank(data(node))
    if rank is None or rank < 2:
        raise NotLifted(KNOWN_RANK, f"the rank of the input of {context.label(node)} is not known")
    return rank


def _pool(
    node: ir.Node, axes: tuple[int, ...], *, maximum: bool, keeps_shift: bool = True, move: Move | None = None
) -> Pool:
    return Pool(
        node=node,
        op=node.op_type,
        inputs=(data(node),),
        outputs=(node.outputs[0],),
        axes=axes,
        move=move or Permute(),
        maximum=maximum,
        keeps_shift=keeps_shift,
    )


def _window(context: Context, node: ir.Node) -> View:
    """AveragePool and MaxPool."""
    axes = tuple(range(2 - _rank(context, node), 0))
    kernel = tuple(node.attributes.get_ints("kernel_shape", ()))
    check_window(context, node, kernel)
    if node.op_type == "MaxPool":
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            raise NotLifted(SINGLE_USE, f"{context.label(node)} also returns indices")
        if not _windows_reach(context, node):
            # Such a maximum is the lowest number of the type, which runtimes do not treat as minus infinity.
            raise NotLifted(EVERY_TAP, f"a window of {context.label(node)} may lie in its padding alone")
        return _pool(node, axes, maximum=True)
    padded = node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or not all_equal(
        node.attributes.get_ints("pads", ()), 0
    )
    # Runtimes disagree on what the last, partial window of ceil_mode counts.
    counted = bool(node.attributes.get_int("count_include_pad", 0))
    partial = node.attributes.get_int("ceil_mode", 0) == 1
    pool = _pool(node, axes, maximum=False, keeps_shift=not (counted and (padded or partial)))
    uneven = partial or (padded and not counted)
    return pool if uneven else replace(pool, window=window(node, kernel))


def _windows_reach(context: Context, node: ir.Node) -> bool:
    """Whether every window of a MaxPool is known to see an element: one with gaps can miss all of a small input."""
    kernel = node.attributes.get_ints("kernel_shape", ())
    dilations = node.attributes.get_ints("dilations", [1] * len(kernel))
    pads = node.attributes.get_ints("pads", [0] * 2 * len(kernel))
    sizes = (context.shape(data(node)) or (None,) * (len(kernel) + 2))[2:]
    padded = [max(pads[k], pads[k + len(kernel)]) for k in range(len(kernel))]
    return all(
        not pad or (pad <= gap * (taps - 1) and (gap == 1 or (isinstance(size, int) and size >= gap)))
        for pad, gap, taps, size in zip(padded, dilations, kernel, sizes, strict=True)
    )


def _everywhere(context: Context, node: ir.Node) -> View:
    """GlobalAveragePool and GlobalMaxPool."""
    return _pool(node, tuple(range(2 - _rank(context, node), 0)), maximum=node.op_type == "GlobalMaxPool")


def _reduction(context: Context, node: ir.Node) -> View:
    """ReduceMean and ReduceMax."""
    rank = context.rank(data(node))
    axes = context.integers(node, "axes", 1)
    if rank is None:
        raise NotLifted(KNOWN_RANK, f"the rank of the input of {context.label(node)} is not known")
    if not axes:
        axes = [] if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))
    negative = tuple(sorted(context.axes(node, axes, rank)))
    source: list[Dim] = [1 if k - rank in negative else f"kept {k}" for k in range(rank)]
    kept = [dim for k, dim in enumerate(source) if k - rank not in negative]
    move = Permute() if node.attributes.get_int("keepdims", 1) else Regroup.between(source, kept)
    return _pool(node, negative, maximum=node.op_type == "ReduceMax", move=move)


def _resize(context: Context, node: ir.Node) -> View:
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise NotLifted(EVERY_TAP, f"{context.label(node)} fills in a constant outside of its input")
    axes = _resized(context, node, _rank(context, node))
    return Resample(node=node, op=node.op_type, inputs=(data(node),), outputs=tuple(node.outputs), axes=axes)


def _resized(context: Context, node: ir.Node, rank: int) -> tuple[int, ...]:
    """The axes that are not known to be left alone.

    An axis that keeps its size may still be resampled: 3 elements times 1.2 are 3 others.
    """
    chosen = context.axes(node, node.attributes.get_ints("axes", range(rank)), rank)
    scales = _scales(context, node)
    if scales is not None and len(scales) == len(chosen):
        return tuple(axis for axis, scale in zip(chosen, scales, strict=True) if scale != 1)
    before, after = context.shape(data(node)), context.shape(node.outputs[0])
    by_sizes = len(node.inputs) > 3 and node.inputs[3] is not None
    stretched = node.attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
    if before is None or after is None or len(after) != rank or not by_sizes or not stretched:
        raise NotLifted(STATIC_RESHAPE, f"which axes {context.label(node)} leaves alone is not known")
    return tuple(axis for axis in chosen if before[axis] is None or before[axis] != after[axis])


def _scales(context: Context, node: ir.Node) -> list[float] | None:
    if "scales" in node.attributes:
        return list(node.attributes.get_floats("scales", ()))
    found = context.constant(node, 1 if node.op_type == "Upsample" or context.opset < 11 else 2)
    return None if found is None or not found.size else [float(scale) for scale in found.reshape(-1)]


LIFTS: dict[str, Callable[[Context, ir.Node], View]] = {
    "AveragePool": _window,
    "MaxPool": _window,
    "GlobalAveragePool": _everywhere,
    "GlobalMaxPool": _everywhere,
    "ReduceMean": _reduction,
    "ReduceMax": _reduction,
    "Resize": _resize,
    "Upsample": _resize,
}
