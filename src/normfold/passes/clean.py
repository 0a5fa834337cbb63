"""Takes out of a model what does not change a bit of its outputs: constants' nodes, copies, duplicates, dead nodes.

It comes after the folds. Before them it would take away norms that decisions and ``only`` and ``skip`` are about; what
it removes, folds see through anyhow, and some of it is left only by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir

from normfold.backends.onnx import Inference, remove_dead_weight, stored
from normfold.passes.rewritten import Rewritten
from normfold.records import RECORDS_KEY, Cleaning, Pair, packed, unpacked

Moved = Mapping[str, str | None]
"""Names that are gone, and the value that holds the same, if one does."""


def clean(attempt: Rewritten[onnx_ir.Model], inference: Inference) -> Rewritten[onnx_ir.Model]:
    """Clean the model of ``attempt``, in place; its pairs and its records then name what is left."""
    found = remove_dead_weight(attempt.model, inference)
    cleaning = Cleaning(found.before, found.after, dict(sorted(found.removed.items())))
    after = renamed(attempt, found.moved, found.after)
    return replace(after, changed=attempt.changed or found.changed, cleaning=cleaning)


def renamed(attempt: Rewritten[onnx_ir.Model], moved: Moved, nodes: int) -> Rewritten[onnx_ir.Model]:
    """``attempt``, whose model has lost the names in ``moved`` and has so many ``nodes`` left."""
    _rename_records(attempt.model, moved)
    sizes = attempt.sizes
    if sizes is not None:
        parameters, nbytes = stored(attempt.model)
        sizes = sizes[0], replace(sizes[1], nodes=nodes, parameters=parameters, nbytes=nbytes)
    return replace(attempt, pairs=_renamed(attempt.pairs, moved), sizes=sizes)


def _renamed(pairs: Sequence[Pair], moved: Moved) -> tuple[Pair, ...]:
    found = ((pair, moved.get(pair.result, pair.result)) for pair in pairs)
    return tuple(replace(pair, result=name) for pair, name in found if name is not None)


def _rename_records(model: onnx_ir.Model, moved: Moved) -> None:
    text = model.metadata_props.get(RECORDS_KEY)
    if text is None or not moved:
        return
    found = ((record, moved.get(record.value, record.value)) for record in unpacked(text))
    renamed = {name: replace(record, value=name) for record, name in found if name is not None}
    model.metadata_props[RECORDS_KEY] = packed(renamed.values())
