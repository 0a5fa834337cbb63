"""The small model, whole and with its weight in a data file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from models.onnxfile.samples import externalise, small_model


@pytest.fixture
def model() -> onnx.ModelProto:
    return small_model()


@pytest.fixture
def external(tmp_path: Path) -> Callable[..., Path]:
    """Write the small model with its weight in a data file; return the model's path."""

    def write(location: str = "w.data", folder: Path = tmp_path, **entries: int | str) -> Path:
        proto = small_model()
        externalise(proto.graph.initializer[0], location, **entries)
        path = folder / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return write
