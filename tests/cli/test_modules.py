"""Modules on the command line: package.module:factory in, .safetensors, .pt2 or .onnx out."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

import jsonschema  # noqa: E402
from torch import nn  # noqa: E402

import nets  # noqa: E402
import normfold  # noqa: E402
from normfold.cli.application import run  # noqa: E402
from normfold.report.schema import schema  # noqa: E402

Ask = Callable[..., tuple[int, dict]]

SOURCE = """
import torch
from torch import nn

print("a library that talks on stdout")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head, self.last = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        for norm in (self.bn, self.last):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.last(self.head(torch.relu(self.bn(self.conv(x)))))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(1000, 16), nn.Linear(16, 3)

    def forward(self, ids, mask):
        return {"logits": self.head(self.words(ids)) * mask[..., None]}


class Branches(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Holder:
    net = Net()


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x):
        return self.conv(x) + self.norm(x)


def fresh():
    net = Net()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def with_arguments(width, depth=3):
    return Net()


class typed(nn.Module):
    def __init__(self, width, depth=3, bias=True, kind="a"):
        super().__init__()
        self.given = [width, depth, bias, kind]


class wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = nn.Linear(2, 2)


class Named(nn.Module):
    def forward(self, image, mask=None):
        return image


def fails():
    raise RuntimeError("no luck")


def leaves():
    raise SystemExit(7)


def number():
    return 3


def on_meta():
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


constant = 3
"""
PICTURE = ("--shape", "x=1x3x8x8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "nf_models.py").write_text(SOURCE, encoding="utf-8")
    (folder / "nf_broken.py").write_text("import nf_not_there\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run a command with --json; its exit code and its document."""

    def call(*arguments: object) -> tuple[int, dict]:
        code = run([*map(str, arguments), "--json"])
        captured = capfd.readouterr()
        assert captured.out.count("\n") == 1
        parsed = json.loads(captured.out)
        jsonschema.validate(parsed, schema())
        return code, parsed

    return call


def made() -> nn.Module:
    from nf_models import Net

    return Net().eval()


def same(module: nn.Module, other: nn.Module) -> None:
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(module(x), other(x), rtol=1e-4, atol=1e-4)


def test_fold_into_safetensors_and_back(ask: Ask, tmp_path: Path) -> None:
    from safetensors import safe_open

    code, parsed = ask("fold", "nf_models:Net", *PICTURE, "-o", tmp_path / "net.safetensors")
    assert code == 0
    result = parsed["result"]
    assert result["counts"]["folded"] == 2
    assert result["verification"]["status"] == "equivalent"
    assert result["added"] == ["conv.bias"]
    assert "bn.running_mean" in result["removed"]
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["conv.bias", "conv.weight", "head.bias", "head.weight"]
        metadata = file.metadata()
    assert json.loads(metadata["normfold.removed"]) == result["removed"]
    assert json.loads(metadata["normfold.added"]) == result["added"]
    assert json.loads(metadata["normfold.taken_out"]) == {"bn": [], "last": []}
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]
    source = made()
    restored = normfold.restore(type(source)().eval(), tmp_path / "net.safetensors")
    assert type(restored.bn) is nn.Identity
    same(restored, source)
    code, parsed = ask("inspect", "nf_models:fresh", *PICTURE, "--weights", tmp_path / "net.safetensors")
    assert (code, parsed["result"]["counts"]["norms"]) == (0, 0)


def test_fold_into_a_program(ask: Ask, tmp_path: Path) -> None:
    arguments = ("--shape", "x=1x3x8x8", "--dynamic", "x:0=batch", "-o", tmp_path / "net.pt2")
    code, parsed = ask("fold", "nf_models:Net", *arguments)
    assert (code, parsed["result"]["counts"]["folded"]) == (0, 2)
    program = torch.export.load(tmp_path / "net.pt2")
    assert not any("batch_norm" in str(node.target) for node in program.graph.nodes)
    same(program.module(), made())
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]


def test_a_program_has_room_for_folds_that_a_tree_has_not(ask: Ask, tmp_path: Path) -> None:
    outcomes = []
    for out in ("net.safetensors", "net.pt2"):
        code, parsed = ask("fold", "nf_models:Shortcut", *PICTURE, "-o", tmp_path / out)
        outcomes += [decision["outcome"] for decision in parsed["result"]["decisions"]]
        assert code == 0
    assert outcomes == ["kept", "folded"]
    program = torch.export.load(tmp_path / "net.pt2")
    assert [str(node.target) for node in program.graph.nodes if node.op == "call_function"] == ["aten.conv2d.default"]


@pytest.mark.parametrize("verb", ["fold", "export"])
def test_onnx(ask: Ask, tmp_path: Path, verb: str) -> None:
    pytest.importorskip("onnxscript")
    import onnxruntime

    out = tmp_path / "net.onnx"
    code, parsed = ask(verb, "nf_models:Holder.net", *PICTURE, "--dynamic", "x:0=batch", "-o", out)
    assert code == 0
    assert (parsed["command"], parsed["result"]["counts"]["folded"]) == (verb, 2)
    x = torch.randn(3, 3, 8, 8)
    found = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, made()(x), rtol=1e-4, atol=1e-4)


def test_inputs_of_other_types_and_names(ask: Ask, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    np.savez(tmp_path / "feeds.npz", mask=np.ones((1, 5), np.float32))
    inputs = ("--shape", "ids=1x5:int64:1000", "--inputs", tmp_path / "feeds.npz", "--dynamic", "ids:1=length")
    inputs += ("--dynamic", "mask:1=length", "--output-name", "scores")
    code, _ = ask("export", "nf_models:Words", *inputs, "-o", tmp_path / "words.onnx")
    assert code == 0
    graph = onnx.load(tmp_path / "words.onnx").graph
    assert {value.name: value.type.tensor_type.elem_type for value in graph.input} == {"ids": 7, "mask": 1}
    assert [value.name for value in graph.output] == ["scores"]


@pytest.mark.slow
def test_in_words(folder: Path, tmp_path: Path) -> None:
    """As a user runs it: the current folder is found, what the module prints stays off stdout."""
    command = [sys.executable, "-P", "-m", "normfold", "fold", "nf_models:Net", *PICTURE]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "net.safetensors")], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0
    assert "2 norms: 2 folded" in done.stdout
    assert "a library that talks" not in done.stdout
    assert "a library that talks" in done.stderr


def test_inspect_and_dry_run(ask: Ask, tmp_path: Path) -> None:
    code, parsed = ask("inspect", "nf_models:Net", *PICTURE)
    assert (code, [norm["site"] for norm in parsed["result"]["norms"]]) == (0, ["bn", "last"])
    code, parsed = ask("fold", "nf_models:Net", *PICTURE, "--dry-run", "--skip", "last")
    assert [decision["outcome"] for decision in parsed["result"]["decisions"]] == ["folded", "kept"]
    assert parsed["result"]["output"] is None


@pytest.mark.parametrize("name", ["state.safetensors", "state.pth", "checkpoint.ckpt"])
def test_weights(ask: Ask, tmp_path: Path, name: str) -> None:
    from safetensors.torch import save_file

    state = made().state_dict()
    if name.endswith(".safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save({"epoch": 3, "state_dict": state} if "checkpoint" in name else state, tmp_path / name)
    out = tmp_path / "net.safetensors"
    code, _ = ask("fold", "nf_models:fresh", *PICTURE, "--weights", tmp_path / name, "-o", out, "--no-verify")
    assert code == 0
    same(normfold.restore(made(), out), made())


@pytest.mark.parametrize("key", ["model_state_dict", "state_dict", "model", ""])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_checkpoints_as_training_scripts_write_them(prefix: str, key: str, tmp_path: Path) -> None:
    from normfold.models.module.load import load

    net = load("nf_models:Net")
    state = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"epoch": 3, key: state} if key else state, tmp_path / "checkpoint.pt")
    same(load("nf_models:fresh", str(tmp_path / "checkpoint.pt")), net)


def test_a_child_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    from normfold.models.module.load import load

    inner = load("nf_models:wrapped")
    torch.save(inner.state_dict(), tmp_path / "plain.pt")
    torch.save({f"module.{name}": tensor for name, tensor in inner.state_dict().items()}, tmp_path / "parallel.pt")
    for name in ("plain.pt", "parallel.pt"):
        loaded = load("nf_models:wrapped", str(tmp_path / name))
        assert torch.equal(loaded.module.weight, inner.module.weight)


@pytest.mark.parametrize(
    ("arguments", "made_with"),
    [
        ("width=4", [4, 3, True, "a"]),
        ("width=4,depth=2.5,bias=false,kind=b", [4, 2.5, False, "b"]),
        ("width=-1e3,bias=None,kind='8'", [-1000.0, 3, None, "8"]),
    ],
)
def test_arguments_of_a_factory_have_types(arguments: str, made_with: list) -> None:
    from normfold.models.module.load import load

    given = load(f"nf_models:typed:{arguments}").given
    assert given == made_with
    assert [type(one) for one in given] == [type(one) for one in made_with]


def test_a_factory_with_arguments(ask: Ask) -> None:
    code, parsed = ask("inspect", "nf_models:with_arguments:width=3", *PICTURE)
    assert (code, parsed["result"]["counts"]["norms"]) == (0, 2)


@pytest.mark.parametrize("name", ["imgae", "mak"])
def test_a_misspelt_input_is_an_error_with_a_suggestion(ask: Ask, name: str) -> None:
    right = {"imgae": "image", "mak": "mask"}[name]
    code, parsed = ask("inspect", "nf_models:Named", "--shape", f"{name}=1x3x8x8")
    assert (code, parsed["error"]["code"]) == (2, "bad-input")
    assert repr(right) in parsed["error"]["hint"]


def test_meta_tensors_take_their_numbers_from_weights(ask: Ask, tmp_path: Path) -> None:
    code, parsed = ask("inspect", "nf_models:on_meta", *PICTURE)
    assert (code, parsed["error"]["code"]) == (2, "meta-tensors")
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    torch.save(net.state_dict(), tmp_path / "state.pth")
    code, parsed = ask("inspect", "nf_models:on_meta", *PICTURE, "--weights", tmp_path / "state.pth")
    assert (code, parsed["result"]["counts"]["folded"]) == (0, 1)


class Bomb:
    def __reduce__(self):
        return (Path.write_text, (Path("nf_exploded"), "code ran"))


def test_a_pickle_that_runs_code_is_not_loaded(ask: Ask, folder: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": made().state_dict(), "bomb": Bomb()}, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Bomb()))
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    for name in ("new.pth", "old.pth", "script.pt"):
        code, parsed = ask("inspect", "nf_models:Net", *PICTURE, "--weights", tmp_path / name)
        assert (code, parsed["error"]["code"]) == (2, "unsafe-weights"), name
    assert not (folder / "nf_exploded").exists()


def test_weights_that_do_not_fit(ask: Ask, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    torch.save({**made().state_dict(), "conv.weight": torch.zeros(1)}, tmp_path / "shape.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    (tmp_path / "weights.npz").write_bytes(b"")
    for file in ("other.pth", "none.pth", "shape.pth", "cut.pth", "cut.safetensors", "weights.npz", "missing.pth"):
        code, parsed = ask("inspect", "nf_models:Net", *PICTURE, "--weights", tmp_path / file)
        assert (code, parsed["error"]["code"]) == (2, "bad-weights"), file


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nf_nowhere:Net", "no Python module nf_nowhere"),
        ("nf_broken:Net", "nf_not_there"),
        ("nf_models:Nothing", "no 'Nothing'"),
        ("nf_models:with_arguments", "needs arguments: width"),
        ("nf_models:with_arguments:widht=3", "no argument 'widht'"),
        ("nf_models:with_arguments:width=3,4", "not of the form name=value"),
        ("nf_models:fails", "RuntimeError: no luck"),
        ("nf_models:leaves", "SystemExit"),
        ("nf_models:number", "of type int"),
        ("nf_models:constant", "of type int"),
    ],
)
def test_a_factory_that_makes_no_module(ask: Ask, reference: str, words: str) -> None:
    code, parsed = ask("inspect", reference, *PICTURE)
    assert (code, parsed["error"]["code"]) == (2, "bad-module")
    assert words in parsed["error"]["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("fold", "nf_models:Net", *PICTURE),
        ("fold", "nf_models:Net", *PICTURE, "-o", "out.txt"),
        ("fold", "nf_models:Net", *PICTURE, "-o", "out.onnx", "--in-place"),
        ("fold", "nf_models:Net", *PICTURE, "-o", "out.onnx", "--preprocess", "scale=2"),
        ("fold", "nf_models:Net", "-o", "out.safetensors"),
        ("inspect", "nf_models:Net", "--shape", "x=1x3x8x8:float33"),
        ("inspect", "nf_models:Net", "--shape", "x=1x3x8x8:float32:7"),
        ("inspect", "nf_models:Net", "--shape", "x=1x3x8x8:int64:0"),
        ("inspect", "nf_models:Net", "--shape", "x=1x3x8x8:int8:129"),
        ("fold", "nf_models:Net", *PICTURE, "-o", "out.pt2", "--dynamic", "x=batch"),
        ("export", "nf_models:Net", *PICTURE),
        ("export", "model.onnx", *PICTURE, "-o", "out.onnx"),
    ],
)
def test_command_lines_that_make_no_sense(ask: Ask, folder: Path, arguments: tuple[str, ...]) -> None:
    code, parsed = ask(*arguments)
    assert code == 2
    assert parsed["error"]["code"] in ("usage", "bad-module")
    assert not list(folder.glob("out.*"))


def test_options_for_modules_are_refused_for_files(ask: Ask, folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    onnx.save(nets.conv_bn(), tmp_path / "net.onnx")
    for extra in (("--weights", "w.pth"), ("--dynamic", "x:0=batch"), ("--shape", "x=1x3x8x8:int64")):
        code, parsed = ask("fold", tmp_path / "net.onnx", "-o", tmp_path / "out.onnx", *extra)
        assert (code, parsed["error"]["code"]) == (2, "usage")


def test_inputs_that_do_not_fit(ask: Ask, tmp_path: Path) -> None:
    for given in ("x=1x4x8x8", "x=1x3x8x8:int64"):
        code, parsed = ask("inspect", "nf_models:Net", "--shape", given)
        assert (code, parsed["error"]["code"]) == (2, "bad-input")
    np.savez(tmp_path / "feeds.npz", x=np.array(["no", "numbers"]))
    for given in (("--inputs", tmp_path / "feeds.npz"), ("--shape", f"x={10**9}x{10**9}")):
        code, parsed = ask("inspect", "nf_models:Net", *given)
        assert (code, parsed["error"]["code"]) == (2, "bad-input")
    code, parsed = ask("inspect", "nf_models:Words", "--shape", "ids=1x5:int64", "--shape", "masc=1x5")
    assert (code, "masc" in parsed["error"]["message"]) == (2, True)


def test_what_cannot_be_exported_says_why(ask: Ask, folder: Path) -> None:
    pytest.importorskip("onnxscript")
    for target in ("out.onnx", "out.pt2"):
        code, parsed = ask("fold", "nf_models:Branches", "--shape", "x=2x4", "-o", target)
        assert (code, parsed["error"]["code"]) == (2, "not-exportable")
        assert "torch.where" in parsed["error"]["hint"]
        assert not (folder / target).exists()


@pytest.mark.parametrize("verb", ["fold", "export"])
def test_the_weights_are_not_written_over(ask: Ask, tmp_path: Path, verb: str) -> None:
    torch.save(made().state_dict(), tmp_path / "net.pth")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "net.pth")
    before = (tmp_path / "net.pth").read_bytes()
    out = ("-o", tmp_path / "link.onnx")
    code, parsed = ask(verb, "nf_models:Net", *PICTURE, "--weights", tmp_path / "net.pth", *out)
    assert (code, parsed["error"]["code"]) == (2, "output-is-input")
    assert (tmp_path / "net.pth").read_bytes() == before


def test_a_folder_that_is_not_there(ask: Ask, tmp_path: Path) -> None:
    code, parsed = ask("fold", "nf_models:Net", *PICTURE, "-o", tmp_path / "no" / "net.safetensors")
    assert (code, parsed["error"]["code"]) == (2, "output-not-writable")


def test_restore_refuses_what_fold_did_not_write(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(made().state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.restore(made(), tmp_path / "plain.safetensors")
    assert caught.value.code == "bad-weights"
    normfold_file = tmp_path / "net.safetensors"
    assert run(["fold", "nf_models:Net", *PICTURE, "-o", str(normfold_file), "--quiet"]) == 0
    save_file(made().state_dict(), tmp_path / "odd.safetensors", {"normfold.taken_out": "{", "normfold.added": "[]"})
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.restore(made(), tmp_path / "odd.safetensors")
    assert caught.value.code == "bad-weights"
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.restore(nn.Sequential(nn.Linear(2, 2)), normfold_file)
    assert caught.value.code == "bad-weights"


def test_without_torch_the_way_to_get_it_is_said(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, parsed = ask("inspect", "nf_models:Net", *PICTURE)
    assert (code, parsed["error"]["code"]) == (3, "missing-package")
    assert "pip install 'normfold[torch]'" in parsed["error"]["hint"]
