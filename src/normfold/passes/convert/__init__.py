"""Conversions between kinds of norms, one file each; `MATRIX` says which there are, and how good."""

from __future__ import annotations

from normfold.passes.convert.conversion import KINDS, TARGETS, Asked, Cell, Conversion, Kind, Proposal, Target
from normfold.passes.convert.matrix import MATRIX

__all__ = ["KINDS", "MATRIX", "TARGETS", "Asked", "Cell", "Conversion", "Kind", "Proposal", "Target"]
