"""Affine maps, canonical weights and channel moves: NumPy only, float64, no notion of a graph."""

from normfold.core.algebra.affine import Affine, trim
from normfold.core.algebra.codes import Codes
from normfold.core.algebra.maps import Centring, Map, Offset
from normfold.core.algebra.moments import Moments, independent_sum
from normfold.core.algebra.moves import Chain, Crop, Move, Permute, Regroup, Shuffle, Take, is_identity
from normfold.core.algebra.table import Table
from normfold.core.algebra.weight import Weight
from normfold.core.algebra.window import Window

__all__ = [
    "Affine",
    "Centring",
    "Chain",
    "Codes",
    "Crop",
    "Map",
    "Moments",
    "Move",
    "Offset",
    "Permute",
    "Regroup",
    "Shuffle",
    "Table",
    "Take",
    "Weight",
    "Window",
    "independent_sum",
    "is_identity",
    "trim",
]
