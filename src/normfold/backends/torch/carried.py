"""The statistics records that a module carries: text in an attribute, which needs no normfold to be unpickled."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from normfold.records import RECORDS_ATTRIBUTE, StatisticsRecord, packed, unpacked


def carry(module: nn.Module, records: Sequence[StatisticsRecord] | None) -> None:
    """Let ``module`` carry ``records``; ``None`` leaves it as it is."""
    if records is not None:
        setattr(module, RECORDS_ATTRIBUTE, packed(records))


def carried(module: nn.Module) -> tuple[StatisticsRecord, ...] | None:
    """What ``module`` carries; ``None`` where it never got any."""
    text = getattr(module, RECORDS_ATTRIBUTE, None)
    return unpacked(text) if isinstance(text, str) else None
