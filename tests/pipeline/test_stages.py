"""Stages that are kept: done once, again where something changed, and whole or not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from normfold.errors import OutputError
from normfold.pipeline.stages import FOLDER, MODEL, RECORD, Workshop

MAKE = """
import sys, time
from pathlib import Path
from normfold.pipeline.stages import Workshop

def work(folder):
    (folder / "model.onnx").write_bytes(b"half")
    print("working", flush=True)
    time.sleep(60)

with Workshop.opened(Path(sys.argv[1])) as workshop:
    workshop.do("fold", {"a": 1}, work)
"""


class Work:
    """Writes a model, and counts how often."""

    def __init__(self, data: bytes | None = b"model") -> None:
        self.data, self.times = data, 0

    def __call__(self, folder: Path) -> dict:
        self.times += 1
        if self.data is not None:
            (folder / MODEL).write_bytes(self.data)
        return {"told": self.times}


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    work = Work()
    for resumed in (False, True):
        with Workshop.opened(tmp_path) as workshop:
            stage = workshop.do("fold", {"a": 1}, work)
        assert (stage.resumed, stage.record["told"], stage.model.read_bytes()) == (resumed, 1, b"model")
    assert work.times == 1


@pytest.mark.parametrize(("name", "depends"), [("convert", {"a": 1}), ("fold", {"a": 2}), ("fold", {"a": 1, "b": 0})])
def test_it_is_done_again_where_what_it_depends_on_changed(tmp_path: Path, name: str, depends: dict) -> None:
    work = Work()
    with Workshop.opened(tmp_path) as workshop:
        workshop.do("fold", {"a": 1}, work)
        assert not workshop.do(name, depends, work).resumed
        assert workshop.do("fold", {"a": 1}, work).resumed


def test_it_is_done_again_by_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    with Workshop.opened(tmp_path) as workshop:
        workshop.do("fold", {}, work)
        monkeypatch.setattr("normfold.pipeline.stages.__version__", "another")
        assert not workshop.do("fold", {}, work).resumed


@pytest.mark.parametrize("damage", ["model", "no model", "record", "no record"])
def test_what_is_damaged_is_done_again(tmp_path: Path, damage: str) -> None:
    work = Work()
    with Workshop.opened(tmp_path) as workshop:
        stage = workshop.do("fold", {}, work)
        file = stage.folder / (MODEL if "model" in damage else RECORD)
        file.unlink() if damage.startswith("no ") else file.write_bytes(b"mo")
        again = workshop.do("fold", {}, work)
        assert (again.resumed, again.record["told"], again.model.read_bytes()) == (False, 2, b"model")


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict:
        (folder / MODEL).write_bytes(b"half")
        raise ValueError("no")

    with Workshop.opened(tmp_path) as workshop, pytest.raises(ValueError, match="no"):
        workshop.do("fold", {}, fail)
    assert [file.name for file in (tmp_path / FOLDER).iterdir()] == ["lock"]


def test_a_killed_run_leaves_whole_stages_only(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", MAKE, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"working\n"
        with pytest.raises(OutputError) as caught, Workshop.opened(tmp_path):
            pass
        assert "Another run" in caught.value.message
        process.kill()
    with Workshop.opened(tmp_path) as workshop:
        assert [file.name for file in (tmp_path / FOLDER).iterdir()] == ["lock"]
        assert workshop.find("fold", {"a": 1}) is None


def test_what_depends_on_code_is_done_each_time_and_named_by_its_model(tmp_path: Path) -> None:
    work = Work()
    with Workshop.opened(tmp_path) as workshop:
        first, second = (workshop.fresh("export", work) for _ in range(2))
        assert work.times == 2
        assert first.folder == second.folder
        work.data = b"another"
        assert workshop.fresh("export", work).folder != first.folder


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught, Workshop.opened(tmp_path / "file"):
        pass
    assert caught.value.code == "output-not-writable"
