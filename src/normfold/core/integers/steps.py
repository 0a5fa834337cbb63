"""The steps of a network that may run on integer codes. Values are named; arrays are float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from normfold.core.algebra import Window
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim

GELU: Final = 1.702
"""``x * sigmoid(1.702 x)`` stands for GELU on codes; it is off by 0.02 at most, less than half a step in use."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """What one operation, or several that have become one, computes."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    output: str
    nodes: tuple[int, ...] = ()
    """The places of the native operations that it stands for, in the order of the graph."""
    beside: tuple[str, ...] = ()
    """Values that it reads and that are no numbers: sizes and positions computed at run time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Clamped(Step):
    """A step whose result is cut off below ``low`` and above ``high``."""

    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Clamped):
    """``W x + b`` over channels, ``weight`` is ``[out, in/groups, *taps]``, ``bias`` is ``[out]``.

    With a ``window`` it is a convolution over ``[N, C, ...]``, else a product over the last axis.
    """

    weight: Array
    bias: Array
    groups: int = 1
    window: Window | None = None

    @property
    def depthwise(self) -> bool:
        """Whether each channel sees itself alone."""
        return bool(self.groups == len(self.weight) and self.weight.shape[1] == 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Transposed(Clamped):
    """A transposed convolution; ``weight`` is ``[out, in/groups, *taps]``, ``window`` that of the stored operation."""

    weight: Array
    bias: Array
    groups: int
    window: Window
    surplus: tuple[int, ...]
    """Elements that the output has more at the end of each axis (output_padding)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Clamped):
    """``scale * x + shift``, both ``[]`` or by channel ``[C]`` along ``axis`` (negative)."""

    scale: Array
    shift: Array
    axis: int | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Clamped):
    """``x0 + x1``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Clamped):
    """``x0 * x1``, of which one may broadcast."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sigmoid(Step):
    """``sigmoid(factor * x)``."""

    factor: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Leaky(Step):
    """``x`` for positive x, ``slope * x`` for negative."""

    slope: float


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Step):
    """The maximum over windows, without indices."""

    window: Window
    ceil: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Step):
    """The mean over windows without padding."""

    window: Window


@dataclass(frozen=True, eq=False, kw_only=True)
class GlobalMean(Step):
    """The mean over all positions of ``[N, C, ...]``; ``keeps`` says whether their axes stay."""

    keeps: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Step):
    """Values side by side along ``axis`` (negative)."""

    axis: int


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelClamp(Step):
    """``min(max(x, low), high)``, bounds by channel ``[C]`` along ``axis`` (negative), infinite where there is none."""

    low: Array
    high: Array
    axis: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Moving(Step):
    """Elements that only move; ``permutation`` is set where that is all that happens to the axes."""

    permutation: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice(Step):
    """Elements ``start`` to ``stop`` along ``axis`` (negative)."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Select(Step):
    """Elements by ``index`` along ``axis`` (negative)."""

    axis: int
    index: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Widen(Step):
    """As many channels of zeros more behind those of ``[N, C, ...]``."""

    missing: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Enlarge(Step):
    """Each element ``factors`` times along the axes behind the channels: nearest-neighbour resizing."""

    factors: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Interleave(Step):
    """Values of ``channels`` and ``sizes`` put between one another, one for each phase of ``strides``."""

    strides: tuple[int, ...]
    sizes: tuple[int, ...]
    channels: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Floating(Step):
    """Whatever else: computed in floating point, by ``nodes``. ``more`` are outputs beside the first."""

    more: tuple[str, ...] = ()
    because: str = ""
    moments: tuple[Array, Array] | None = None
    """Mean and deviation by channel ``[C]``, or of all ``[1]``, that a norm gives what it makes."""


SHARING: Final = (MaxPool, Concat, ChannelClamp, Moving, Slice, Select, Widen, Enlarge, Interleave)
"""Steps whose output has the codes of their inputs."""


@dataclass(frozen=True, slots=True)
class Network:
    """Steps in topological order."""

    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Mapping[str, tuple[Dim, ...] | None]
    floats: frozenset[str] = field(default_factory=frozenset)
    """Names of values that are float32: others have no codes."""
    added: frozenset[str] = field(default_factory=frozenset)
    """Values that the model does not have; all are floating point."""
    padded: Mapping[str, int] = field(default_factory=dict)
    """Values that have more channels than those of the model, of zeros, and how many those have."""
    derived: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """Those of ``added`` that are a multiple of a value of the model."""

    def readers(self) -> dict[str, list[Step]]:
        """The steps that read each value."""
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            for value in dict.fromkeys(step.inputs):
                found.setdefault(value, []).append(step)
        return found

    def makers(self) -> dict[str, Step]:
        """The step that makes each value."""
        made = {step.output: step for step in self.steps}
        more = {value: step for step in self.steps if isinstance(step, Floating) for value in step.more}
        return made | more

    def rank(self, value: str) -> int | None:
        """Number of axes."""
        shape = self.shapes.get(value)
        return None if shape is None else len(shape)

    def channels(self, value: str, axis: int) -> int | None:
        """Size along ``axis``, where it is known."""
        shape = self.shapes.get(value)
        size = shape[axis] if shape is not None and len(shape) >= -axis else None
        return size if isinstance(size, int) else None
