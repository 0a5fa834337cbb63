from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("onnxscript", reason="it comes with the extra torch")


@pytest.fixture(autouse=True)
def _one_thread():
    """Small networks run faster on one thread, and repeatably."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
