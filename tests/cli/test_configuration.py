"""Options from a file: a command's own before shared ones, the command line before both; what nobody has is refused."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest

from folding import array, model
from normfold.cli.application import VERBS, cli, run
from normfold.cli.configuration import read, schema
from normfold.report.schema import FOLDER


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    body = ["[c] a = Conv(x, w)", "[n] y = BatchNormalization(a, g, g, g, g)"]
    held = {"w": array(4, 3, 1, 1), "g": np.abs(array(4, seed=1)) + 0.5}
    onnx.save(model("float[N,3,4,4] x", body, held), tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    return "net.onnx"


@pytest.fixture
def asked(net: str, capfd: pytest.CaptureFixture[str]):
    """The effective configuration of a dry run of optimize with some options more."""

    def ask(*options: str) -> dict:
        assert run(["optimize", net, "--dry-run", "--json", *options]) == 0
        return json.loads(capfd.readouterr().out)["result"]["configuration"]

    return ask


def test_the_nearest_pyproject_gives_options(asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.normfold]\nseed = 3\n[tool.normfold.optimize]\nthreads = 2\n")
    assert (asked()["seed"], asked()["threads"]) == (3, 2)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert run(["optimize", "../net.onnx", "--dry-run"]) == 0


def test_what_stands_nearer_comes_first(asked, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.normfold]\nseed = 3\n[tool.normfold.optimize]\nseed = 4\n")
    assert asked()["seed"] == 4
    assert asked("--seed", "5")["seed"] == 5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.toml", 'use = "edge"\n[optimize]\nwithout = ["tune", "convert"]\nmax-latency = "3ms"\n'),
        ("own.yaml", "use: edge\noptimize:\n  without: [tune, convert]\n  max-latency: 3ms\n"),
        ("own.yml", "use: edge\noptimize: {without: [tune, convert], max-latency: 3ms}\n"),
    ],
)
def test_a_file_of_its_own(asked, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = asked("--config", name)
    assert (found["use"], found["without"], found["max_latency"]) == ("edge", ["tune", "convert"], "3ms")
    jsonschema.validate(read(tmp_path / name), schema(cli))


def test_one_value_of_an_option_that_takes_several(asked, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('[optimize]\nwithout = "tune"\nmax-latency = "0.5x"\nforce = true\n')
    assert asked("--config", "own.toml")["without"] == ["tune"]


def test_options_of_other_commands_are_left_to_them(asked, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("rtol = 0.5\n[bench]\nprocesses = 3\n")
    assert asked("--config", "own.toml")["seed"] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sed = 1", "Did you mean 'seed'?"),
        ("[optimise]\nseed = 1", "Did you mean 'optimize'?"),
        ("[optimize]\nprocesses = 3", "there is no option 'processes'"),
        ("[optimize]\nmax_drop = 3", "Did you mean 'max-drop'?"),
        ("[optimize]\nthreads = 0", "threads"),
        ('[optimize]\nuse = "desk"', "use"),
        ("seed = ", "cannot be read"),
        ("optimize = 3", "is not a table"),
        ("seed = [1]", "seed in own.toml is [1]"),
        ("[optimize]\ndry-run = 1", "true or false"),
        ("time-limit = 15", "not a duration"),
        ("[optimize]\nwithout = [1]", "without"),
        ("[optimize]\nwithout = [[]]", "without in own.toml is []"),
        ("seed = 1979-05-27", "a text or a number"),
    ],
)
def test_what_is_wrong_is_said(
    net: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "own.toml").write_text(text)
    assert run(["optimize", net, "--dry-run", "--config", "own.toml"]) == 2
    shown = capfd.readouterr().err
    assert said in shown
    assert "internal" not in shown


def test_a_file_that_is_not_there(net: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["optimize", net, "--dry-run", "--config", "none.toml", "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "usage"


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "3: 4\n"])
def test_yaml_that_is_no_table(net: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    assert run(["optimize", net, "--dry-run", "--config", "own.yaml"]) == 2
    assert "internal" not in capfd.readouterr().err


def test_yaml_without_its_package(
    net: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text("seed: 1\n")
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    assert run(["optimize", net, "--dry-run", "--config", "own.yaml"]) == 3
    assert "missing-package" in capfd.readouterr().err


def test_the_published_schema_is_that_of_the_commands() -> None:
    published = json.loads((FOLDER / "normfold-config-1.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(published)
    assert published == json.loads(json.dumps(schema(cli))), "run make docs"
    assert set(VERBS) <= set(published["properties"])


@pytest.mark.parametrize("wrong", [{"sed": 1}, {"optimize": {"threads": 0}}, {"optimize": {"use": "desk"}}])
def test_the_schema_refuses_what_the_commands_refuse(wrong: dict) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema(cli))
