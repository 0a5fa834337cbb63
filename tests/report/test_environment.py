"""What `normfold env` finds, and how it says it."""

from __future__ import annotations

import pytest

from normfold.report import environment
from normfold.runtime import processors


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> dict:
    """A processor without products of bytes, and nothing optional installed."""
    monkeypatch.setattr(processors, "facts", lambda: {"model name": "Abacus", "flags": "sse avx2 fma"})
    optional = {**environment.OPTIONAL, **environment.PROVIDERS}
    version = environment._version
    monkeypatch.setattr(environment, "_version", lambda name: None if name in optional else version(name))
    monkeypatch.setenv("PATH", "")
    return environment.environment()


def test_what_is_missing_comes_with_a_command_and_a_purpose(old: dict) -> None:
    missing = {entry["package"]: entry for entry in old["missing"]}
    assert missing["torch"]["install"] == "pip install 'normfold[torch]'"
    assert "openvino" in missing["onnxruntime-ep-openvino"]["for"]
    assert environment.lines(old)["no onnxruntime-gpu"].startswith("pip uninstall onnxruntime && ")


def test_int8_without_products_of_bytes(old: dict) -> None:
    assert old["cpu_features"] == ["avx2", "fma"]
    assert "gain little" in environment.lines(old)["int8 arithmetic"]
    old["cpu_features"] = ["avx2", "avx512_vnni"]
    assert environment.lines(old)["int8 arithmetic"] == "avx512_vnni"
    old["cpu_features"] = None
    assert environment.lines(old)["int8 arithmetic"] == "unknown"


def test_no_gpu_says_why(old: dict) -> None:
    assert old["gpus"] == []
    assert "nvidia-smi" in environment.lines(old)["gpu"]
    old["gpus"] = [{"name": "NVIDIA H200"}]
    assert environment.lines(old)["gpu"] == "NVIDIA H200"


def test_briefly(old: dict) -> None:
    assert list(environment.lines(old, short=True)) == ["normfold", "python"]
