"""What the machine says of itself: energy counters, GPUs, the runtime's profile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import timed
from normfold.runtime import energy, gpu
from normfold.runtime.profile import node_times


def package(root: Path, name: str, used: int, wrap: int) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{used}\n")
    (folder / "max_energy_range_uj").write_text(f"{wrap}\n")
    return folder


def test_energy_of_all_packages_and_across_a_wrap(tmp_path: Path) -> None:
    first, second = package(tmp_path, "intel-rapl:0", 100, 999), package(tmp_path, "intel-rapl:1", 990, 999)
    package(tmp_path, "intel-rapl:0:0", 5, 999)
    meter = energy.meter(tmp_path)
    assert isinstance(meter, energy.Meter)
    before = meter.read()
    (first / "energy_uj").write_text("150\n")
    (second / "energy_uj").write_text("20\n")
    assert meter.used(before, meter.read()) == 50 + 30


def test_no_energy_counters(tmp_path: Path) -> None:
    assert "no package domain" in str(energy.meter(tmp_path))
    package(tmp_path, "intel-rapl:0", 1, 9)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert "cannot be read" in str(energy.meter(tmp_path))


def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, "echo 'NVIDIA H200, 580.1, 143771, 1980, 3201, 0x0000000000000004, 76.1, 29'")
    (found,) = gpu.look()
    assert found["name"] == "NVIDIA H200"
    assert found["throttle_reasons"] == "0x0000000000000004"


@pytest.mark.parametrize(("script", "reason"), [("exit 9", "cannot tell"), ("true", "no GPU"), ("echo a, b", "no GPU")])
def test_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str) -> None:
    pretend(tmp_path, monkeypatch, script)
    assert reason in str(gpu.look())


def test_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no nvidia-smi" in str(gpu.look())


def test_a_profile(tmp_path: Path) -> None:
    def event(name: str, duration: int, peak: str) -> dict:
        facts = {"op_name": "Conv", "provider": "CPUExecutionProvider", "mem_in_use_peak": peak}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": duration, "args": facts}

    events = [{"cat": "Session", "name": "model_run", "dur": 99, "args": {}}]
    events += [event("a", duration, "10") for duration in (5, 700, 6)] + [event("b", 40, "30")] * 3
    (tmp_path / "p.json").write_text(json.dumps(events))
    found = node_times(tmp_path / "p.json")
    assert [(row[0], row[3], row[4]) for row in found["nodes"]] == [("b", 3, 40), ("a", 3, 6)]
    assert found["arena_peak"] == 30
    assert found["arena_size"] is None
    assert not (tmp_path / "p.json").exists()


def test_nothing_is_recorded_for_telemetry(tmp_path: Path) -> None:
    """ONNX Runtime keeps what it would send in a file below the home folder."""
    model = timed.products(tmp_path, 2)
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys; from normfold.runtime.session_profile import SessionProfile\n"
        "from normfold.runtime.sessions import open_session\n"
        "open_session(sys.argv[1], SessionProfile())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home)}
    subprocess.run([sys.executable, "-c", code, str(model)], check=True, env=environment, timeout=60)
    assert list(home.iterdir()) == []
