"""Conversions between kinds of norms, one file each. `CONVERSIONS` is the matrix on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from normfold.passes.convert import layer_to_rms
from normfold.passes.convert.conversion import Conversion, Proposal

CONVERSIONS: Final[Mapping[str, tuple[Conversion, ...]]] = {"rms": (layer_to_rms.CONVERSION,)}
"""By what norms are to become."""

__all__ = ["CONVERSIONS", "Conversion", "Proposal"]
