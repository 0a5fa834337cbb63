"""Conversions between kinds of norms, one file each. `CONVERSIONS` is the matrix on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from normfold.passes.convert import group_to_instance, layer_to_rms
from normfold.passes.convert.conversion import Conversion, Proposal

CONVERSIONS: Final[Mapping[str, tuple[Conversion, ...]]] = {
    "instance": (group_to_instance.CONVERSION,),
    "rms": (layer_to_rms.CONVERSION,),
}
"""By what norms are to become."""

__all__ = ["CONVERSIONS", "Conversion", "Proposal"]
