"""Linear operations of any kind, evaluated term by term in float64 from their canonical weight, and strategies.

Numbers are small integers and scales are powers of two, so that every sum and product is exact and results can be
compared with ``array_equal``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from hypothesis import strategies as st

from normfold.core.algebra import Affine, Weight

SCALES = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0, 8.0)


@dataclass(frozen=True)
class Stored:
    """A tensor as a backend would store it."""

    values: np.ndarray

    def numpy(self) -> np.ndarray:
        return self.values


@dataclass(frozen=True)
class Convolution:
    """A Conv (order "goi") or ConvTranspose ("gio") in any number of dimensions."""

    weight: Weight
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    def __call__(self, x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        """``x`` is [N, C, *spatial], the bias [out]."""
        w = self.weight.canonical()
        out = self._transposed(x, w) if self.weight.order == "gio" else self._plain(x, w)
        return out if bias is None else out + bias.reshape(-1, *[1] * len(self.strides))

    def _plain(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        padded = np.pad(x, [(0, 0), (0, 0), *zip(self.begins, self.ends, strict=True)])
        groups, outs, ins, *taps = w.shape
        sizes = [
            (size - dilation * (tap - 1) - 1) // stride + 1
            for size, dilation, tap, stride in zip(padded.shape[2:], self.dilations, taps, self.strides, strict=True)
        ]
        y = np.zeros((x.shape[0], groups * outs, *sizes))
        for g, o, i in product(range(groups), range(outs), range(ins)):
            for tap in np.ndindex(*taps):
                window = tuple(
                    slice(t * d, t * d + s * (n - 1) + 1, s)
                    for t, d, s, n in zip(tap, self.dilations, self.strides, sizes, strict=True)
                )
                y[:, g * outs + o] += w[(g, o, i, *tap)] * padded[(slice(None), g * ins + i, *window)]
        return y

    def _transposed(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        groups, outs, ins, *taps = w.shape
        full = [
            stride * (size - 1) + dilation * (tap - 1) + 1
            for size, dilation, tap, stride in zip(x.shape[2:], self.dilations, taps, self.strides, strict=True)
        ]
        y = np.zeros((x.shape[0], groups * outs, *full))
        for g, o, i in product(range(groups), range(outs), range(ins)):
            for tap in np.ndindex(*taps):
                window = tuple(
                    slice(t * d, t * d + s * (n - 1) + 1, s)
                    for t, d, s, n in zip(tap, self.dilations, self.strides, x.shape[2:], strict=True)
                )
                y[(slice(None), g * outs + o, *window)] += w[(g, o, i, *tap)] * x[:, g * ins + i]
        crop = tuple(slice(b, n - e) for b, e, n in zip(self.begins, self.ends, full, strict=True))
        return y[(slice(None), slice(None), *crop)]


def integers(draw: st.DrawFn, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(-4, 5, shape).astype(np.float64)


def powers(draw: st.DrawFn, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.choice(SCALES, shape)


@st.composite
def weights(draw: st.DrawFn, order: Literal["goi", "gio"] | None = None, taps: tuple[int, ...] | None = None) -> Weight:
    """Integer weights with groups > 1 and channels per group > 1 among them, scales pending or not."""
    order = order or draw(st.sampled_from(["goi", "gio"]))
    groups, outs, ins = (draw(st.integers(1, 3)) for _ in range(3))
    if taps is None:
        taps = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    split = (groups, outs, ins, *taps) if order == "goi" else (groups, ins, outs, *taps)
    weight = Weight(Stored(integers(draw, *split)), split, order)
    if draw(st.booleans()):
        weight = weight.scale_rows(powers(draw, weight.out_channels))
    if draw(st.booleans()):
        weight = weight.scale_columns(powers(draw, weight.in_channels))
    return weight


@st.composite
def convolutions(draw: st.DrawFn, *, whole_taps: bool = False) -> tuple[Convolution, np.ndarray, np.ndarray]:
    """A convolution in 1, 2 or 3 dimensions, an input and a bias for it."""
    order = draw(st.sampled_from(["goi", "gio"]))
    rank = draw(st.integers(1, 3))
    taps = tuple(draw(st.integers(1, 3 if rank < 3 else 2)) for _ in range(rank))
    weight = draw(weights(order=order, taps=taps))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    strides = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    reach = [d * (t - 1) for d, t in zip(dilations, taps, strict=True)]
    if whole_taps:
        begins = ends = tuple(reach) if order == "gio" else (0,) * rank
        strides = (1,) * rank if order == "gio" else strides
        spatial = [r * (2 if order == "gio" else 1) + draw(st.integers(1, 3)) for r in reach]
    else:
        begins = tuple(draw(st.integers(0, 2)) for _ in range(rank)) if order == "goi" else (0,) * rank
        ends = tuple(draw(st.integers(0, 2)) for _ in range(rank)) if order == "goi" else (0,) * rank
        spatial = [r + draw(st.integers(1, 3)) for r in reach]
    x = integers(draw, draw(st.integers(1, 2)), weight.in_channels, *spatial)
    return Convolution(weight, strides, dilations, begins, ends), x, integers(draw, weight.out_channels)


def apply(affine: Affine, x: np.ndarray) -> np.ndarray:
    return affine.scale * x + affine.shift
