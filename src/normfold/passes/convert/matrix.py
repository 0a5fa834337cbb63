"""Which kinds of norms become which others, how, and how well: the whole matrix on one screen.

A norm takes the first way of its cell that is open to it. A cell without an entry is one that nothing is meant by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from normfold.passes.convert import (
    batch_to_dyt,
    bln_to_layer,
    dyt_to_tanh,
    fitted,
    layer_to_rms,
    redundant,
    respell,
    to_bln,
    to_live,
    to_weight,
    weight_to_batch,
    weight_to_static,
)
from normfold.passes.convert.conversion import Cell, Conversion, Kind, Target
from normfold.records import Label

Row = dict[Target, tuple[Cell, ...]]


def _way(label: Label | None, says: str, conversion: Conversion | None = None) -> tuple[Cell, ...]:
    return (Cell(label, says, conversion),)


ALREADY: Final = _way("exact", "it is one already")
_TANH: Final = _way(None, "only a DyT is a tanh between scales")
_WEIGHT: Final = _way(None, "a weight norm is fixed, and this norm computes its statistics from each input")
_FITTED: Final = _way("calibrated", "it is fitted to what the norm makes of calibration inputs", fitted.CONVERSION)
_LIVE: Final = _way("calibrated", "its channels are standardised before, and brought back behind", to_live.CONVERSION)
_INERT: Final = Cell("exact-if", "epsilon is large beside the mean square of its input", to_live.INERT_RMS)
_STATIC: Final = _way("exact", "an affine map by channel, folded into what stands next to it", respell.CONVERSION)
_LIVE_TO_STATIC: Final = _way(
    "needs-training", "statistics of each input become the same for all of them", fitted.CONVERSION
)
_TRAINED: Final = _way("needs-training", "statistics are taken over other elements", fitted.CONVERSION)
_BY_SAMPLE: Final = _way("needs-training", "what told samples apart goes, channel by channel", to_live.CONVERSION)
_TO_DYT: Final = _way("needs-training", "a tanh replaces statistics of each input", fitted.CONVERSION)
_FITTED_RMS: Final = Cell("calibrated", "its scale and bias make up for the mean", fitted.CONVERSION)
_NOT_CENTRED: Final = _way(None, "an RMSNorm does not subtract the mean of a group of channels and positions")
_RESHAPED: Final = _way("exact", "the same elements are normalised, in another shape", respell.CONVERSION)
_STATISTICS: Final = _way("exact", "the same statistics, which training updates", respell.CONVERSION)
_FROZEN: Final = _way("exact", "the same statistics, which training leaves alone", respell.CONVERSION)
_FOLLOWED: Final = _way(
    "exact-if", "the statistics of the norm behind it, which changes nothing, stay", weight_to_batch.CONVERSION
)
_NO_BATCH: Final = "the share of its batch statistics is nothing"

_BATCH: Final[Row] = {
    "batch": _way("exact", "a synchronised one becomes a plain one", respell.CONVERSION),
    "frozen": _FROZEN,
    "static": _STATIC,
    "layer": _LIVE,
    "rms": (_INERT, *_LIVE),
    "group": _LIVE,
    "instance": _BY_SAMPLE,
    "weight": _way("exact-if", "no channel has the scale zero", to_weight.CONVERSION),
    "bln": _way("exact-if", "its statistics stay the stored ones", to_bln.CONVERSION),
    "dyt": _way("exact-if", "alpha times its input is small", batch_to_dyt.CONVERSION),
    "tanh": _TANH,
}
_LAYER: Final[Row] = {
    "batch": _LIVE_TO_STATIC,
    "frozen": _LIVE_TO_STATIC,
    "static": _LIVE_TO_STATIC,
    "layer": ALREADY,
    "rms": (Cell("exact", "all that writes its input takes the mean away", layer_to_rms.CONVERSION), _FITTED_RMS),
    "group": _way("exact", "one group, every position a sample of its own", respell.CONVERSION),
    "instance": _way("exact", "every position a channel of its own", respell.CONVERSION),
    "weight": _WEIGHT,
    "bln": _way("exact-if", _NO_BATCH, to_bln.CONVERSION),
    "dyt": _TO_DYT,
    "tanh": _TANH,
}
_GROUP: Final[Row] = {
    "batch": _FITTED,
    "frozen": _FITTED,
    "static": _FITTED,
    "layer": _RESHAPED,
    "rms": _NOT_CENTRED,
    "group": _way("exact", "as many groups as before", respell.CONVERSION),
    "instance": _RESHAPED,
    "weight": _WEIGHT,
    "bln": _TRAINED,
    "dyt": _TO_DYT,
    "tanh": _TANH,
}
_NO_NORM: Final = _way(None, "a normalised weight does not look at the input")
_SAME_EVERYWHERE: Final = _way("exact-if", "its statistics stay the stored ones", respell.CONVERSION)
_BLN: Final[Row] = _BATCH | {
    "batch": _SAME_EVERYWHERE,
    "frozen": _SAME_EVERYWHERE,
    "static": _SAME_EVERYWHERE,
    "bln": ALREADY,
}

MATRIX: Final[Mapping[Kind, Row]] = {
    "batch": _BATCH,
    "frozen": _BATCH | {"batch": _STATISTICS, "frozen": ALREADY},
    "layer": _LAYER,
    "rms": _LAYER
    | {
        "layer": _way(
            "exact", "the first half of the LayerNorm of its input beside the negative of that", respell.CONVERSION
        ),
        "rms": ALREADY,
        "static": (
            Cell("exact-if", "another RMSNorm divides by the size of what is left of it", redundant.CONVERSION),
            *_LIVE_TO_STATIC,
        ),
    },
    "group": _GROUP,
    "instance": _GROUP | {"group": _RESHAPED, "instance": ALREADY},
    "running-instance": _BATCH | {"batch": _STATISTICS},
    "weight": {
        "batch": _FOLLOWED,
        "frozen": _FOLLOWED,
        "static": _way("exact", "the weight is computed once, and stored", weight_to_static.CONVERSION),
        "layer": _NO_NORM,
        "rms": _NO_NORM,
        "group": _NO_NORM,
        "instance": _NO_NORM,
        "weight": ALREADY,
        "bln": _NO_NORM,
        "dyt": _NO_NORM,
        "tanh": _TANH,
    },
    "static-bln": _BLN,
    "live-bln": {
        "batch": _LIVE_TO_STATIC,
        "frozen": _LIVE_TO_STATIC,
        "static": _LIVE_TO_STATIC,
        "layer": (Cell("exact-if", _NO_BATCH, bln_to_layer.CONVERSION), *_TRAINED),
        "rms": (Cell("exact-if", f"{_NO_BATCH}, and the mean of its input zero", bln_to_layer.CONVERSION), *_TRAINED),
        "group": _TRAINED,
        "instance": _TRAINED,
        "weight": _WEIGHT,
        "bln": ALREADY,
        "dyt": _TO_DYT,
        "tanh": _TANH,
    },
    "dyt": {
        "batch": _LIVE_TO_STATIC,
        "frozen": _LIVE_TO_STATIC,
        "static": (Cell("calibrated", "alpha times its input is small", fitted.STRAIGHT_TANH), *_LIVE_TO_STATIC),
        "layer": _TRAINED,
        "rms": _TRAINED,
        "group": _TRAINED,
        "instance": _TRAINED,
        "weight": _WEIGHT,
        "bln": _TRAINED,
        "dyt": ALREADY,
        "tanh": _way(
            "exact",
            "alpha goes into what stands before it, scale and shift into what stands behind it",
            dyt_to_tanh.CONVERSION,
        ),
    },
}
"""By the kind that a norm is, then by the kind that it is to become: the ways there, the best one first."""
