"""Models and arrays that travel in the protocol arrive as they were sent, or there is an error with a code."""

from __future__ import annotations

import base64
import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import timed
from normfold.errors import NormfoldError
from normfold.measure import Conditions, Effort, Experiment, measure, open_candidate
from normfold.runtime import Runnable
from normfold.runtime.targets import LOCAL, Target
from normfold.runtime.targets.timing_client import TimingClient
from normfold.runtime.targets.transfer import Sent
from normfold.runtime.workers import arrays
from normfold.runtime.workers.store import PIECE

DISGUISED = """
import errno, os, sys
from normfold.runtime.workers import protocol, store, timing
{}
timing.main()
"""
AWAY = replace(LOCAL, name="away", travels=True)
"""The local worker, without a disk that both know."""


def disguised(changes: str) -> Target:
    return replace(AWAY, command=(sys.executable, "-P", "-c", DISGUISED.format(changes)))


@pytest.fixture
def brief() -> Effort:
    return Effort(first=2, most=2, per_process=0.05, warm_up=0.005, time_limit=60.0, details=True)


def test_figures_from_a_worker_without_our_disk(tmp_path: Path, brief: Effort) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    path = timed.products(folder, 3, width=256)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with open_candidate(path) as candidate:
        cell = measure(Experiment((candidate,), Conditions(target="away"), brief, target=AWAY))
    assert cell.refused is None
    assert cell.figures[0].deviation <= 1e-6
    assert cell.figures[0].details is not None
    assert len(cell.figures[0].details.nodes) == 3
    assert cell.samples[0].machine["architecture"]


def test_arrays_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = timed.products(tmp_path, 1, width=512)
    sent = np.random.default_rng(0).standard_normal((1024, 512), dtype=np.float32)
    assert sent.nbytes > PIECE
    entries = arrays.write(tmp_path / "inputs", {"x": sent})
    session = {
        "provider": "CPUExecutionProvider",
        "provider_options": {},
        "intra_threads": 1,
        "inter_threads": 1,
        "options": {},
        "config": {},
        "disabled_optimizers": [],
        "custom_ops": [],
    }
    with TimingClient(time_limit=60, target=AWAY) as client:
        client.hello((), 0)
        client.open("m", Runnable(path, path.parent), session)
        client.bind("m", entries)
        np.testing.assert_array_equal(client.outputs("m")["y"], sent)


class Recorder:
    """A worker that only keeps what it is sent."""

    def __init__(self, *, damaged: bool = False) -> None:
        self.files: dict[str, bytes] = {}
        self.verbs: list[str] = []
        self.damaged = damaged

    def ask(self, verb: str, **request: Any) -> dict[str, Any]:
        self.verbs.append(verb)
        data = self.files.get(request["file"])
        if verb == "held":
            return {"held": data is not None and hashlib.sha256(data).hexdigest() == request["sha256"]}
        if verb == "put":
            self.files[request["file"]] = (data or b"")[: request["at"]] + base64.b64decode(request["data"])
            return {}
        assert data is not None
        piece, last = data[request["at"] :][:PIECE], request["at"] + PIECE >= len(data)
        digest = hashlib.sha256(data).hexdigest() if last else None
        return {"data": base64.b64encode(piece[::-1] if self.damaged else piece).decode(), "sha256": digest}


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1])
def test_a_file_of_any_size_is_sent_once(tmp_path: Path, size: int) -> None:
    folder, worker = tmp_path / "f", Recorder()
    folder.mkdir()
    file = folder / "model.onnx"
    file.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    first, second = (Sent(tmp_path, worker.ask) for _ in range(2))
    name = first.model(Runnable(file, folder))["model"]
    assert worker.files[name] == file.read_bytes()
    sent = len(worker.verbs)
    assert first.model(Runnable(file, folder))["model"] == name
    assert second.model(Runnable(file, folder))["model"] == name
    assert worker.verbs[sent:] == ["held"]


def test_models_that_share_their_file_but_not_their_data_stay_apart(tmp_path: Path) -> None:
    worker, names = Recorder(), []
    sent = Sent(tmp_path, worker.ask)
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "m.onnx").write_bytes(b"the same")
        (folder / "w.bin").write_bytes(bytes([number]))
        names.append(sent.model(Runnable(folder / "m.onnx", folder, {"w.bin": folder / "w.bin"}))["data_folder"])
    assert [worker.files[f"{name}/w.bin"] for name in names] == [b"\0", b"\1"]


def test_a_damaged_answer_is_no_answer(tmp_path: Path) -> None:
    worker = Recorder(damaged=True)
    worker.files["results-1/0.npy"] = b"some bytes"
    entry = arrays.Entry(name="y", file="results-1/0.npy", type="")
    with pytest.raises(NormfoldError) as caught:
        Sent(tmp_path, worker.ask).written([entry])
    assert caught.value.code == "link-broken"


REFUSALS = {
    "target-full": (
        "def full(*_, **__): raise OSError(errno.ENOSPC, 'No space left on device')\nstore.base64.b64decode = full"
    ),
    "link-broken": "store.checksum = lambda path: 'another'",
    "worker-version": "timing.VERSION = 1",
    "target-unavailable": "sys.modules['onnxruntime'] = None",
}


@pytest.mark.parametrize("code", REFUSALS)
def test_what_goes_wrong_there_has_its_code(tmp_path: Path, brief: Effort, code: str) -> None:
    with open_candidate(timed.products(tmp_path, 2)) as candidate:
        cell = measure(Experiment((candidate,), Conditions(target="away"), brief, target=disguised(REFUSALS[code])))
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == (code, 3)
    assert not cell.figures


def test_a_link_that_breaks_is_told_from_a_crash(tmp_path: Path, brief: Effort) -> None:
    cut = replace(disguised("os._exit(255)"), exits={255: "link"})
    with open_candidate(timed.products(tmp_path, 2)) as candidate:
        cell = measure(Experiment((candidate,), Conditions(target="away"), brief, target=cut))
    assert cell.refused is not None
    assert cell.refused.code == "link-broken"


def test_the_first_value_that_differs_is_named(tmp_path: Path, brief: Effort) -> None:
    """A machine whose second product, and all that comes of it, is off by a little more than rounding."""
    changes = (
        "exact = timing.to_array\n"
        "def off(name, value): return exact(name, value) + (0.01 if name in ('h1', 'h2', 'y') else 0.0)\n"
        "timing.to_array = off\n"
    )
    with open_candidate(timed.products(tmp_path, 4)) as candidate:
        cell = measure(Experiment((candidate,), Conditions(target="away"), brief, target=disguised(changes)))
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == ("outputs-differ", 1)
    assert "has other outputs on away: output 'y'" in cell.refused.message
    assert "the first value that differs is 'h1', which MatMul makes" in cell.refused.message


def test_what_fusion_alone_changes_is_said_to_be_that(tmp_path: Path, brief: Effort) -> None:
    changes = (
        "exact, bind = timing.to_array, timing.TimingWorker.outputs\n"
        "def off(name, value): return exact(name, value) + off.by\n"
        "def outputs(worker, request):\n"
        "    off.by = 0.0 if '(all)' in request['name'] else 0.01\n"
        "    return bind(worker, request)\n"
        "timing.to_array = off\n"
        "timing.VERBS['outputs'] = outputs\n"
    )
    with open_candidate(timed.products(tmp_path, 4)) as candidate:
        cell = measure(Experiment((candidate,), Conditions(target="away"), brief, target=disguised(changes)))
    assert cell.refused is not None
    assert "nothing differs" in cell.refused.message


def test_each_model_is_compared_with_itself(tmp_path: Path, brief: Effort) -> None:
    """What two models differ by is no deviation of the target."""
    path = timed.products(tmp_path, 2)
    near = onnx.load(path)
    near.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.eye(64, dtype=np.float32) * 1.00002, "w"))
    onnx.save(near, tmp_path / "near.onnx")
    with open_candidate(path) as first, open_candidate(tmp_path / "near.onnx") as second:
        cell = measure(Experiment((first, second), Conditions(target="away"), brief, target=AWAY))
    assert cell.refused is None
    assert [figure.deviation for figure in cell.figures] == [0.0, 0.0]
