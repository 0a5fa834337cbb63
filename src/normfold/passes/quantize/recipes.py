"""Every width and the recipe that makes models of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from normfold.errors import UsageError
from normfold.passes.quantize.blocks import blocks
from normfold.passes.quantize.figures import Width
from normfold.passes.quantize.halves import halves
from normfold.passes.quantize.integers import integers
from normfold.passes.quantize.recipe import Quantized, Recipe, Work

ANY: Final[Mapping[str, tuple[Width, ...]]] = {"cuda": ("fp16",), "webgpu": ("fp16",)}
"""What ``auto`` tries, by execution provider."""
USUAL: Final[tuple[Width, ...]] = ("int8", "int4")
"""What it tries on others: sixteen bits are slower than float32 there."""


def best_of(work: Work) -> Sequence[Quantized]:
    """Models of every width that may be faster."""
    made: list[Quantized] = []
    for width in ANY.get(work.ep, USUAL):
        if width == "int4" and "contrib" not in work.formats:
            continue
        try:
            made += RECIPES[width](replace(work, width=width))
        except UsageError as error:
            if error.code != "nothing-to-quantize":
                raise
    return made


RECIPES: Final[Mapping[Width, Recipe]] = {
    "int8": integers,
    "a16w8": integers,
    "int4": blocks,
    "fp16": halves,
    "bf16": halves,
    "auto": best_of,
}
"""Width to what makes models of it."""
