"""Files that are no ONNX models are named, with the way to one."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from normfold.errors import ModelFileError
from normfold.models import onnxfile


def archive(*members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for member in members:
            file.writestr(member, "x")
    return buffer.getvalue()


def refused(path: Path) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        onnxfile.read(path)
    return caught.value


@pytest.mark.parametrize(
    ("name", "data", "kind", "way"),
    [
        ("a.pt2", archive("a/models/model.json"), "PyTorch program", "normfold.export"),
        ("a.pt", archive("a/data.pkl", "a/code/x.py"), "TorchScript", "normfold.export"),
        ("a.pth", archive("a/data.pkl", "a/data/0"), "PyTorch checkpoint", "--weights"),
        ("a.keras", archive("config.json", "model.weights.h5"), "Keras", "model.export"),
        ("a.zip", archive("model.onnx"), "archive", "Unpack"),
        ("old.pt", b"\x80\x02\x8a\nl\xfc", "pickle", "--weights"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5", "model.export"),
        ("a.tflite", b"\x1c\0\0\0TFL3" + bytes(20), "TensorFlow Lite", "tf2onnx.convert --tflite"),
        ("a.ort", b"\x1c\0\0\0ORTM" + bytes(20), "ONNX Runtime's own format", ".onnx"),
        ("a.safetensors", b"\x40" + bytes(7) + b'{"w":' + bytes(20), "safetensors", "--weights"),
        ("a.gguf", b"GGUF" + bytes(20), "GGUF", "quantised"),
        ("a.onnx", b"<!DOCTYPE html><html>", "web page", "download"),
        ("a.xml", b'<?xml version="1.0"?><net name="a">', "OpenVINO", ".onnx"),
        ("saved_model.pb", b"\xff\xff\xff", "SavedModel", "tf2onnx.convert --saved-model"),
        ("a.onnx", b"\xff\xff\xff", "cut short", "again"),
    ],
)
def test_what_the_file_is(tmp_path: Path, name: str, data: bytes, kind: str, way: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    error = refused(path)
    assert error.code == "not-onnx"
    assert (kind in error.message, way in error.hint) == (True, True), (error.message, error.hint)


def test_folders(tmp_path: Path) -> None:
    assert (refused(tmp_path).code, refused(tmp_path).hint) == ("not-a-file", "Name the .onnx file itself.")
    (tmp_path / "a.onnx").touch()
    assert refused(tmp_path).hint == "It holds a.onnx: name one of them."
    (tmp_path / "saved_model.pb").touch()
    assert "SavedModel" in refused(tmp_path).message


def test_a_misspelt_name(tmp_path: Path) -> None:
    (tmp_path / "resnet50.onnx").touch()
    error = refused(tmp_path / "resnet5.onnx")
    assert (error.code, error.hint) == ("file-not-found", f"Did you mean {tmp_path / 'resnet50.onnx'}?")
    assert refused(tmp_path / "zzz").hint == "Check the path."
    assert "cannot be read" in refused(tmp_path / "none" / "a.onnx").hint
