"""Matrices as codes of four bits in blocks along their rows, each with a scale and a zero point of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from normfold.core.algebra.affine import Array

CODES: Final = 16
MIDDLE: Final = 8
"""The code that fills a block up."""
SHRINKS: Final = np.linspace(0.7, 1.0, 13)
"""Parts of a block's range that are tried: cutting off one large weight leaves finer steps for all others."""
LEAST: Final = 1e-12


@dataclass(frozen=True, eq=False)
class BlockCodes:
    """``matrix[o, i] = scales[o, b] * (codes[o, b, i % size] - zeros[o, b])`` with ``b = i // size``."""

    codes: NDArray[np.uint8]
    """``[outputs, blocks, size]``."""
    scales: NDArray[np.float32]
    """``[outputs, blocks]``."""
    zeros: NDArray[np.uint8]
    """``[outputs, blocks]``."""

    def packed(self) -> NDArray[np.uint8]:
        """Two codes in a byte, the first in the low half."""
        return np.ascontiguousarray(self.codes[..., 0::2] | (self.codes[..., 1::2] << 4))

    def packed_zeros(self) -> NDArray[np.uint8]:
        """The zero points in the same way, those of each output in whole bytes."""
        odd = self.zeros.shape[1] % 2
        even = np.pad(self.zeros, ((0, 0), (0, odd)), constant_values=MIDDLE)
        return np.ascontiguousarray(even[:, 0::2] | (even[:, 1::2] << 4)).reshape(-1)

    def matrix(self, inputs: int) -> Array:
        """``[outputs, inputs]`` in float64."""
        steps = self.codes.astype(np.float64) - self.zeros[..., None]
        return (steps * self.scales[..., None].astype(np.float64)).reshape(len(self.codes), -1)[:, :inputs]


def coded(matrix: Array, size: int, importance: Array | None = None) -> BlockCodes:
    """Codes for ``matrix`` ``[outputs, inputs]`` in blocks of ``size``, an even number.

    Of each block the part of its range is taken that has the least error, squared and weighted with ``importance`` by
    input.
    """
    outputs, inputs = matrix.shape
    blocks = -(-inputs // size)
    spare = blocks * size - inputs
    values = np.pad(matrix, ((0, 0), (0, spare))).reshape(outputs, blocks, size)
    weights = np.ones(inputs) if importance is None else importance + LEAST
    weight = np.pad(weights, (0, spare)).reshape(1, blocks, size)
    low, high = np.minimum(values.min(axis=-1), 0.0), np.maximum(values.max(axis=-1), 0.0)
    best: tuple[Array, Array, Array] | None = None
    least = np.full((outputs, blocks), np.inf)
    for part in SHRINKS:
        scale = np.maximum((high - low) * part / (CODES - 1), LEAST).astype(np.float32).astype(np.float64)
        zero = np.clip(np.rint(-low * part / scale), 0, CODES - 1)
        codes = np.clip(np.rint(values / scale[..., None]) + zero[..., None], 0, CODES - 1)
        error = (np.square((codes - zero[..., None]) * scale[..., None] - values) * weight).sum(axis=-1)
        better = error < least
        least = np.where(better, error, least)
        found = (codes, scale, zero)
        if best is None:
            best = found
        else:
            best = (
                np.where(better[..., None], codes, best[0]),
                np.where(better, scale, best[1]),
                np.where(better, zero, best[2]),
            )
    if best is None:
        raise ValueError("no part of the range was tried")
    return BlockCodes(best[0].astype(np.uint8), best[1].astype(np.float32), best[2].astype(np.uint8))
