"""What a file is that is no ONNX model, and the way from there to one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

PROGRAM: Final = "Export its module: normfold.export(torch.export.load('{path}').module(), inputs, output=...)."
SCRIPT: Final = "Export the module that it was made from: normfold.export(module, inputs, output=...)."
WEIGHTS_ONLY: Final = "It holds weights, not a network: pass package.module:factory as MODEL and this as --weights."
TENSORFLOW: Final = "Convert it with tf2onnx: python -m tf2onnx.convert --{option} {path} --output model.onnx."
KERAS: Final = "Load it in Keras 3, then model.export('model.onnx', format='onnx')."
AGAIN: Final = "Export or download it again."
NEAR: Final = 0.6
"""How alike the names of two files are from which one may be meant for the other."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file, and what to do with it; ``{path}`` in ``way`` is its name."""

    name: str
    way: str
    fits: Callable[[bytes], bool]


def _zipped(*members: bytes) -> Callable[[bytes], bool]:
    """Whether a file is a ZIP archive that names all ``members``; it is not opened, being somebody else's."""
    return lambda data: data.startswith(b"PK") and all(member in data for member in members)


def _begins(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.startswith(marks)


def _marked(mark: bytes) -> Callable[[bytes], bool]:
    """Whether a FlatBuffers file has the identifier ``mark``."""
    return lambda data: data[4:8] == mark


KINDS: Final = (
    Kind("a Git LFS pointer", "Run 'git lfs pull'.", _begins(b"version https://git-lfs")),
    Kind("a web page", "The download led to a page instead of the file.", _begins(b"<!DOCTYPE html", b"<html")),
    Kind("a PyTorch program (.pt2)", PROGRAM, _zipped(b"exported_program")),
    Kind("a PyTorch program (.pt2)", PROGRAM, _zipped(b"models/model.json")),
    Kind("a TorchScript module", SCRIPT, _zipped(b"/data.pkl", b"/code/")),
    Kind("a PyTorch checkpoint", WEIGHTS_ONLY, _zipped(b"/data.pkl")),
    Kind("a Keras model", KERAS, _zipped(b"model.weights.h5")),
    Kind("an archive", "Unpack it, and name the .onnx file in it.", _begins(b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf")),
    Kind(
        "a pickle, such as an old PyTorch checkpoint",
        WEIGHTS_ONLY,
        _begins(*(b"\x80" + bytes([k]) for k in range(2, 6))),
    ),
    Kind("an HDF5 file, such as a Keras model", KERAS, _begins(b"\x89HDF\r\n\x1a\n")),
    Kind("a TensorFlow Lite model", TENSORFLOW.replace("{option}", "tflite"), _marked(b"TFL3")),
    Kind("a model in ONNX Runtime's own format", "Take the .onnx file that it was made from.", _marked(b"ORTM")),
    Kind("a safetensors file", WEIGHTS_ONLY, lambda data: data[8:10] == b'{"'),
    Kind("a GGUF file", "Take the model that it was quantised from.", _begins(b"GGUF")),
    Kind("a TensorRT engine", "Take the .onnx file that it was built from.", _begins(b"ftrt", b"ptrt")),
    Kind("an OpenVINO model", "Take the .onnx file that it was converted from.", lambda data: b"<net" in data[:4096]),
)
"""In the order in which they are tried: the first that fits is named."""
SAVED_MODEL: Final = TENSORFLOW.replace("{option}", "saved-model")


def kind_of(data: bytes, path: Path) -> tuple[str, str]:
    """What the file ``path`` that holds ``data`` is, and what to do about it."""
    for kind in KINDS:
        if kind.fits(data):
            return f"it is {kind.name}", kind.way.replace("{path}", str(path))
    if path.name == "saved_model.pb":
        return "it is part of a TensorFlow SavedModel", SAVED_MODEL.replace("{path}", str(path.parent))
    head = data[:1024]
    if head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "it is a text file", AGAIN
    return "it cannot be parsed, or was cut short", AGAIN


def folder_kind(path: Path) -> tuple[str, str]:
    """What the folder or special file ``path`` is, and what to do about it."""
    if (path / "saved_model.pb").exists():
        return "a TensorFlow SavedModel", SAVED_MODEL.replace("{path}", str(path))
    inside = sorted(file.name for file in path.glob("*.onnx"))[:3] if path.is_dir() else []
    way = f"It holds {', '.join(inside)}: name one of them." if inside else "Name the .onnx file itself."
    return "a directory or a special file", way


def near_miss(path: Path) -> str:
    """What may have been meant by the name of a file that does not exist."""
    try:
        beside = [file.name for file in path.parent.iterdir()]
    except OSError:
        return f"The folder {path.parent} cannot be read."
    near = get_close_matches(path.name, beside, n=1, cutoff=NEAR)
    return f"Did you mean {path.parent / near[0]}?" if near else "Check the path."
