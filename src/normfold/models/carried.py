"""The statistics records that a model of any kind carries."""

from __future__ import annotations

from collections.abc import Mapping

from normfold.records import RECORDS_ATTRIBUTE, RECORDS_KEY, StatisticsRecord, unpacked


def carried_records(model: object) -> tuple[StatisticsRecord, ...]:
    """Those of an ``onnx.ModelProto``, an ``onnx_ir.Model`` or an ``nn.Module``; empty where it has none."""
    entries = getattr(model, "metadata_props", ())
    named = entries if isinstance(entries, Mapping) else {entry.key: entry.value for entry in entries}
    text = named.get(RECORDS_KEY, getattr(model, RECORDS_ATTRIBUTE, None))
    return unpacked(text) if isinstance(text, str) else ()
