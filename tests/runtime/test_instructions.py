"""What the processor's integer instructions do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from normfold.errors import EnvironmentUnavailableError
from normfold.runtime import Failed, Loaded, Ran, WorkerClient, instructions
from normfold.runtime.instructions import INNER, LARGEST, OUTER, saturates


@pytest.fixture(autouse=True)
def asked_anew():
    saturates.cache_clear()
    yield
    saturates.cache_clear()


def features() -> set[str]:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return {word for line in file if line.startswith("flags") for word in line.split()}
    except OSError:
        return set()


@pytest.mark.skipif("avx512_vnni" not in features(), reason="needs a processor with VNNI")
def test_vnni_sums_exactly():
    assert not saturates()


@pytest.mark.parametrize("cut", [True, False])
def test_sums_that_are_cut_off_are_seen(monkeypatch, cut):
    right = np.full((OUTER, OUTER), LARGEST[0] * LARGEST[1] * INNER, np.int32)
    # AVX2 cuts each sum of two products off at 32767.
    wrong = np.full((OUTER, OUTER), 32767 * INNER // 2, np.int32)
    monkeypatch.setattr(WorkerClient, "load", lambda *_, **__: Loaded("onnxruntime", ("y",), 0.0))
    monkeypatch.setattr(WorkerClient, "run", lambda *_: Ran({"y": wrong if cut else right}, 0.0))
    assert saturates() is cut


def test_a_worker_that_dies_has_a_code(monkeypatch):
    monkeypatch.setattr(WorkerClient, "load", lambda *_, **__: Failed("crash", "exit status 139"))
    with pytest.raises(EnvironmentUnavailableError) as caught:
        instructions.saturates()
    assert caught.value.code == "worker-died"
