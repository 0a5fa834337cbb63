"""What execution providers ask of a model on codes: which codes, and whether it is brought into the CPU's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from normfold.core.integers.ranges import BYTES, SIGNED, WORDS, Grid
from normfold.errors import UsageError
from normfold.passes.quantize.figures import Width


@dataclass(frozen=True, slots=True)
class Dialect:
    """The QDQ models that a provider runs on integers."""

    grid: Grid = BYTES
    """Of activations in eight bits."""
    for_cpu: bool = False
    """Whether its kernels are those that channels are padded and groups are taken apart for."""


OTHERS: Final = Dialect()
"""Of providers of which no more is known than that they read QDQ: unsigned activations, signed weights by channel."""
DIALECTS: Final[Mapping[str, Dialect]] = {
    "cpu": Dialect(for_cpu=True),
    # TensorRT takes symmetric scales only: zero points are zero.
    "tensorrt": Dialect(SIGNED),
    "nvtensorrtrtx": Dialect(SIGNED),
}
FLOATS: Final = ("cuda", "webgpu")
"""Providers without integer kernels of convolutions: what stands between quantisers is computed in floating point."""


def dialect(ep: str) -> Dialect:
    """That of the execution provider.

    Raises:
        UsageError: ``usage``: it has no integer kernels.
    """
    if ep in FLOATS:
        message = (
            f"The execution provider {ep} has no integer kernels: between quantisers it computes in floating point."
        )
        raise UsageError("usage", message, "--width fp16 is what makes it faster.")
    return DIALECTS.get(ep, OTHERS)


def grid_of(ep: str, width: Width) -> Grid:
    """The codes of activations.

    Raises:
        UsageError: as of `dialect`.
    """
    spoken = dialect(ep)
    return Grid(WORDS.steps, spoken.grid.symmetric) if width == "a16w8" else spoken.grid
