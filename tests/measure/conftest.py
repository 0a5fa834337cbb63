"""What tests of timing share."""

from __future__ import annotations

import pytest

from normfold.measure import Effort


@pytest.fixture
def brief() -> Effort:
    """Just enough to see that everything is there; no figure is worth anything."""
    return Effort(first=2, most=2, per_process=0.05, warm_up=0.005, time_limit=60.0, details=False)
