"""Which channels are normalised together, where live statistics are asked for, and when that means nothing."""

from __future__ import annotations

from collections.abc import Sequence

from normfold.core.algebra.moves import Dim
from normfold.core.graph import Graph
from normfold.core.premises import MEANINGFUL
from normfold.core.views import Pool, View
from normfold.passes.convert.conversion import Asked
from normfold.records import Refusal


def grouped(asked: Asked, channels: int) -> int | None:
    """How many groups ``channels`` channels make; None where they do not go into groups as asked."""
    return channels if asked.target == "instance" else 1 if asked.target != "group" else asked.groups(channels)


def ungroupable(graph: Graph, view: View, axis: int, channels: int, asked: Asked) -> Refusal | None:
    """Why a norm of the channels along ``axis`` (negative), as asked for, would mean nothing in place of ``view``."""
    label, groups = graph.label(view.node), grouped(asked, channels)
    if groups is None:
        return Refusal(MEANINGFUL, f"the {channels} channels of {label} do not go into groups as asked")
    if asked.target not in ("layer", "rms", "bln", "group", "instance"):
        return None
    shape = graph.shape(view.inputs[0])
    whole = asked.target in ("group", "instance")
    positions = shape[len(shape) + axis + 1 :] if shape is not None and whole else ()
    if shape is not None and channels // groups == 1 and all(size == 1 for size in positions):
        return Refusal(MEANINGFUL, f"a group of {label} would be one value, of which a norm leaves nothing")
    if asked.target == "instance" and _averaged(graph, view, axis):
        because = f"what {label} makes is averaged over all positions, and an InstanceNorm makes that the same for all"
        return Refusal(MEANINGFUL, because)
    return None


def _averaged(graph: Graph, view: View, axis: int) -> bool:
    """Whether all that reads what the norm makes is its mean over all positions."""
    shape = graph.shape(view.outputs[0])
    readers = [graph.view(reader) for reader, _ in graph.consumers(view.outputs[0])]
    return bool(readers) and all(_is_global(graph, one, shape, axis) for one in readers)


def _is_global(graph: Graph, reader: View, shape: Sequence[Dim] | None, axis: int) -> bool:
    """Whether ``reader`` averages all positions behind ``axis`` of its input, of ``shape``, and leaves one."""
    if shape is None or not isinstance(reader, Pool) or not reader.averages:
        return False
    made = graph.shape(reader.outputs[0]) or (None, None, None)
    return all(size == 1 for size in made[len(shape) + axis + 1 :]) and set(reader.axes) == set(range(axis + 1, 0))
