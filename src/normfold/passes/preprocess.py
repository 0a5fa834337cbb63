"""Puts the preprocessing of an image in front of a model, as operations that the fold pass then folds.

``OUT`` takes the raw image where its source takes what the preprocessing makes of it.
"""

from __future__ import annotations

import onnx_ir

from normfold.backends.onnx import bind, inline_norms, insert, may_hold_norm
from normfold.core.preprocess import Preprocess, Stage
from normfold.records import RECORDS_KEY, packed, unpacked

__all__ = ["bound", "preprocess"]


def bound(model: onnx_ir.Model, wanted: Preprocess | None) -> Stage | None:
    """``wanted`` as it applies to the input of ``model`` that it names, or to its only one.

    Raises:
        UsageError: ``bad-preprocess``: there is no such input, or it does not fit.
    """
    return None if wanted is None else bind(model, wanted)


def preprocess(model: onnx_ir.Model, stage: Stage) -> None:
    """Make ``model`` take the raw image of ``stage``.

    Raises:
        UsageError: ``bad-preprocess``: the model's opset has no arithmetic by channel.
    """
    # As the fold does, but earlier: what a function does to the image can then be undone, too.
    inline_norms(model, may_hold_norm)
    insert(model, stage)
    text = model.metadata_props.get(RECORDS_KEY)
    if text is not None:
        # What is known of the source's input does not hold for the raw image, which has its name now.
        kept = [record for record in unpacked(text) if record.value != stage.name]
        model.metadata_props[RECORDS_KEY] = packed(kept)
