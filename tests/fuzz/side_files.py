"""Hostile files that are no models: what stands in a model's place, and what verbs read beside a model.

`CASES` writes each into a folder that has a small valid ``m.onnx`` and says which commands meet it.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from folding import array, model, norm, statistics
from fuzz.hostile import Command

Write = Callable[[Path], object]

JSON = ("--json",)
OUT = ("-o", "out/o.onnx")
SHORT = ("--time-limit", "5s", "--processes", "2")
"""Of verbs that measure."""


def good() -> onnx.ModelProto:
    """A convolution and its norm."""
    held = {"w": array(3, 3, 1, 1), **statistics(3)}
    return model("float[1, 3, 4, 4] x", ["c = Conv(x, w)", norm("c", "y")], held)


def in_place_of_a_model(name: str) -> tuple[Command, ...]:
    """Every verb on the file called ``name``."""
    return (
        ("inspect", name, *JSON),
        ("fold", name, *OUT, "--no-verify", *JSON),
        ("fold", name, *OUT, *JSON),
        ("convert", name, "--to", "rms", *OUT, *JSON),
        ("verify", "m.onnx", name, *JSON),
        ("bench", name, "m.onnx", *SHORT, *JSON),
        ("tune", name, "-o", "out/s.json", *SHORT[:2], *JSON),
        ("compare", name, "m.onnx", *SHORT, *JSON),
        ("export", name, *OUT, *JSON),
    )


def beside_a_model(name: str) -> tuple[Command, ...]:
    """Every option that reads a file, with the one called ``name``."""
    return (
        ("verify", "m.onnx", "m.onnx", "--inputs", name, *JSON),
        ("fold", "m.onnx", *OUT, "--inputs", name, *JSON),
        ("bench", "m.onnx", "--inputs", name, *SHORT, *JSON),
        ("bench", "m.onnx", "--session", name, *SHORT, *JSON),
        ("compare", name, name, *JSON),
        ("fold", "m.onnx", *OUT, "--custom-ops", name, *JSON),
    )


def _npz(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)


def _member(path: Path, name: str, data: bytes, compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, data)


def _header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _bomb(path: Path) -> None:
    """A few megabytes that claim, and deflate to, 8 GiB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as out,
    ):
        out.write(_header((2, 1024, 1024, 1024)))
        chunk = bytes(1 << 26)
        for _ in range(64):
            out.write(chunk)


def _encrypted(path: Path) -> None:
    _npz(path, x=np.zeros((1, 3, 4, 4), np.float32))
    data = bytearray(path.read_bytes())
    data[6] |= 1
    at = data.rfind(b"PK\x01\x02")
    data[at + 8] |= 1
    path.write_bytes(data)


def _overlapping(path: Path) -> None:
    """A thousand entries of the directory that all name one member."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _header((1 << 20,)) + bytes(4 << 20))
        (info,) = archive.infolist()
        archive.filelist += [info] * 1000
        archive._didModify = True
    path.write_bytes(stream.getvalue())


def _pickled(path: Path) -> None:
    np.savez(path, x=np.array([{}], dtype=object))


SIDE: dict[str, Write] = {
    "bomb.npz": _bomb,
    "claims.npz": lambda p: _member(p, "x.npy", _header((1 << 40,))),
    "negative.npz": lambda p: _member(p, "x.npy", _header((-1, 3))),
    "overflow.npz": lambda p: _member(p, "x.npy", _header((1 << 62, 1 << 62))),
    "object.npz": _pickled,
    "object header.npz": lambda p: _member(p, "x.npy", _header((1,), "|O") + b"\x80\x04N."),
    "structured.npz": lambda p: _npz(p, x=np.zeros((1, 3, 4, 4), [("a", "f4")])),
    "datetime.npz": lambda p: _npz(p, x=np.zeros((1, 3, 4, 4), "datetime64[s]")),
    "text.npz": lambda p: _npz(p, x=np.full((1, 3, 4, 4), "a")),
    "complex.npz": lambda p: _npz(p, x=np.zeros((1, 3, 4, 4), complex)),
    "nan.npz": lambda p: _npz(p, x=np.full((1, 3, 4, 4), np.nan, np.float32)),
    "empty.npz": _npz,
    "no bytes.npz": lambda p: p.write_bytes(b""),
    "cut.npz": lambda p: (_npz(p, x=np.zeros((1, 3, 4, 4), np.float32)), p.write_bytes(p.read_bytes()[:-40])),
    "encrypted.npz": _encrypted,
    "overlapping.npz": _overlapping,
    "bzip2.npz": lambda p: _member(p, "x.npy", _header((2,)) + bytes(8), zipfile.ZIP_BZIP2),
    "lzma.npz": lambda p: _member(p, "x.npy", _header((2,)) + bytes(8), zipfile.ZIP_LZMA),
    "method 99.npz": lambda p: (
        _member(p, "x.npy", _header((2,)) + bytes(8)),
        p.write_bytes(p.read_bytes().replace(b"\x08\x00", b"\x63\x00")),
    ),
    "not an array.npz": lambda p: _member(p, "x.npy", b"hello"),
    "odd header.npz": lambda p: _member(p, "x.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"__import__('os')"),
    "deep header.npz": lambda p: _member(p, "x.npy", b"\x93NUMPY\x02\x00\x40\x0d\x03\x00" + b"(" * 200_000),
    "up.npz": lambda p: _member(p, "../x.npy", _header((2,)) + bytes(8)),
    "one.npz": lambda p: np.save(p.open("wb"), np.zeros(3)),
    "pickle.npz": lambda p: p.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    "deep.json": lambda p: p.write_text("[" * 200_000),
    "deep objects.json": lambda p: p.write_text('{"a":' * 100_000 + "1" + "}" * 100_000),
    "big number.json": lambda p: p.write_text("9" * 10_000),
    "infinity.json": lambda p: p.write_text('{"schema": "normfold.session/1", "intra_threads": 1e999}'),
    "surrogate.json": lambda p: p.write_text('{"schema": "\\ud800"}'),
    "not utf-8.json": lambda p: p.write_bytes(b'{"schema": "\xff"}'),
    "utf-16.json": lambda p: p.write_bytes('{"schema": 1}'.encode("utf-16")),
    "repeated.json": lambda p: p.write_text('{"schema": 1, "schema": "normfold.session/1", "a\\nb": 1}'),
    "list.json": lambda p: p.write_text("[]"),
    "null.json": lambda p: p.write_text("null"),
    "zeros.bin": lambda p: p.write_bytes(bytes(5000)),
    "sparse.bin": lambda p: (p.touch(), os.truncate(p, 1 << 40)),
    "pipe": os.mkfifo,
    "zero": lambda p: p.symlink_to("/dev/zero"),
    "stdin": lambda p: p.symlink_to("/dev/stdin"),
    "loop": lambda p: p.symlink_to(p.name),
    "dangling": lambda p: p.symlink_to("nowhere"),
    "proc": lambda p: p.symlink_to("/proc/self/mem"),
    "folder": Path.mkdir,
    "a\nname": lambda p: p.write_text("x"),
}
"""Files by name, each with what writes it."""

SESSIONS: dict[str, dict[str, object]] = {
    "unknown field": {"nope": 1},
    "unknown option": {"options": {"profile_file_prefix": "out/prefix"}},
    "a file to write": {
        "config": {"session.save_model_format": "ORT"},
        "options": {"optimized_model_filepath": "out/x"},
    },
    "unknown entry": {"config": {"a\nb": "1"}},
    "long entry": {"config": {"session.intra_op_thread_affinities": "1" * 5000}},
    "external data out": {"config": {"session.optimized_model_external_initializers_file_name": "out/x"}},
    "context file": {"config": {"ep.context_enable": "1", "ep.context_file_path": "out/x.onnx"}},
    "profiling": {"config": {"session.enable_profiling": "1"}},
    "many threads": {"intra_threads": 2**31},
    "negative threads": {"intra_threads": -1},
    "a list for an object": {"config": []},
    "an object for a text": {"config": {"session.intra_op.allow_spinning": {}}},
    "a text for a list": {"disabled_optimizers": "abc"},
    "a list of lists": {"disabled_optimizers": [[1]]},
    "a provider that is no text": {"provider": {}},
    "a provider that is a list": {"provider": []},
    "options of a provider": {"provider_options": {"x": "y"}},
}
"""Session profiles, without their schema."""

FIGURES: tuple[object, ...] = (
    {"schema": "normfold.bench/1"},
    {"schema": "normfold.bench/1", "environment": {}, "models": [], "cells": []},
    {"schema": "normfold.bench/1", "environment": [], "models": {}, "cells": 1},
    {"schema": {"a": 1}},
    {"schema": "normfold.bench/1\n" * 1000},
)

MODELS: dict[str, Callable[[onnx.TensorProto], object]] = {
    "pipe": lambda t: _located(t, "pipe"),
    "a device": lambda t: _located(t, "zero"),
    "itself": lambda t: _located(t, "x.onnx"),
    "a folder": lambda t: _located(t, "folder"),
    "beyond the end": lambda t: _located(t, "zeros.bin", offset="4990"),
    "a huge offset": lambda t: _located(t, "zeros.bin", offset="9" * 18),
    "a sparse file": lambda t: _located(t, "sparse.bin", offset=str(1 << 39)),
    "a loop": lambda t: _located(t, "loop"),
    "up": lambda t: _located(t, "../../etc/passwd"),
    "outside": lambda t: _located(t, "stdin"),
}
"""Where a weight's data may be said to lie."""


def _located(tensor: onnx.TensorProto, location: str, **entries: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)


def side_cases() -> Iterator[tuple[str, Write, tuple[Command, ...]]]:
    """A name, what writes the case's files into an empty folder, and the commands."""
    for name, write in SIDE.items():
        yield (
            name,
            _beside_good(lambda folder, n=name, w=write: w(folder / n)),
            (
                *beside_a_model(name),
                *in_place_of_a_model(name),
            ),
        )
    for name, fields in SESSIONS.items():
        document = {"schema": "normfold.session/1", **fields}
        commands = (("bench", "m.onnx", "--session", "s.json", *SHORT, *JSON),)
        yield f"session: {name}", _beside_good(lambda f, d=document: _dump(f / "s.json", d)), commands
    for position, figures in enumerate(FIGURES):
        write = _beside_good(lambda folder, d=figures: _dump(folder / "f.json", d))
        yield f"figures {position}", write, (("compare", "f.json", "f.json", *JSON),)
    for name, point in MODELS.items():
        yield (
            f"data in {name}",
            _beside_good(lambda folder, p=point: _external(folder, p)),
            in_place_of_a_model("x.onnx"),
        )


def _beside_good(write: Write) -> Write:
    def both(folder: Path) -> None:
        onnx.save(good(), folder / "m.onnx")
        write(folder)

    return both


def _dump(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))


def _external(folder: Path, point: Callable[[onnx.TensorProto], object]) -> None:
    for name in ("pipe", "zero", "folder", "zeros.bin", "sparse.bin", "loop", "stdin"):
        SIDE[name](folder / name)
    proto = good()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(array(3, 3, 1, 1), "w"))
    point(proto.graph.initializer[0])
    (folder / "x.onnx").write_bytes(proto.SerializeToString())
