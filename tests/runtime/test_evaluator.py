"""The evaluation process: what it computes, and that nothing that befalls it gets through to the caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.runtime import Evaluator, Failed, Loaded, Ran, Runnable, memory
from normfold.runtime.workers import arrays as arrays_on_disk


def save(tmp_path, nodes, inputs, outputs, initializers=(), opset=22, name="model.onnx", domains=()):
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, key) for key, array in dict(initializers).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    file = tmp_path / name
    file.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return Runnable(file, tmp_path)


@pytest.fixture
def evaluator():
    with Evaluator(time_limit=60, threads=1) as held:
        yield held


def ask(evaluator, task):
    return evaluator.submit(task).result(timeout=90)


@pytest.fixture
def doubling(tmp_path):
    """y = 2 x + x, with an inner value."""
    return save(
        tmp_path,
        [("Add", ["x", "x"], ["inner"]), ("Add", ["inner", "x"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", 3])],
        [("y", TensorProto.FLOAT, ["N", 3])],
    )


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_runs_a_model(evaluator, doubling):
    loaded = ask(evaluator, lambda client: client.load(doubling))
    assert isinstance(loaded, Loaded)
    assert loaded.evaluator.startswith("onnxruntime")
    ran = ask(evaluator, lambda client: client.run({"x": X}))
    assert list(ran.outputs) == ["y"]
    np.testing.assert_array_equal(ran.outputs["y"], 3 * X)


def test_inner_values_become_outputs_by_concatenation(evaluator, doubling):
    loaded = ask(evaluator, lambda client: client.load(doubling, extra_outputs=["inner"]))
    assert loaded.outputs == ("y", "inner")
    ran = ask(evaluator, lambda client: client.run({"x": X}, ["inner"]))
    np.testing.assert_array_equal(ran.outputs["inner"], 2 * X)


def test_an_extra_output_with_a_long_name(evaluator, tmp_path):
    name = "é" * 200
    model = save(
        tmp_path,
        [("Neg", ["x"], [name]), ("Neg", [name], ["y"])],
        [("x", TensorProto.FLOAT, [3])],
        [("y", TensorProto.FLOAT, [3])],
    )
    ask(evaluator, lambda client: client.load(model, extra_outputs=[name]))
    ran = ask(evaluator, lambda client: client.run({"x": X[0]}))
    np.testing.assert_array_equal(ran.outputs[name], -X[0])


@pytest.mark.parametrize("extra", [(), ("inner",)])
def test_external_data_is_read_from_its_folder(evaluator, tmp_path, extra):
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    weight = np.full(3, 7, np.float32)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "data" / "w.bin").write_bytes(weight.tobytes())
    model = save(
        tmp_path / "elsewhere",
        [("Neg", ["x"], ["inner"]), ("Mul", ["inner", "w"], ["y"])],
        [("x", TensorProto.FLOAT, [3])],
        [("y", TensorProto.FLOAT, [3])],
    )
    proto = onnx.load(model.file)
    proto.graph.initializer.append(tensor)
    model.file.write_bytes(proto.SerializeToString())
    runnable = Runnable(model.file, tmp_path / "data")
    assert isinstance(ask(evaluator, lambda client: client.load(runnable, extra_outputs=extra)), Loaded)
    ran = ask(evaluator, lambda client: client.run({"x": X[0]}))
    np.testing.assert_array_equal(ran.outputs["y"], -7 * X[0])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int64, np.uint8, np.bool_, np.str_])
def test_every_type_passes_through(evaluator, tmp_path, dtype):
    kind = TensorProto.STRING if dtype is np.str_ else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = save(tmp_path, [("Identity", ["x"], ["y"])], [("x", kind, ["N", 3])], [("y", kind, ["N", 3])])
    ask(evaluator, lambda client: client.load(model))
    given = np.array([[0, 1, 2]]).astype(dtype)
    ran = ask(evaluator, lambda client: client.run({"x": given}))
    assert isinstance(ran, Ran), ran
    np.testing.assert_array_equal(ran.outputs["y"], given)
    assert ran.outputs["y"].dtype.kind == given.dtype.kind


def test_bfloat16_convolution_falls_back_to_the_reference(evaluator, tmp_path):
    kind = TensorProto.BFLOAT16
    model = save(
        tmp_path,
        [("Conv", ["x", "w"], ["y"])],
        [("x", kind, ["N", 2, 3, 3]), ("w", kind, [2, 2, 1, 1])],
        [("y", kind, None)],
    )
    loaded = ask(evaluator, lambda client: client.load(model))
    assert isinstance(loaded, Loaded), loaded
    assert loaded.evaluator.startswith("onnx.reference")
    feeds = {"x": np.ones((1, 2, 3, 3), ml_dtypes.bfloat16), "w": np.ones((2, 2, 1, 1), ml_dtypes.bfloat16)}
    ran = ask(evaluator, lambda client: client.run(feeds))
    assert isinstance(ran, Ran), ran
    np.testing.assert_array_equal(ran.outputs["y"].astype(np.float32), np.full((1, 2, 3, 3), 2, np.float32))


def test_an_opset_under_development_falls_back_to_the_reference(evaluator, tmp_path):
    kind, newest = TensorProto.FLOAT, onnx.defs.onnx_opset_version()
    model = save(tmp_path, [("Add", ["x", "x"], ["y"])], [("x", kind, [3])], [("y", kind, [3])], opset=newest)
    loaded = ask(evaluator, lambda client: client.load(model))
    assert isinstance(loaded, Loaded), loaded
    ran = ask(evaluator, lambda client: client.run({"x": np.ones(3, np.float32)}))
    np.testing.assert_array_equal(ran.outputs["y"], [2, 2, 2])


def test_what_onnx_runtime_rejects_goes_to_the_reference(evaluator, tmp_path):
    model = save(
        tmp_path,
        [("Expand", ["x", "x"], ["y"])],
        [("x", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, None)],
    )
    loaded = ask(evaluator, lambda client: client.load(model))
    assert isinstance(loaded, Loaded), loaded
    assert loaded.evaluator.startswith("onnx.reference")
    ran = ask(evaluator, lambda client: client.run({"x": np.ones(1, np.float32)}))
    assert isinstance(ran, Failed)
    assert ran.kind == "run"
    assert "Type Error" in ran.message
    assert "the reference evaluator" in ran.message


def test_a_missing_custom_operator_is_unsupported(evaluator, tmp_path):
    kind = TensorProto.FLOAT
    model = save(
        tmp_path,
        [("Secret", ["x"], ["y"], {"domain": "vendor"})],
        [("x", kind, [3])],
        [("y", kind, [3])],
        domains=["vendor"],
    )
    failed = ask(evaluator, lambda client: client.load(model))
    assert isinstance(failed, Failed)
    assert failed.kind == "unsupported"
    assert "Secret" in failed.message


def test_a_missing_library_of_custom_operators_is_named(evaluator, doubling):
    failed = ask(evaluator, lambda client: client.load(doubling, custom_ops=["/nowhere/lib.so"]))
    assert failed.kind == "custom-ops"
    assert "/nowhere/lib.so" in failed.message


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_a_library_that_is_no_regular_file(evaluator, doubling, tmp_path, make):
    make(tmp_path / "lib.so")
    failed = ask(evaluator, lambda client: client.load(doubling, custom_ops=[str(tmp_path / "lib.so")]))
    assert failed.kind == "custom-ops"
    assert "special file" in failed.message


def test_a_broken_file_is_invalid(evaluator, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"not a model")
    assert ask(evaluator, lambda client: client.load(Runnable(file, tmp_path))).kind == "invalid"


def test_wrong_inputs_are_a_failed_run_and_the_worker_lives_on(evaluator, doubling):
    ask(evaluator, lambda client: client.load(doubling))
    assert ask(evaluator, lambda client: client.run({"x": np.ones((2, 4), np.float32)})).kind == "run"
    assert ask(evaluator, lambda client: client.run({"z": X})).kind == "run"
    assert isinstance(ask(evaluator, lambda client: client.run({"x": X})), Ran)


def constant_of(size, tmp_path):
    return save(
        tmp_path,
        [("ConstantOfShape", ["shape"], ["big"]), ("ReduceSum", ["big"], ["y"], {"keepdims": 0})],
        [],
        [("y", TensorProto.FLOAT, [])],
        {"shape": np.array([size], np.int64)},
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit needs Linux")
def test_a_40_gb_constant_runs_out_of_memory_and_nothing_else_does(evaluator, tmp_path):
    available = memory.available()
    if available is None or available > 40e9:
        pytest.skip("this machine has room for it")
    model = constant_of(10_000_000_000, tmp_path)
    started = time.monotonic()
    loaded = ask(evaluator, lambda client: client.load(model))
    failed = loaded if isinstance(loaded, Failed) else ask(evaluator, lambda client: client.run({}))
    assert isinstance(failed, Failed)
    assert failed.kind == "memory", failed
    assert time.monotonic() - started < 10


def endless(tmp_path, name="model.onnx"):
    """A loop of 2**40 iterations."""
    kind = TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["on_out"]),
            helper.make_node("Identity", ["v"], ["v_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", kind, [3]),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", kind, [3]),
        ],
    )
    return save(
        tmp_path,
        [("Loop", ["trips", "", "x"], ["y"], {"body": body})],
        [("x", kind, [3])],
        [("y", kind, [3])],
        {"trips": np.array(2**40, np.int64)},
        name=name,
    )


def test_a_hang_ends_at_the_time_limit_and_the_next_task_gets_a_new_worker(tmp_path):
    with Evaluator(time_limit=2, threads=1) as evaluator:
        ask(evaluator, lambda client: client.load(endless(tmp_path)))
        started = time.monotonic()
        failed = ask(evaluator, lambda client: client.run({"x": X[0]}))
        assert failed.kind == "time"
        assert time.monotonic() - started < 5
        assert isinstance(ask(evaluator, lambda client: client.load(endless(tmp_path))), Loaded)


def test_a_killed_worker_is_a_crash_and_the_next_task_gets_a_new_one(evaluator, tmp_path, doubling):
    ask(evaluator, lambda client: client.load(endless(tmp_path, "endless.onnx")))
    pid = ask(evaluator, lambda client: client.pid)
    running = evaluator.submit(lambda client: client.run({"x": X[0]}))
    threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
    failed = running.result(timeout=30)
    assert failed.kind == "crash"
    assert "-9" in failed.message
    assert isinstance(ask(evaluator, lambda client: client.load(doubling)), Loaded)


def test_closing_ends_a_run_at_once(tmp_path):
    started = time.monotonic()
    with Evaluator(time_limit=60, threads=1) as evaluator:
        ask(evaluator, lambda client: client.load(endless(tmp_path)))
        running = evaluator.submit(lambda client: client.run({"x": X[0]}))
        time.sleep(0.2)
    assert running.result(timeout=1).kind == "crash"
    assert time.monotonic() - started < 20


def test_the_worker_ends_with_its_standard_input_even_in_a_run(evaluator, tmp_path):
    ask(evaluator, lambda client: client.load(endless(tmp_path)))
    running = evaluator.submit(lambda client: client.run({"x": X[0]}))
    time.sleep(0.2)
    evaluator._client._process.stdin.close()
    assert running.result(timeout=10).kind == "crash"


def test_temporary_files_are_removed(doubling):
    with Evaluator(threads=1) as evaluator:
        folder = evaluator._client._folder.name
        ask(evaluator, lambda client: client.load(doubling))
        ask(evaluator, lambda client: client.run({"x": X}))
        assert Path(folder).is_dir()
    assert not Path(folder).exists()


def test_nothing_is_printed(tmp_path):
    script = (
        "from pathlib import Path\nfrom normfold.runtime import *\n"
        "with Evaluator(threads=1) as e:\n"
        f"    model = Runnable(Path({str(tmp_path / 'no.onnx')!r}), Path('/'))\n"
        "    print(e.submit(lambda client: client.load(model)).result().kind)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout == "invalid\n"


def test_arrays_survive_the_disk(tmp_path):
    arrays = {
        "a/b": np.arange(3, dtype=ml_dtypes.float8_e4m3fn),
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(2.5),
        "large": np.arange(1 << 20, dtype=np.float32),
        "text": np.array(["a", "béé"], object),
    }
    for name in ("float8_e5m2", "float8_e5m2fnuz", "float8_e4m3fnuz", "bfloat16", "int4", "float4_e2m1fn"):
        arrays[name] = np.array([0, 1, 2], getattr(ml_dtypes, name))
    back = arrays_on_disk.read(arrays_on_disk.write(tmp_path / "t", arrays))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype or array.dtype == object
        np.testing.assert_array_equal(back[name], array)
    assert back["a/b"].dtype == ml_dtypes.float8_e4m3fn
    assert isinstance(back["large"], np.memmap)


def test_a_model_of_a_few_bytes_has_little_memory_unless_its_inputs_are_large(evaluator, tmp_path, monkeypatch):
    monkeypatch.setattr("normfold.runtime.workers.process.USUAL_BYTES", 1 << 28)
    source = save(
        tmp_path,
        [("Expand", ["x", "s"], ["h"]), ("ReduceSum", ["h"], ["y"])],
        [("x", TensorProto.FLOAT, ["N"])],
        [("y", TensorProto.FLOAT, None)],
        {"s": np.array([100, 1 << 20])},
    )
    evaluator.expect(source.file.stat().st_size)
    assert isinstance(ask(evaluator, lambda client: client.load(source)), Loaded)
    small = ask(evaluator, lambda client: client.run({"x": np.zeros(1, np.float32)}))
    assert isinstance(small, Failed)
    assert (small.kind, "--memory-limit allows more" in small.message) == ("memory", True)
    large = ask(evaluator, lambda client: client.run({"x": np.zeros(1 << 20, np.float32)}))
    assert isinstance(large, Ran)
