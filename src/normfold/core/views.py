"""The views of operations that rules see: frozen, native to no framework.

A backend lifts each of its nodes to one of these; a rule answers with a changed copy; the backend
writes the difference back. What no view describes is `Opaque`: a barrier, never an error.

Arrays in views are float64 and right-aligned with the value they apply to. Axes are negative, so that
they hold whatever the rank of the batch.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from normfold.core.algebra import Affine, Codes, Moments, Move, Permute, Table, Weight, Window
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moments import deviation
from normfold.core.algebra.moves import Dim
from normfold.records import Premise, Refusal

Node = Hashable
"""A backend's operation; opaque here."""
Value = Hashable
"""A backend's tensor; opaque here."""


class NotLifted(Exception):  # noqa: N818 - control flow between lift functions, not an error
    """The native operation is not what the view of its kind describes."""

    def __init__(self, premise: Premise, because: str) -> None:
        super().__init__(because)
        self.refusal = Refusal(premise, because)


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """What every view says: the node, its native operation's name, what goes in and what comes out.

    ``refusals`` are the native premises that fail (a weight that is not constant, a norm in training
    mode); a view with refusals can be looked at but takes part in no fold.
    """

    node: Node
    op: str
    inputs: tuple[Value, ...]
    """The data inputs: those that are not constants of the operation."""
    outputs: tuple[Value, ...]
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Opaque(View):
    """An operation through which nothing is carried."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(View):
    """``y = W x + b``: Conv, ConvTranspose, Gemm, MatMul.

    ``out_axes`` of the output, of ``out_sizes``, flattened in that order, count the weight's output channels;
    ``in_axes`` of the input, of ``in_sizes``, likewise its input channels. ``bias`` is right-aligned with the
    output. ``whole_taps`` says whether every output position sums every tap (no padding), the premise for
    taking a shift from the input. ``bias_slot`` is false for MatMul, which has no place for a bias.
    ``largest`` is the largest magnitude that the weight's type can hold, ``step`` the least above zero. ``window`` says
    where a Conv looks; other operations have none.
    """

    weight: Weight
    bias: Array | None
    out_axes: tuple[int, ...]
    out_sizes: tuple[int, ...]
    in_axes: tuple[int, ...]
    in_sizes: tuple[int, ...]
    whole_taps: bool
    bias_slot: bool
    largest: float
    step: float = 0.0
    window: Window | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedLinear(View):
    """A linear operation whose weight is stored as integers.

    ``linear`` is the same operation with the values that ``codes`` stand for; the scales pending in its weight are
    those that the codes have not taken yet. ``unit`` is set where the bias is quantised: its step over
    the weight's scale, which is the scale of the operation's input; ``[]`` or ``[out]``.
    """

    linear: Linear
    codes: Codes
    unit: Array | None


@dataclass(frozen=True, eq=False, kw_only=True)
class BlockLinear(View):
    """A matrix product whose weight is stored as integers, in blocks of ``size`` inputs of one output.

    ``linear`` is the same operation with the values that they stand for; the scales pending in its weight are those
    that ``scales``, ``[out, blocks]``, have not taken yet. They may be negative. ``normal`` are the least and the
    greatest normal number of their type. ``rounds_input`` says whether the input is rounded to integers as well.
    """

    linear: Linear
    size: int
    scales: Array
    normal: tuple[float, float]
    rounds_input: bool


def unquantized(view: View) -> View:
    """``view`` as the operation with the weight that its codes stand for; others as they are."""
    return view.linear if isinstance(view, QuantizedLinear | BlockLinear) else view


@dataclass(frozen=True, eq=False, slots=True)
class RunningStatistics:
    """Mean and variance of a value by channel, right-aligned with it, and the epsilon of the norm that reads it."""

    mean: Array
    variance: Array
    epsilon: float

    @property
    def deviation(self) -> Array:
        """What the norm divides by."""
        return deviation(self.variance, self.epsilon)

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation of the value."""
        return Moments.of(self.mean, np.sqrt(np.maximum(self.variance, 0.0)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Embedding(View):
    """``y = table[x]``: rows of a constant table, which is linear in them.

    The last axes of the output are those of a row. ``largest`` is the largest magnitude that the table's type can
    hold.
    """

    table: Table
    largest: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Recurrent(View):
    """LSTM, GRU, RNN, of which only what reads the input is described: it is linear in it, in every gate.

    The sequence is the first of ``inputs``, its features on the last axis. Each of ``weights`` is
    ``[directions, gates * hidden, features]``, where all directions (the groups of the weight) read the same features;
    each of ``biases`` is the input half of a bias, ``[directions * gates * hidden]``, or ``None`` where there is none.
    ``bias_slot`` says whether there may be one. ``largest`` is the largest magnitude that the weights' type can hold.
    """

    weights: tuple[Weight, ...]
    biases: tuple[Array | None, ...]
    bias_slot: bool
    largest: float


@dataclass(frozen=True, eq=False, kw_only=True)
class AffineOp(View):
    """An affine map by constants: BatchNormalization at inference, Mul, Add, Sub, Div, Neg by constants.

    ``holds_scale`` and ``holds_shift`` say what constants the operation has room for; ``axis`` is the one
    negative axis they may vary along, or ``None`` where any broadcast shape will do. ``statistics`` are those of the
    input that a norm has stored. ``largest`` and ``step`` are the largest magnitude that their type can hold and the
    least above zero.
    """

    affine: Affine
    holds_scale: bool
    holds_shift: bool
    axis: int | None = None
    statistics: RunningStatistics | None = None
    largest: float
    step: float = 0.0


@dataclass(frozen=True, slots=True)
class Groups:
    """Channels along ``axis`` (negative), in ``count`` groups, each of which is normalised with all its positions."""

    axis: int
    count: int


NormKind = Literal["layer", "rms", "group", "instance", "batch", "mean-variance", "lp", "local-response"]
"""What a norm with live statistics divides by: of which elements, with their mean taken away or not."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Norm(View):
    """A normalisation by live statistics, ``tail`` o core: LayerNorm, RMSNorm, GroupNorm, InstanceNorm.

    Statistics are taken over ``axes`` (negative; ``None`` where they are not known), of ``groups`` of channels one by
    one where it is set; ``epsilon`` is added to the variance or mean square, and ``None`` where it is that of the type.
    ``core`` says why the norm as a whole stays. ``tail`` is ``None`` where its scale and bias are not read;
    ``holds_shift`` says whether it has a bias at all. ``parts`` are the operations that write the norm out, without the
    last, ``node``; ``unemitted`` says why those cannot become one operation, where they cannot: with ``parts``, its
    scale and shift are then those that are applied on the way, which can only go.
    """

    kind: NormKind
    axes: tuple[int, ...] | None
    epsilon: float | None
    core: Refusal
    tail: Affine | None
    holds_shift: bool
    largest: float
    groups: Groups | None = None
    parts: tuple[Node, ...] = ()
    unemitted: Refusal | None = None


Spelling = Literal["batch", "frozen", "static", "layer", "group", "instance", "tanh", "weight"]
"""Norms, and what comes of them, whose operation can compute what that of another one does."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DynamicTanh(View):
    """``tail(tanh(alpha * x))``: a DyT. ``core`` says why it stays."""

    alpha: float
    tail: Affine
    core: Refusal


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchLayer(View):
    """Batch Layer Normalization: a norm over channels and one over the batch, added up, and ``tail`` behind them.

    ``batch`` and ``features`` are the stored statistics of the two parts, right-aligned with the input, or None where
    they are those of the input; the share of the features is one over ``batch_size``. ``axis`` is that of the
    channels; ``core`` says why it stays.
    """

    batch: RunningStatistics | None
    features: RunningStatistics | None
    batch_size: float
    epsilon: float
    axis: int
    tail: Affine
    core: Refusal


@dataclass(frozen=True, eq=False, kw_only=True)
class Moving(View):
    """An operation that only moves elements: Transpose, Reshape, Flatten, Squeeze, Slice, Split, Identity.

    ``moves`` has one entry for each output.
    """

    moves: tuple[Move, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class PositiveHomogeneous(View):
    """``y = x`` for positive x, ``slope * x`` for negative: Relu, LeakyRelu, PRelu.

    Positively homogeneous: ``f(a x) = a f(x)`` for every ``a >= 0``, whatever the slope.
    """


@dataclass(frozen=True, eq=False, kw_only=True)
class Clip(View):
    """``y = min(max(x, low), high)``: Clip, and Max or Min by constants. Infinite where there is no bound.

    ``uniform`` says that the operation holds one pair of bounds, the same for all channels; else they are right-aligned
    with the value. ``holds_low`` and ``holds_high`` say which of the two it has room for.
    """

    low: Array
    high: Array
    uniform: bool = True
    holds_low: bool = True
    holds_high: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class Blend(View):
    """Every element is made of those along ``axes`` (negative, of the input): what `Pool` and `Resample` share.

    ``move`` is what happens to constants that do not vary along the axes.
    """

    axes: tuple[int, ...]
    move: Move = field(default_factory=Permute)

    @property
    def averages(self) -> bool:
        """Whether each output is a sum of elements with fixed weights: no maximum."""
        return True


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Blend):
    """An average or a maximum over ``axes``: pooling, mean and maximum over axes.

    ``maximum`` commutes with non-negative scales only. ``keeps_shift`` is false where zeros of a padding take part in
    an average. ``window`` says where an average looks whose taps weigh the same everywhere; others have none.
    """

    maximum: bool
    keeps_shift: bool
    window: Window | None = None

    @property
    def averages(self) -> bool:
        """Whether it is an average."""
        return not self.maximum


@dataclass(frozen=True, eq=False, kw_only=True)
class Resample(Blend):
    """Another number of elements along ``axes``, each interpolated with weights that add up to one: Resize."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pad(View):
    """Elements put around a value along ``axes`` (negative): ``value`` where it is set, else copies."""

    axes: tuple[int, ...]
    value: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(View):
    """Values side by side along ``axis`` (negative), ``sizes`` of each."""

    axis: int
    sizes: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(View):
    """``y = signs[0] * x0 + signs[1] * x1 + ...`` with broadcasting: Add, Sub, Sum of values that are not constant.

    ``shapes`` are the dimensions of each term as far as they are known.
    """

    signs: tuple[int, ...]
    shapes: tuple[tuple[Dim, ...] | None, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(View):
    """``y = x0 * x1`` of two values that are not constant, of which one may broadcast: a gate; of one, ``y = c * x0``.

    ``steady`` are those of the two, by position, that are the same whatever the data, though computed at each run: the
    cosines of a rotary embedding.
    """

    shapes: tuple[tuple[Dim, ...] | None, ...]
    steady: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class MatrixProduct(View):
    """``y = x0 @ x1``, a matrix product over the last two axes of two values that are not constant: linear in each.

    ``shapes`` are the dimensions of each factor, of which there are two or more, as far as they are known.
    """

    shapes: tuple[tuple[Dim, ...], tuple[Dim, ...]]
