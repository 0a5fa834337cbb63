"""Files that are not models, data files that are out of bounds, and noise."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import helper, numpy_helper

from models.onnxfile.samples import WEIGHT, externalise, small_model
from normfold.errors import ModelFileError, NormfoldError
from normfold.models.onnxfile import read, reading

External = Callable[..., Path]


def refusal(path: Path) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        read(path)
    assert str(path) in caught.value.message
    return caught.value


def weight(path: Path) -> np.ndarray:
    tensor = read(path).model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


def test_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = small_model().SerializeToString()
    path.write_bytes(data)
    file = read(path)
    assert (file.path, file.file, file.data_folder) == (path, path.resolve(), tmp_path)
    assert (file.sha256, file.nbytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (file.external, file.data_files) == (False, ())
    assert onnx_ir.to_proto(file.model).graph.node == small_model().graph.node


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "empty-file", "empty"),
        (b"hello, I am a text file\n" * 20, "not-onnx", "text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not-onnx", "Git LFS pointer"),
        (np.random.default_rng(0).bytes(5000), "not-onnx", "cut short"),
        (small_model().SerializeToString()[:-500], "not-onnx", "cut short"),
        (b"\x08\x09", "bad-structure", "no graph"),
    ],
)
def test_not_a_model(tmp_path: Path, content: bytes, code: str, words: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    error = refusal(path)
    assert (error.code, words in error.message) == (code, True)


def test_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "model.onnx").code == "file-not-found"
    assert refusal(tmp_path / "file" / "model.onnx").code == "file-not-found"
    assert refusal(tmp_path / ("x" * 300)).code == "file-not-found"
    assert refusal(tmp_path / "a\0b").code == "file-not-found"
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "loop").code == "file-not-found"


def test_directory_pipe_and_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path(os.devnull)):
        assert refusal(path).code == "not-a-file"


def test_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(reading.MAX_PROTO_BYTES + 1)
    assert refusal(path).code == "too-large"


def test_nesting_beyond_protobufs_limit(tmp_path: Path) -> None:
    def field(number: int, body: bytes) -> bytes:
        size, varint = len(body), b""
        while size >= 128:
            varint, size = varint + bytes([size % 128 + 128]), size // 128
        return bytes([number * 8 + 2]) + varint + bytes([size]) + body

    graph = b""
    for _ in range(2000):
        graph = field(1, field(5, field(6, graph)))  # graph: node { attribute { g } }
    path = tmp_path / "model.onnx"
    path.write_bytes(field(7, graph))
    assert refusal(path).code == "not-onnx"


def test_external_data_is_mapped(tmp_path: Path, external: External) -> None:
    (tmp_path / "w.data").write_bytes(bytes(64) + WEIGHT.tobytes())
    path = external(offset=64)
    file = read(path)
    assert file.external
    assert file.data_files == (tmp_path.resolve() / "w.data",)
    assert file.nbytes == path.stat().st_size + 64 + WEIGHT.nbytes
    tensor = file.model.graph.initializers["w"].const_value
    assert isinstance(tensor, onnx_ir.ExternalTensor)
    assert np.array_equal(tensor.numpy(), WEIGHT)
    assert not tensor.numpy().flags.writeable
    assert tensor.tobytes() == WEIGHT.tobytes()
    assert np.array_equal(np.asarray(tensor), WEIGHT)
    tensor.release()
    assert np.array_equal(tensor.numpy(), WEIGHT)


def test_many_external_tensors_need_one_handle(tmp_path: Path) -> None:
    count = 3000
    values = np.arange(count * 2, dtype=np.float32)
    (tmp_path / "w.data").write_bytes(values.tobytes())
    proto = small_model()
    for i in range(count):
        tensor = numpy_helper.from_array(values[2 * i : 2 * i + 2], f"t{i}")
        externalise(tensor, "w.data", offset=8 * i)
        proto.graph.initializer.append(tensor)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    file = read(path)
    arrays = [file.model.graph.initializers[f"t{i}"].const_value.numpy() for i in range(count)]
    assert np.array_equal(np.concatenate(arrays), values)
    assert len(list(Path("/proc/self/fd").iterdir())) < 500


@pytest.mark.parametrize("kind", [onnx.TensorProto.INT4, onnx.TensorProto.BFLOAT16, onnx.TensorProto.UINT2])
def test_external_types_without_a_numpy_form(tmp_path: Path, kind: int) -> None:
    tensor = helper.make_tensor("t", kind, [5], [1, 0, 1, 1, 0])
    if not tensor.HasField("raw_data"):
        tensor.raw_data = onnx_ir.serde.TensorProtoTensor(tensor).tobytes()
        tensor.ClearField("int32_data")
    (tmp_path / "w.data").write_bytes(b"pad" + tensor.raw_data)
    externalise(tensor, "w.data", offset=3)
    proto = small_model()
    proto.graph.initializer.append(tensor)
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    loaded = read(path).model.graph.initializers["t"].const_value
    assert np.array_equal(loaded.numpy().astype(np.float32), [1, 0, 1, 1, 0])


def test_external_data_everywhere(tmp_path: Path) -> None:
    """In attributes, in subgraphs and in functions."""
    (tmp_path / "w.data").write_bytes(WEIGHT[0].tobytes())

    def constant(output: str) -> onnx.NodeProto:
        node = helper.make_node("Constant", [], [output], value=numpy_helper.from_array(WEIGHT[0], output))
        externalise(node.attribute[0].t, "w.data")
        return node

    inner = numpy_helper.from_array(WEIGHT[0], "i")
    externalise(inner, "w.data")
    body = helper.make_graph(
        [constant("k"), helper.make_node("Add", ["k", "i"], ["o"])],
        "body",
        [],
        [helper.make_tensor_value_info("o", 1, None)],
        [inner],
    )
    proto = small_model()
    proto.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body))
    proto.graph.input.append(helper.make_tensor_value_info("c", 9, []))
    opsets = [helper.make_opsetid("", 18)]
    add = helper.make_node("Add", ["a", "k"], ["r"])
    proto.functions.append(helper.make_function("d", "F", ["a"], ["r"], [constant("k"), add], opsets))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    model = read(path).model
    branch = next(node for node in model.graph if node.op_type == "If").attributes["then_branch"].as_graph()
    function = next(iter(model.functions.values()))
    tensors = [
        branch.initializers["i"].const_value,
        branch[0].attributes["value"].as_tensor(),
        function[0].attributes["value"].as_tensor(),
    ]
    assert all(np.array_equal(tensor.numpy(), WEIGHT[0]) for tensor in tensors)


def test_missing_or_short_data(tmp_path: Path, external: External) -> None:
    assert refusal(external()).code == "missing-external-data"
    (tmp_path / "w.data").write_bytes(WEIGHT.tobytes()[:-1])
    assert refusal(external()).code == "missing-external-data"
    (tmp_path / "w.data").write_bytes(WEIGHT.tobytes())
    assert np.array_equal(weight(external()), WEIGHT)
    assert refusal(external(offset=1)).code == "missing-external-data"
    (tmp_path / "w.data").unlink()
    (tmp_path / "w.data").symlink_to("nowhere")
    assert refusal(external()).code == "missing-external-data"


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ({"length": 5}, "bad-tensor"),
        ({"offset": -1}, "bad-tensor"),
        ({"offset": 2**70}, "bad-tensor"),
        ({"mode": "0777"}, "unsafe-external-data"),
    ],
)
def test_bad_entries(tmp_path: Path, external: External, entries: dict[str, int | str], code: str) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHT.tobytes())
    assert np.array_equal(weight(external(checksum="0", basepath="/etc")), WEIGHT)
    assert refusal(external(**entries)).code == code


def test_repeated_entry(tmp_path: Path, external: External) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHT.tobytes())
    path = external()
    proto = onnx.ModelProto.FromString(path.read_bytes())
    proto.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(proto.SerializeToString())
    assert refusal(path).code == "unsafe-external-data"


@pytest.mark.parametrize(
    "location", ["", "/etc/passwd", "../w.data", "sub/../../w.data", "..\\w.data", "C:\\w.data", "."]
)
def test_names_that_lead_out(tmp_path: Path, external: External, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.data").write_bytes(WEIGHT.tobytes())
    assert refusal(external(location, folder)).code == "unsafe-external-data"


def test_absolute_path_into_the_folder_is_refused_too(tmp_path: Path, external: External) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHT.tobytes())
    assert refusal(external(str(tmp_path / "w.data"))).code == "unsafe-external-data"


def test_links(tmp_path: Path, external: External) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_bytes(WEIGHT.tobytes())
    data = folder / "w.data"
    path = external(folder=folder)

    data.symlink_to(secret)
    assert refusal(path).code == "unsafe-external-data"
    data.unlink()
    data.hardlink_to(secret)
    assert refusal(path).code == "unsafe-external-data"
    data.unlink()
    os.mkfifo(data)
    assert refusal(path).code == "unsafe-external-data"
    data.unlink()
    (folder / "sub" / "real").write_bytes(WEIGHT.tobytes())
    data.symlink_to("sub/real")
    assert np.array_equal(weight(path), WEIGHT)
    data.unlink()
    data.hardlink_to(folder / "sub" / "real")
    assert np.array_equal(weight(path), WEIGHT)
    (folder / "out").symlink_to(tmp_path)
    assert refusal(external("out/secret", folder)).code == "unsafe-external-data"


def test_cache_of_hugging_face(tmp_path: Path, external: External) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "hash2").write_bytes(WEIGHT.tobytes())
    external("model.onnx_data", blobs).rename(blobs / "hash1")
    path = snapshot / "model.onnx"
    path.symlink_to("../../blobs/hash1")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/hash2")
    file = read(path)
    assert np.array_equal(weight(path), WEIGHT)
    assert (file.file, file.data_folder) == (blobs / "hash1", snapshot)
    assert file.data_files == (blobs / "hash2",)

    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    (snapshot / "model.onnx_data").unlink()
    (snapshot / "model.onnx_data").symlink_to("../../secret")
    assert refusal(path).code == "unsafe-external-data"


def test_a_link_to_a_model_elsewhere(tmp_path: Path, external: External) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "w.data").write_bytes(WEIGHT.tobytes())
    link = tmp_path / "link.onnx"
    link.symlink_to(external(folder=folder))
    assert np.array_equal(weight(link), WEIGHT)
    assert read(link).data_folder == folder


def test_relative_path(tmp_path: Path, external: External, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHT.tobytes())
    external()
    monkeypatch.chdir(tmp_path)
    file = read("model.onnx")
    monkeypatch.chdir("/")
    tensor = file.model.graph.initializers["w"].const_value
    assert np.array_equal(tensor.numpy(), WEIGHT)


def test_noise_never_escapes_as_another_error(tmp_path: Path) -> None:
    """Truncations and flipped bytes give a model or a coded error."""
    proto = small_model()
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["o"])], "body", [], [helper.make_tensor_value_info("o", 1, ["n", 32])]
    )
    proto.graph.input.append(helper.make_tensor_value_info("c", 9, []))
    proto.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body))
    proto.graph.value_info.append(helper.make_tensor_value_info("h", 1, ["n", 32]))
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHT[:2, :2].copy(), "w"))
    data = proto.SerializeToString()
    path = tmp_path / "model.onnx"
    dice = np.random.default_rng(7)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(600):
        noisy = bytearray(data)
        for _ in range(dice.choice((0, 1, 1, 3))):
            noisy[dice.integers(len(noisy))] = dice.integers(256)
        path.write_bytes(noisy[: dice.integers(1, len(noisy))] if dice.random() < 0.3 else noisy)
        try:
            read(path)
        except NormfoldError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert min(outcomes.values()) > 50


def test_errors_are_printable_without_a_traceback_of_onnx(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = small_model()
    proto.graph.value_info.append(helper.make_tensor_value_info("h", 1, [1]))
    proto.graph.value_info[0].type.tensor_type.elem_type = 77
    path.write_bytes(proto.SerializeToString())
    error = refusal(path)
    assert error.code == "bad-structure"
    assert "\n" not in error.message


def test_the_room_brings_no_runtime(tmp_path: Path) -> None:
    code = "import sys, normfold.models.onnxfile; print('onnxruntime' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
