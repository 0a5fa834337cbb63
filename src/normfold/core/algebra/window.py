"""Where a convolution looks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Where a convolution looks: kernel size, stride, dilation and padding at the begin and end of each axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    def offsets(self, axis: int) -> list[int]:
        """Input positions that each tap sees, relative to ``stride * output position``."""
        return [tap * self.dilations[axis] - self.begins[axis] for tap in range(self.kernel[axis])]

    def surplus(self, axis: int) -> int:
        """Padding minus reach: with the input's size and the stride, this makes the output's size."""
        return self.begins[axis] + self.ends[axis] - self.dilations[axis] * (self.kernel[axis] - 1)

    def placement(self, small: Window) -> list[list[int]] | None:
        """For each axis the tap of this window that each tap of ``small`` falls on; ``None`` where it does not fit."""
        axes = range(len(self.kernel))
        if len(small.kernel) != len(self.kernel) or small.strides != self.strides:
            return None
        if any(self.surplus(axis) != small.surplus(axis) for axis in axes):
            return None
        placed = []
        for axis in axes:
            mine = self.offsets(axis)
            if not set(small.offsets(axis)) <= set(mine):
                return None
            placed.append([mine.index(offset) for offset in small.offsets(axis)])
        return placed
