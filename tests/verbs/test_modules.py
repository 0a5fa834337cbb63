"""The verbs on PyTorch modules: compared, saved, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

import normfold

torch = pytest.importorskip("torch", reason="torch is an extra")
nn = torch.nn


@pytest.fixture
def net() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2.0)
    return module


PICTURE = torch.randn(2, 3, 8, 8)


def test_modules_are_compared(net: nn.Module) -> None:
    folded = normfold.fold(net, PICTURE).model
    assert normfold.verify(net, folded, example_inputs=PICTURE).verification.status == "equivalent"
    with torch.no_grad():
        folded[0].weight.mul_(1.1)
    assert normfold.verify(net, folded, example_inputs=PICTURE).verification.status == "different"


def test_a_module_is_compared_with_its_export(net: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is an extra")
    path = tmp_path / "net.onnx"
    exported = normfold.export(net, (PICTURE,), output=path)
    assert normfold.verify(net, path, example_inputs=PICTURE).verification.status == "equivalent"
    assert normfold.verify(path, net, example_inputs=PICTURE).verification.status == "equivalent"
    with torch.no_grad():
        net[0].weight.mul_(1.1)
    result = normfold.verify(exported.model, net, example_inputs=PICTURE)
    assert result.verification.status == "different"


def test_what_does_not_go_with_modules(net: nn.Module) -> None:
    for options in ({"shapes": {"input": (1, 3, 8, 8)}}, {"inputs": {"input": PICTURE.numpy()}}):
        with pytest.raises(normfold.NormfoldError) as error:
            normfold.verify(net, net, example_inputs=PICTURE, **options)
        assert error.value.code == "usage"
    with pytest.raises(normfold.NormfoldError, match="needs example inputs"):
        normfold.verify(net, net)


def test_the_state_of_a_module_is_written(net: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is an extra")
    from normfold.models.module.save import read_state

    target = tmp_path / "folded.safetensors"
    result = normfold.fold(net, PICTURE, output=target)
    assert result.document()["output"] == str(target)
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    torch.testing.assert_close(normfold.restore(bare, target)(PICTURE), result.model(PICTURE))
    in_place = normfold.fold(net, PICTURE, in_place=True)
    in_place.save(tmp_path / "again.safetensors")
    (metadata, state), (same, again) = map(read_state, (target, tmp_path / "again.safetensors"))
    assert metadata == same
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())


@pytest.mark.parametrize("name", ["folded.onnx", "folded.pt2", "folded"])
def test_other_files_name_the_verb_that_writes_them(net: nn.Module, tmp_path: Path, name: str) -> None:
    with pytest.raises(normfold.NormfoldError) as error:
        normfold.fold(net, PICTURE, output=tmp_path / name)
    assert error.value.code == "usage"
    assert "normfold.export" in error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_program_is_written(net: nn.Module, tmp_path: Path) -> None:
    result = normfold.fold_program(net, PICTURE, output=tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(loaded(PICTURE), result.model(PICTURE))
