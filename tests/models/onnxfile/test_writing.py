"""Outputs are whole or absent, inputs stay as they are, and the bytes are the same every time."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from models.onnxfile.samples import WEIGHT
from normfold.errors import ModelFileError, NormfoldError, OutputError
from normfold.models.onnxfile import encoding, from_proto, read, stage, writing

External = Callable[..., Path]


@pytest.fixture
def source(tmp_path: Path, external: External) -> Path:
    """A model with its weight in a data file, in a folder of its own."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "w.data").write_bytes(WEIGHT.tobytes())
    return external(folder=folder)


def write(model: ir.Model, path: Path, **options: object) -> None:
    with stage(model, path, **options) as staged:
        staged.commit()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weight(path: Path) -> np.ndarray:
    return read(path).model.graph.initializers["w"].const_value.numpy()


def set_weight(model: ir.Model, tensor: ir.TensorProtocol) -> None:
    model.graph.initializers["w"].const_value = tensor


def test_inline_is_byte_for_byte_what_onnx_ir_serialises(tmp_path: Path, model: onnx.ModelProto) -> None:
    write(from_proto(model), tmp_path / "out.onnx")
    wanted = ir.to_proto(from_proto(model))
    del wanted.graph.value_info[:]  # the types of its initializers
    assert (tmp_path / "out.onnx").read_bytes() == wanted.SerializeToString(deterministic=True)
    assert names(tmp_path) == ["out.onnx"]


def test_external_pair(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.onnx"
    file = read(source)
    with stage(file.model, out, source=file) as staged:
        assert not out.exists()
        assert staged.file.name.startswith(".out.onnx.normfold-")
        assert staged.file.name.endswith(".tmp")
        assert staged.data_folder == tmp_path
        assert np.array_equal(weight(staged.file), WEIGHT)
        onnx.checker.check_model(str(staged.file))
        staged.commit()
        staged.commit()
    assert staged.data_file is not None
    assert names(tmp_path) == sorted(["out.onnx", staged.data_file.name, "source"])
    assert staged.data_file.read_bytes() == WEIGHT.tobytes()
    assert np.array_equal(weight(out), WEIGHT)
    assert names(source.parent) == ["model.onnx", "w.data"]


def test_two_runs_give_the_same_bytes(tmp_path: Path, source: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        write(read(source).model, tmp_path / run / "out.onnx")
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_model_is_unchanged(tmp_path: Path, source: Path) -> None:
    model = read(source).model
    tensor = model.graph.initializers["w"].const_value
    tensor.name = "another name"
    held = {name: value.const_value for name, value in model.graph.initializers.items()}
    write(model, tmp_path / "out.onnx", external="always")
    assert {name: value.const_value for name, value in model.graph.initializers.items()} == held
    assert tensor.name == "another name"
    assert tensor.location == "w.data"


def test_no_commit_leaves_nothing(tmp_path: Path, source: Path) -> None:
    model = read(source).model
    with stage(model, tmp_path / "out.onnx"):
        assert len(names(tmp_path)) == 4
        assert ".out.normfold-lock" in names(tmp_path)
    assert names(tmp_path) == ["source"]
    with pytest.raises(KeyboardInterrupt), stage(model, tmp_path / "out.onnx"):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["source"]


def test_no_commit_leaves_the_old_output(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.onnx"
    model = read(source).model
    write(model, out)
    before = {name: (tmp_path / name).stat() for name in names(tmp_path)}
    with stage(model, out):
        pass
    set_weight(model, ir.tensor(WEIGHT + 1))
    with stage(model, out, external="always"):
        assert len(names(tmp_path)) == len(before) + 3  # model, data and lock
    assert {name: (tmp_path / name).stat().st_ino for name in names(tmp_path)} == {
        name: status.st_ino for name, status in before.items()
    }
    assert np.array_equal(weight(out), WEIGHT)


def test_a_new_output_drops_the_old_data_file(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.onnx"
    model = read(source).model
    write(model, out)
    stranger = tmp_path / "out-0123456789abcdef.data"
    stranger.write_bytes(b"of no model")
    set_weight(model, ir.tensor(WEIGHT + 1))
    write(model, out, external="always")
    assert np.array_equal(weight(out), WEIGHT + 1)
    assert len(names(tmp_path)) == 4
    assert stranger.exists()


def test_an_input_keeps_its_data_when_its_copy_is_replaced(tmp_path: Path, source: Path) -> None:
    """Two models that share a data file: the one that was read stays whole."""
    first, second = tmp_path / "out.onnx", tmp_path / "copy.onnx"
    write(read(source).model, first)
    second.write_bytes(first.read_bytes())
    file = read(second)
    set_weight(file.model, ir.tensor(WEIGHT + 1))
    write(file.model, first, external="always", source=file)
    assert np.array_equal(weight(second), WEIGHT)
    assert np.array_equal(weight(first), WEIGHT + 1)


def test_a_file_of_the_same_name_with_other_bytes_is_left_alone(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.onnx"
    model = read(source).model
    with stage(model, out) as staged:
        assert staged.data_file is not None
        taken = staged.data_file
    taken.write_bytes(b"\1" * WEIGHT.nbytes)
    write(model, out)
    assert taken.read_bytes() == b"\1" * WEIGHT.nbytes
    assert np.array_equal(weight(out), WEIGHT)


@pytest.mark.parametrize(("external", "files"), [("auto", 1), ("never", 1), ("always", 2)])
def test_modes_for_an_inline_source(tmp_path: Path, model: onnx.ModelProto, external: str, files: int) -> None:
    write(from_proto(model), tmp_path / "out.onnx", external=external)
    assert len(names(tmp_path)) == files
    assert np.array_equal(weight(tmp_path / "out.onnx"), WEIGHT)


def test_never_brings_external_data_home(tmp_path: Path, source: Path) -> None:
    write(read(source).model, tmp_path / "out.onnx", external="never")
    out = read(tmp_path / "out.onnx")
    assert not out.external
    assert np.array_equal(weight(out.path), WEIGHT)


def test_auto_follows_the_source_file(tmp_path: Path, source: Path) -> None:
    """Even when every external tensor of it was replaced by a new one."""
    file = read(source)
    set_weight(file.model, ir.tensor(WEIGHT * 2))
    write(file.model, tmp_path / "out.onnx", source=file)
    assert read(tmp_path / "out.onnx").external


def test_too_large_for_one_file(tmp_path: Path, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_PROTO_BYTES", 1000)
    with pytest.raises(OutputError) as caught:
        write(from_proto(model), tmp_path / "out.onnx", external="never")
    assert caught.value.code == "too-large"
    monkeypatch.setattr(writing, "AUTO_LIMIT", 1000)
    write(from_proto(model), tmp_path / "out.onnx")
    assert read(tmp_path / "out.onnx").external


class Lazy(ir.LazyTensor):
    """Computed piece by piece; the whole is never asked for."""

    def __init__(self, pieces: list[np.ndarray], shape: tuple[int, ...], dtype: ir.DataType) -> None:
        super().__init__(self.refuse, dtype, ir.Shape(shape))
        self.pieces = pieces

    def refuse(self) -> ir.TensorProtocol:
        raise AssertionError("the whole tensor was asked for")

    def chunks(self) -> Iterator[np.ndarray]:
        buffer = np.empty_like(self.pieces[0])
        for piece in self.pieces:
            buffer[...] = piece
            yield buffer


def test_lazy_tensors_are_written_in_pieces(tmp_path: Path, model: onnx.ModelProto) -> None:
    """Also when each piece reuses the memory of the one before."""
    rows = np.arange(4 << 18, dtype=np.float32).reshape(4, -1).astype(ml_dtypes.bfloat16)
    ir_model = from_proto(model)
    lazy = Lazy(list(rows), rows.shape, ir.DataType.BFLOAT16)
    set_weight(ir_model, lazy)
    write(ir_model, tmp_path / "out.onnx", external="always")
    assert np.array_equal(weight(tmp_path / "out.onnx"), rows)


def test_a_lazy_tensor_of_the_wrong_length_is_our_bug(tmp_path: Path, model: onnx.ModelProto) -> None:
    ir_model = from_proto(model)
    set_weight(ir_model, Lazy([WEIGHT], (64, 64), ir.DataType.FLOAT))
    with pytest.raises(NormfoldError) as caught:
        write(ir_model, tmp_path / "out.onnx", external="always")
    assert caught.value.code == "internal"
    assert names(tmp_path) == []


def test_shared_bytes_are_written_once_and_aligned(tmp_path: Path, source: Path) -> None:
    proto = onnx.ModelProto.FromString(source.read_bytes())
    again = proto.graph.initializer.add()
    again.CopyFrom(proto.graph.initializer[0])
    again.name = "again"
    odd = numpy_helper.from_array(np.arange(1111, dtype=np.uint8), "odd")
    tail = numpy_helper.from_array(WEIGHT + 1, "tail")
    proto.graph.initializer.extend([odd, tail])
    source.write_bytes(proto.SerializeToString())
    write(read(source).model, tmp_path / "out.onnx")
    out = read(tmp_path / "out.onnx")
    tensors = {name: value.const_value for name, value in out.model.graph.initializers.items()}
    assert tensors["w"].offset == tensors["again"].offset
    assert all(tensor.offset % 64 == 0 for tensor in tensors.values())
    assert np.array_equal(tensors["odd"].numpy(), np.arange(1111, dtype=np.uint8))
    assert np.array_equal(tensors["tail"].numpy(), WEIGHT + 1)
    assert out.data_files[0].stat().st_size == 4096 + 1152 + 4096


def test_attributes_subgraphs_and_functions(tmp_path: Path, model: onnx.ModelProto) -> None:
    """Large constants move out wherever they are, small ones and strings stay, and the model runs."""
    ort = pytest.importorskip("onnxruntime")

    def constant(output: str, value: np.ndarray) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [output], value=numpy_helper.from_array(value, output))

    add = helper.make_node("Add", ["k", "y"], ["o"])
    body = helper.make_graph([constant("k", WEIGHT), add], "body", [], [helper.make_tensor_value_info("o", 1, None)])
    model.graph.input.append(helper.make_tensor_value_info("c", 9, []))
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body))
    model.graph.node.append(helper.make_node("F", ["z"], ["r"], domain="d"))
    opsets = [helper.make_opsetid("", 18)]
    function_add = helper.make_node("Add", ["a", "k"], ["r"])
    model.functions.append(
        helper.make_function("d", "F", ["a"], ["r"], [constant("k", WEIGHT * 3), function_add], opsets)
    )
    model.opset_import.append(helper.make_opsetid("d", 1))
    model.graph.output.append(helper.make_tensor_value_info("r", 1, None))
    model.graph.initializer.append(helper.make_tensor("s", onnx.TensorProto.STRING, [600], [b"long"] * 600))
    write(from_proto(model), tmp_path / "out.onnx", external="always")
    proto = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    by_name = {tensor.name: tensor.data_location for tensor in proto.graph.initializer}
    assert by_name == {"w": onnx.TensorProto.EXTERNAL, "s": onnx.TensorProto.DEFAULT}
    assert proto.graph.node[1].attribute[0].t.data_location == onnx.TensorProto.DEFAULT
    branch = proto.graph.node[3].attribute[0].g
    assert branch.node[0].attribute[0].t.data_location == onnx.TensorProto.EXTERNAL
    assert proto.functions[0].node[0].attribute[0].t.data_location == onnx.TensorProto.EXTERNAL
    feeds = {"x": np.ones((32, 32), np.float32), "c": np.array(True)}
    session = ort.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    before = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(["r"], feeds)[0], before.run(["r"], feeds)[0])


def test_sub_byte_tensors(tmp_path: Path, model: onnx.ModelProto) -> None:
    values = np.arange(4096) % 8
    model.graph.initializer.append(helper.make_tensor("q", onnx.TensorProto.INT4, [4096], values.tolist()))
    write(from_proto(model), tmp_path / "out.onnx", external="always")
    loaded = read(tmp_path / "out.onnx").model.graph.initializers["q"].const_value
    assert isinstance(loaded, ir.ExternalTensor)
    assert np.array_equal(loaded.numpy().astype(int), values)


def test_models_opened_by_onnx_ir_itself(tmp_path: Path, source: Path) -> None:
    write(ir.load(source), tmp_path / "out.onnx")
    assert np.array_equal(weight(tmp_path / "out.onnx"), WEIGHT)
    model = ir.load(source)
    (source.parent / "w.data").unlink()
    with pytest.raises(ModelFileError) as caught:
        write(model, tmp_path / "other.onnx")
    assert caught.value.code == "missing-external-data"


def test_permissions(tmp_path: Path, source: Path) -> None:
    model = read(source).model
    previous = os.umask(0o027)
    try:
        write(model, tmp_path / "out.onnx")
    finally:
        os.umask(previous)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in names(tmp_path) if name != "source"} == {0o640}
    (tmp_path / "out.onnx").chmod(0o604)
    set_weight(model, ir.tensor(WEIGHT + 1))
    write(model, tmp_path / "out.onnx", external="always")
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in names(tmp_path) if name != "source"} == {0o604}


def refused(model: ir.Model, path: Path, **options: object) -> str:
    with pytest.raises(OutputError) as caught:
        write(model, path, **options)
    assert caught.value.hint
    return caught.value.code


def test_output_is_input(tmp_path: Path, source: Path) -> None:
    file = read(source)
    symlink, hardlink, data_link = tmp_path / "sym.onnx", tmp_path / "hard.onnx", tmp_path / "data.onnx"
    symlink.symlink_to(source)
    hardlink.hardlink_to(source)
    data_link.symlink_to(source.parent / "w.data")
    dotted = source.parent / ".." / "source" / "model.onnx"
    before = {path: path.read_bytes() for path in source.parent.iterdir()}
    for path in (source, symlink, hardlink, dotted, source.parent / "w.data", data_link):
        assert refused(file.model, path, source=file) == "output-is-input"
    assert refused(file.model, source, source=source) == "output-is-input"
    assert refused(file.model, source, source=[source]) == "output-is-input"
    assert refused(file.model, source.parent / "w.data", source=file, in_place=True) == "output-is-input"
    assert {path: path.read_bytes() for path in source.parent.iterdir()} == before


def test_in_place(source: Path) -> None:
    file = read(source)
    set_weight(file.model, ir.tensor(WEIGHT + 1))
    write(file.model, source, source=file, in_place=True)
    assert np.array_equal(weight(source), WEIGHT + 1)
    again = read(source)
    set_weight(again.model, ir.tensor(WEIGHT + 2))
    write(again.model, source, source=again, in_place=True)
    assert np.array_equal(weight(source), WEIGHT + 2)
    assert len(names(source.parent)) == 3  # the model, its data file, and w.data, whose name is not ours


def test_in_place_replaces_a_link_and_keeps_what_it_led_to(tmp_path: Path, source: Path) -> None:
    link = tmp_path / "link.onnx"
    link.symlink_to(source)
    before = source.read_bytes()
    file = read(link)
    set_weight(file.model, ir.tensor(WEIGHT + 1))
    write(file.model, link, source=file, in_place=True)
    assert not link.is_symlink()
    assert np.array_equal(weight(link), WEIGHT + 1)
    assert source.read_bytes() == before


def test_places_that_cannot_be_written(tmp_path: Path, model: onnx.ModelProto) -> None:
    ir_model = from_proto(model)
    (tmp_path / "link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    bad = [
        tmp_path / "missing" / "out.onnx",
        tmp_path,
        tmp_path / "link",
        tmp_path / "pipe",
        Path(os.devnull),
        tmp_path / ("x" * 300),
        tmp_path / "a\0b",
        Path("/proc/out.onnx"),
    ]
    for path in bad:
        assert refused(ir_model, path) == "output-not-writable"
    assert names(tmp_path) == ["link", "pipe"]
    assert Path(os.devnull).is_char_device()


def test_folder_without_rights(tmp_path: Path, model: onnx.ModelProto) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert refused(from_proto(model), folder / "out.onnx") == "output-not-writable"


@pytest.mark.parametrize("external", ["always", "never"])
def test_full_disk(tmp_path: Path, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, external: str) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")
    write_bytes, written = os.write, 0

    def full(handle: int, data: bytes) -> int:
        nonlocal written
        if written >= 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write_bytes(handle, data[: 1000 - written])
        written += count
        return count

    monkeypatch.setattr(os, "write", full)
    assert refused(from_proto(model), out, external=external) == "output-not-writable"
    monkeypatch.undo()
    assert (names(tmp_path), out.read_bytes()) == (["out.onnx"], b"old")


@pytest.mark.parametrize("external", ["always", "never"])
def test_a_flush_that_fails(
    tmp_path: Path, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, external: str
) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    assert refused(from_proto(model), tmp_path / "out.onnx", external=external) == "output-not-writable"
    assert names(tmp_path) == []


def test_a_rename_that_fails(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(read(source).model, tmp_path / "out.onnx") as staged:
        (tmp_path / "out.onnx").mkdir()
        with pytest.raises(OutputError):
            staged.commit()
    assert names(tmp_path) == ["out.onnx", "source"]


def test_64_megabytes_there_and_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((1024, 1024)).astype(np.float32) for _ in range(16)]
    nodes = [helper.make_node("MatMul", [f"t{i}", f"w{i}"], [f"t{i + 1}"]) for i in range(16)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("t0", 1, [1, 1024])],
        [helper.make_tensor_value_info("t16", 1, [1, 1024])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    write(from_proto(proto), first, external="always")
    file = read(first)
    write(file.model, second, source=file)
    loaded = read(second).model.graph.initializers
    assert all(np.array_equal(loaded[f"w{i}"].const_value.numpy(), weight) for i, weight in enumerate(weights))
    assert read(second).data_files[0].read_bytes() == file.data_files[0].read_bytes()


WRITER = textwrap.dedent(
    """
    import itertools, sys
    import numpy as np, onnx_ir as ir
    from normfold.models.onnxfile import read, stage
    source, out = sys.argv[1:]
    model = read(source).model
    for turn in itertools.count():
        tensor = ir.tensor(np.full((1024, 1024), turn % 2, dtype=np.float32))
        model.graph.initializers["w"].const_value = tensor
        with stage(model, out, external="always" if turn % 3 else "never") as staged:
            staged.commit()
        print(turn, flush=True)
    """
)


@pytest.mark.slow
def test_a_kill_leaves_the_old_or_the_new(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "out.onnx"
    rng = np.random.default_rng(3)
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(source), str(out)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        values = np.unique(weight(out))
        assert values.tolist() in ([0.0], [1.0])
        strays = [name for name in names(folder) if not name.endswith(".data") and name != "out.onnx"]
        assert all(name.startswith(".out.onnx.normfold-") or name == ".out.normfold-lock" for name in strays)
        write(read(source).model, out)
        (data,) = (name for name in names(folder) if name != "out.onnx")
        assert np.array_equal(weight(out), WEIGHT)
        assert data.endswith(".data")


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path, source: Path) -> None:
    """Killed with a model staged, so that its data file is in place; what belongs to others stays."""
    out, other = tmp_path / "out.onnx", tmp_path / "out-0123456789abcdef.data"
    write(read(source).model, out)
    kept = names(tmp_path)
    other.write_bytes(b"another model's")
    (tmp_path / ".other.onnx.normfold-1-01234567.tmp").write_bytes(b"another target's")
    job = f"""
        import os, sys, numpy as np, onnx_ir as ir
        from normfold.models.onnxfile import read, stage
        model = read({str(source)!r}).model
        model.graph.initializers["w"].const_value = ir.tensor(np.full((32, 32), 7, np.float32))
        with stage(model, {str(out)!r}, external="always"):
            os.kill(os.getpid(), 9)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(job)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == len(kept) + 5  # two that belong to others, the model, its data, the lock
    with stage(read(source).model, out):
        pass
    assert names(tmp_path) == sorted([*kept, other.name, ".other.onnx.normfold-1-01234567.tmp"])
    assert np.array_equal(weight(out), WEIGHT)


def test_a_committed_models_data_is_no_leftover(tmp_path: Path, source: Path) -> None:
    """Killed right behind the rename: the list of what was under way is still there."""
    out = tmp_path / "out.onnx"
    with stage(read(source).model, out) as staged:
        listed = (tmp_path / ".out.normfold-lock").read_bytes()
        staged.commit()
    (tmp_path / ".out.normfold-lock").write_bytes(listed + b"../source/w.data\n\xff\n")
    with stage(read(source).model, out):
        pass
    assert np.array_equal(weight(out), WEIGHT)
    assert (source.parent / "w.data").exists()


def test_a_second_writer_waits(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.onnx"
    second = threading.Thread(target=write, args=(read(source).model, out))
    with stage(read(source).model, out) as staged:
        second.start()
        second.join(0.3)
        assert second.is_alive()
        staged.commit()
        assert not staged.file.exists()
    second.join(30)
    assert not second.is_alive()
    assert np.array_equal(weight(out), WEIGHT)
    assert not [name for name in names(tmp_path) if "normfold" in name]


def test_writers_of_one_output_each_leave_a_whole_model(tmp_path: Path, source: Path) -> None:
    """The two models share their data file's stem, and drop one another's."""
    out = tmp_path / "out" / "out.onnx"
    out.parent.mkdir()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(source), str(out)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for _ in range(6):
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline()
        with contextlib.suppress(ModelFileError):  # replaced between the model and its data
            assert np.unique(weight(out)).tolist() in ([0.0], [1.0])
    for writer in writers:
        writer.kill()
        writer.communicate()
    assert np.unique(weight(out)).tolist() in ([0.0], [1.0])
    write(read(source).model, out)
    assert len(names(out.parent)) == 2


def test_the_longest_name(tmp_path: Path, source: Path) -> None:
    """255 bytes in 85 characters."""
    out = tmp_path / f"{'語' * 75}a.onnx"
    write(read(source).model, out, external="never")
    assert np.array_equal(weight(out), WEIGHT)


def test_too_large_with_what_is_no_tensor(
    tmp_path: Path, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "MAX_PROTO_BYTES", 100)
    with pytest.raises(OutputError) as caught:
        write(from_proto(model), tmp_path / "out.onnx", external="never")
    assert caught.value.code == "too-large"
    assert not list(tmp_path.glob("*out.onnx*"))
