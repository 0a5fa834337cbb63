"""Parts of data: what statistics are gathered on, and what is held out."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.models.dataset import read_dataset
from normfold.passes.quantize.outputs import FEWEST, split
from normfold.proof.probes import InputSpec

TAKES = [InputSpec("x", np.dtype(np.float32), ("n", 2))]


@pytest.mark.parametrize(
    ("feeds", "gathered", "held"), [(FEWEST, FEWEST, FEWEST), (2 * FEWEST, FEWEST, FEWEST), (50, 50 - FEWEST, FEWEST)]
)
def test_a_generator_of_few_feeds_is_used_twice(feeds, gathered, held):
    def generated():
        yield from ({"x": np.ones((3, 2), np.float32)} for _ in range(feeds))

    parts = split(read_dataset(generated, TAKES))
    assert [sum(1 for _ in part.batches()) for part in parts] == [gathered, held]
