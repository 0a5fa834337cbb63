"""A network in the form that integer kernels have: maps in weights, clamps in ranges, norms beside clamps as bounds.

Every rewrite is exact in floating point, but for `GELU`, which its sigmoid form stands for. On codes a clamp that
follows a step costs nothing, since what lies beyond the range of the codes saturates; a per-channel clamp is a maximum
and a minimum of codes, which commute with rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim
from normfold.core.integers.steps import (
    GELU,
    Affine,
    ChannelClamp,
    Clamped,
    Floating,
    GlobalMean,
    Linear,
    MaxPool,
    Moving,
    Network,
    Product,
    Select,
    Sigmoid,
    Step,
    Transposed,
)

ROUNDS: Final = 1000
"""Far more rewrites in a row than any rule can find at one step."""


@dataclass(frozen=True, slots=True)
class _Site:
    """A step and what is around it."""

    network: Network
    readers: Mapping[str, Sequence[Step]]
    makers: Mapping[str, Step]
    derived: dict[str, tuple[str, float]]
    """Filled by rules: new values that are multiples of old ones."""
    shapes: dict[str, tuple[Dim, ...] | None]
    """Those of the network, and by rules of new values."""

    def is_by_channel(self, value: str, axis: int) -> bool:
        """Whether ``axis`` is that of the channels of ``value``, ``[N, C, ...]``, and not one of its positions."""
        return len(self.shapes.get(value) or ()) + axis == 1

    def new(self, name: str, like: str) -> str:
        """A new value, ``name``, of the shape of ``like``."""
        self.shapes[name] = self.shapes.get(like)
        return name

    def only_reader(self, value: str) -> Step | None:
        """The one step that reads ``value``, where nobody else sees it."""
        found = self.readers.get(value, ())
        return found[0] if len(found) == 1 and value not in self.network.outputs else None

    def sole_maker(self, step: Step) -> Step | None:
        """What makes the first input of ``step``, where nobody else reads that."""
        value = step.inputs[0]
        return self.makers.get(value) if self.only_reader(value) is step else None


Edit = Mapping[Step, Sequence[Step]]
"""Steps, and what takes the place of each."""
RewriteRule = Callable[[_Site, Step], Edit | None]


def simplified(network: Network) -> Network:
    """``network`` with every rule applied as often as it can be."""
    derived: dict[str, tuple[str, float]] = {}
    shapes = dict(network.shapes)
    for _ in range(ROUNDS):
        site = _Site(network, network.readers(), network.makers(), derived, shapes)
        edits: dict[Step, Sequence[Step]] = {}
        touched: set[Step] = set()
        for step in network.steps:
            edit = next((found for rule in RULES if (found := rule(site, step))), None)
            around = set() if edit is None else _around(site, edit)
            if edit and not (around & touched):
                edits |= edit
                touched |= around
        if not edits:
            bounded = tuple(_as_bounds(step) for step in _without_dead(network).steps)
            added = network.added | (set(shapes) - set(network.shapes))
            return replace(network, steps=bounded, derived=derived, shapes=shapes, added=added)
        steps = [new for step in network.steps for new in edits.get(step, (step,))]
        network = _sorted(_without_dead(replace(network, steps=tuple(steps))))
    raise RuntimeError("the rewrites of the integer network do not end")


def _as_bounds(step: Step) -> Step:
    """A clamp that no other step took: bounds, the same for all channels."""
    if not isinstance(step, Affine) or _maps(step) or not _clamps(step):
        return step
    return _channel_clamp(step, step.inputs[0], np.full(1, step.low), np.full(1, step.high), -1)


def _around(site: _Site, edit: Edit) -> set[Step]:
    """The steps of ``edit`` and their neighbours: no other rewrite of the round may see those change."""
    found = set(edit)
    for step in edit:
        found |= {site.makers[value] for value in step.inputs if value in site.makers}
        found |= set(site.readers.get(step.output, ()))
    return found


def _without_dead(network: Network) -> Network:
    """Without the steps whose results nobody reads."""
    while True:
        read = {value for step in network.steps for value in (*step.inputs, *step.beside)} | set(network.outputs)
        alive = tuple(
            step
            for step in network.steps
            if step.output in read or (isinstance(step, Floating) and read & set(step.more))
        )
        if len(alive) == len(network.steps):
            return network
        network = replace(network, steps=alive)


def _sorted(network: Network) -> Network:
    """Each step behind those that make what it reads."""
    made = network.makers()
    order: dict[Step, None] = {}
    stack = [(step, False) for step in reversed(network.steps)]
    while stack:
        step, ready = stack.pop()
        if ready:
            order[step] = None
        elif step not in order:
            stack.append((step, True))
            needed = (made[v] for v in (*step.inputs, *step.beside) if v in made)
            stack.extend((one, False) for one in needed if one not in order)
    return replace(network, steps=tuple(order))


def channel_axis(step: Step) -> int:
    """The axis of the channels that ``step`` makes."""
    window = getattr(step, "window", None)
    return -1 if window is None else -1 - len(window.kernel)


def _nodes(*steps: Step) -> tuple[int, ...]:
    return tuple(dict.fromkeys(node for step in steps for node in step.nodes))


def _clamps(step: Clamped) -> bool:
    return step.low > -math.inf or step.high < math.inf


def _maps(step: Affine) -> bool:
    return bool((step.scale != 1).any() or (step.shift != 0).any())


def _mapped(step: Linear | Transposed, affine: Affine) -> Linear | Transposed:
    """``step`` with ``affine`` in its weight and bias."""
    rows = len(step.weight)
    scale, shift = (np.broadcast_to(one, (rows,)) for one in (affine.scale, affine.shift))
    weight = step.weight * scale.reshape(-1, *[1] * (step.weight.ndim - 1))
    return replace(step, weight=weight, bias=step.bias * scale + shift, nodes=_nodes(step, affine))


def _fits(step: Step, affine: Affine) -> bool:
    return affine.axis is None or affine.axis == channel_axis(step)


def _into_producer(site: _Site, step: Step) -> Edit | None:
    """A map without a clamp before it goes into the weights that make its input, its own clamp with it."""
    maker = site.sole_maker(step) if isinstance(step, Affine) else None
    if not isinstance(step, Affine) or not isinstance(maker, Linear | Transposed) or not _fits(maker, step):
        return None
    if _clamps(maker):
        return None
    return {maker: (), step: (replace(_mapped(maker, step), output=step.output, low=step.low, high=step.high),)}


def _clamp_into_producer(site: _Site, step: Step) -> Edit | None:
    """A clamp alone joins that of the step before it."""
    maker = site.sole_maker(step) if isinstance(step, Affine) and not _maps(step) else None
    if not isinstance(step, Affine) or not isinstance(maker, Clamped):
        return None
    low, high = (min(max(bound, step.low), step.high) for bound in (maker.low, maker.high))
    return {maker: (), step: (replace(maker, output=step.output, low=low, high=high, nodes=_nodes(maker, step)),)}


def _compose(site: _Site, step: Step) -> Edit | None:
    """Two maps become one."""
    maker = site.sole_maker(step) if isinstance(step, Affine) else None
    if not isinstance(step, Affine) or not isinstance(maker, Affine) or _clamps(maker):
        return None
    axes = {one.axis for one in (maker, step)} - {None}
    if len(axes) > 1:
        return None
    scale, shift = step.scale * maker.scale, step.scale * maker.shift + step.shift
    axis = next(iter(axes), None)
    joined = replace(step, inputs=maker.inputs, nodes=_nodes(maker, step), scale=scale, shift=shift, axis=axis)
    return {maker: (), step: (joined,)}


def _past_clamp(site: _Site, step: Step) -> Edit | None:
    """A map behind a clamped linear step: the map goes into the weights, the clamp becomes bounds by channel."""
    maker = site.sole_maker(step) if isinstance(step, Affine) else None
    if not isinstance(step, Affine) or not isinstance(maker, Linear | Transposed) or not _fits(maker, step):
        return None
    if not _clamps(maker):
        return None
    rows = len(maker.weight)
    scale, shift = (np.broadcast_to(one, (rows,)) for one in (step.scale, step.shift))
    low, high = _bounds(scale, shift, maker.low, maker.high)
    low, high = (np.clip(bound, step.low, step.high) for bound in (low, high))
    # What the step made has a name, and statistics under it; what it makes now is another value.
    between = site.new(f"{step.output}/mapped", step.output)
    inner = replace(_mapped(maker, step), low=-math.inf, high=math.inf, output=between)
    return {maker: (inner,), step: (_channel_clamp(step, between, low, high, channel_axis(maker)),)}


def _channel_clamp(step: Step, source: str, low: Array, high: Array, axis: int) -> ChannelClamp:
    return ChannelClamp(
        name=step.name,
        operator=step.operator,
        inputs=(source,),
        output=step.output,
        nodes=step.nodes,
        low=low,
        high=high,
        axis=axis,
    )


def _bounds(scale: Array, shift: Array, low: float, high: float) -> tuple[Array, Array]:
    """What ``scale * x + shift`` lies between for ``x`` between ``low`` and ``high``."""
    with np.errstate(invalid="ignore"):
        ends = np.stack([np.where(scale == 0, shift, scale * bound + shift) for bound in (low, high)])
    return ends.min(axis=0), ends.max(axis=0)


def _before_pool(site: _Site, step: Step) -> Edit | None:
    """A map with positive scales moves before the maximum that it follows, towards weights that take it."""
    maker = site.sole_maker(step) if isinstance(step, Affine) else None
    if not isinstance(step, Affine) or not isinstance(maker, MaxPool) or not bool((step.scale > 0).all()):
        return None
    before = site.sole_maker(maker)
    if not isinstance(before, Linear | Transposed) or not _fits(before, step):
        return None
    between = site.new(f"{step.output}/mapped", maker.inputs[0])
    mapped = replace(step, inputs=maker.inputs, output=between)
    return {maker: (mapped, replace(maker, inputs=(between,), output=step.output)), step: ()}


def _behind_pool(site: _Site, step: Step) -> Edit | None:
    """Bounds move behind the maximum that follows: fewer elements."""
    pool = site.only_reader(step.output) if isinstance(step, ChannelClamp) else None
    if not isinstance(step, ChannelClamp) or not isinstance(pool, MaxPool):
        return None
    if step.low.size > 1 and not site.is_by_channel(step.output, step.axis):
        return None
    between = site.new(f"{pool.output}/unbounded", pool.output)
    first = replace(pool, inputs=step.inputs, output=between)
    return {step: (), pool: (first, replace(step, inputs=(between,), output=pool.output))}


def _into_consumers(site: _Site, step: Step) -> Edit | None:
    """A map without a clamp goes into all weights that read it."""
    if not isinstance(step, Affine) or _clamps(step) or not _maps(step) or step.output in site.network.outputs:
        return None
    readers = site.readers.get(step.output, ())
    edits = {reader: _absorbing(reader, step) for reader in readers}
    if not edits or any(edit is None for edit in edits.values()):
        return None
    return {step: (), **{reader: (edit,) for reader, edit in edits.items() if edit is not None}}


def _absorbing(reader: Step, affine: Affine) -> Linear | None:
    """``reader`` with ``affine`` taken from its input."""
    if not isinstance(reader, Linear) or not _fits(reader, affine):
        return None
    if bool(affine.shift.any()) and reader.window is not None and any((*reader.window.begins, *reader.window.ends)):
        return None
    inputs = reader.weight.shape[1] * reader.groups
    spread = [np.broadcast_to(one, (inputs,)).reshape(reader.groups, -1) for one in (affine.scale, affine.shift)]
    per_row = [np.repeat(one, len(reader.weight) // reader.groups, axis=0) for one in spread]
    tail = [1] * (reader.weight.ndim - 2)
    weight = reader.weight * per_row[0].reshape(*per_row[0].shape, *tail)
    shift = (reader.weight * per_row[1].reshape(*per_row[1].shape, *tail)).reshape(len(weight), -1).sum(axis=1)
    return replace(reader, weight=weight, bias=reader.bias + shift, inputs=affine.inputs, nodes=_nodes(affine, reader))


def _unclamp(site: _Site, step: Step) -> Edit | None:
    """A map and a clamp become bounds of the map's input and the map, where that goes into the consumers."""
    if not isinstance(step, Affine) or not _clamps(step) or step.axis is None or step.output in site.network.outputs:
        return None
    readers = site.readers.get(step.output, ())
    free = replace(step, low=-math.inf, high=math.inf)
    if not readers or not all(isinstance(one, GlobalMean) or _absorbing(one, free) for one in readers):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(bound - step.shift) / step.scale for bound in (step.low, step.high)])
    dead = step.scale == 0
    low, high = (np.where(dead, 0.0, bound) for bound in (ends.min(axis=0), ends.max(axis=0)))
    shift = np.where(dead, np.clip(step.shift, step.low, step.high), step.shift)
    between = site.new(f"{step.output}/bounded", step.output)
    clamp = replace(_channel_clamp(step, step.inputs[0], low, high, step.axis), output=between)
    return {step: (clamp, replace(free, inputs=(between,), shift=shift))}


def _behind_mean(site: _Site, step: Step) -> Edit | None:
    """A map without a clamp moves behind the mean over positions that is all that reads it."""
    mean = site.only_reader(step.output) if isinstance(step, Affine) and not _clamps(step) else None
    if not isinstance(step, Affine) or not isinstance(mean, GlobalMean) or not _maps(step):
        return None
    if step.axis is not None and not site.is_by_channel(step.output, step.axis):
        return None
    between = site.new(f"{mean.output}/unmapped", mean.output)
    axis = step.axis if mean.keeps or step.axis is None else -1
    first = replace(mean, inputs=step.inputs, output=between)
    return {step: (), mean: (first, replace(step, inputs=(between,), output=mean.output, axis=axis))}


def _drop_identity(site: _Site, step: Step) -> Edit | None:
    """A map that does nothing goes."""
    if not isinstance(step, Affine) or _maps(step) or _clamps(step) or step.output in site.network.outputs:
        return None
    source = step.inputs[0]
    readers = site.readers.get(step.output, ())
    renamed = {
        reader: (replace(reader, inputs=tuple(source if value == step.output else value for value in reader.inputs)),)
        for reader in readers
        if not isinstance(reader, Floating)
    }
    return {step: (), **renamed} if len(renamed) == len(readers) else None


def _gelu(site: _Site, step: Step) -> Edit | None:
    """``x * (1 + erf(x / sqrt 2))`` is twice GELU, which ``x * sigmoid(1.702 x)`` stands for."""
    if not isinstance(step, Product) or len(step.inputs) != 2:
        return None
    for x, gate in (step.inputs, step.inputs[::-1]):
        plus = site.makers.get(gate)
        erf = site.makers.get(plus.inputs[0]) if isinstance(plus, Affine) and not _clamps(plus) else None
        root = site.makers.get(erf.inputs[0]) if isinstance(erf, Floating) and erf.operator == "Erf" else None
        if not isinstance(plus, Affine) or not isinstance(root, Affine) or _clamps(root) or erf is None:
            continue
        fits = np.allclose(plus.scale, plus.shift) and np.allclose(root.scale, math.sqrt(0.5)) and not root.shift.any()
        if plus.axis is not None or root.axis is not None or not fits or site.only_reader(gate) is not step:
            continue
        source, half = _source_of(site, x, root.inputs[0])
        if source is None:
            continue
        sigmoid = Sigmoid(
            name=step.name,
            operator="Gelu",
            inputs=(source,),
            output=site.new(f"{step.output}/gate", step.output),
            nodes=_nodes(plus, erf, root),
            factor=GELU,
        )
        scale = np.asarray(2.0 * float(plus.scale) * half)
        scaled = Affine(
            name=step.name,
            operator="Gelu",
            inputs=(f"{step.output}/half",),
            output=step.output,
            nodes=step.nodes,
            scale=scale,
            shift=np.zeros(()),
            axis=None,
        )
        half_of = site.new(f"{step.output}/half", step.output)
        product = replace(step, inputs=(source, sigmoid.output), output=half_of, operator="Gelu")
        site.derived[product.output] = (step.output, 1.0 / float(scale))
        return {step: (sigmoid, product, scaled)}
    return None


def _source_of(site: _Site, x: str, wanted: str) -> tuple[str | None, float]:
    """``wanted``, and the factor by which ``x`` is larger; None where ``x`` is no multiple of it."""
    if x == wanted:
        return wanted, 1.0
    maker = site.makers.get(x)
    plain = isinstance(maker, Affine) and not _clamps(maker) and maker.axis is None and not maker.shift.any()
    if isinstance(maker, Affine) and plain and maker.inputs[0] == wanted:
        return wanted, float(maker.scale)
    return None, 1.0


def _shuffle(site: _Site, step: Step) -> Edit | None:
    """A Reshape, a Transpose and a Reshape back that put channels in another order pick channels."""
    if not isinstance(step, Moving) or step.beside:
        return None
    turn = site.sole_maker(step)
    split = site.sole_maker(turn) if isinstance(turn, Moving) else None
    if not isinstance(turn, Moving) or not isinstance(split, Moving) or split.permutation or step.permutation:
        return None
    before, parts, after = (site.shapes.get(value) for value in (split.inputs[0], split.output, step.output))
    if before is None or parts is None or before != after or len(parts) != len(before) + 1:
        return None
    if turn.permutation != (0, 2, 1, *range(3, len(parts))) or parts[3:] != before[2:] or parts[:1] != before[:1]:
        return None
    channels, *sizes = (int(size) if isinstance(size, int) else 0 for size in (before[1], *parts[1:3]))
    if not channels or channels != math.prod(sizes):
        return None
    index = np.arange(channels).reshape(sizes).T.reshape(-1)
    picked = Select(
        name=step.name,
        operator=step.operator,
        inputs=split.inputs,
        output=step.output,
        nodes=_nodes(split, turn, step),
        axis=1 - len(before),
        index=tuple(int(channel) for channel in index),
    )
    return {split: (), turn: (), step: (picked,)}


RULES: Final[Sequence[RewriteRule]] = (
    _shuffle,
    _gelu,
    _drop_identity,
    _into_producer,
    _clamp_into_producer,
    _compose,
    _past_clamp,
    _before_pool,
    _behind_pool,
    _into_consumers,
    _unclamp,
    _behind_mean,
)
"""In the order in which they are tried at a step."""
