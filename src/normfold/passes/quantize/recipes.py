"""Every width and the recipe that makes models of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from normfold.passes.quantize.blocks import blocks
from normfold.passes.quantize.figures import Width
from normfold.passes.quantize.halves import halves
from normfold.passes.quantize.integers import integers
from normfold.passes.quantize.recipe import Recipe

RECIPES: Final[Mapping[Width, Recipe]] = {"int8": integers, "int4": blocks, "fp16": halves, "bf16": halves}
"""Width to what makes models of it."""
