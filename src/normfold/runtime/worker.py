"""The evaluation process, over the protocol of `normfold.runtime.serving`.

`VERBS` lists what can be asked. One model is held at a time: loading another releases it first.
Runs as ``python -m normfold.runtime.worker``.
"""

from __future__ import annotations

import ctypes
import gc
import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from normfold.runtime.memory import limit_this_process
from normfold.runtime.serving import RefusedError, Reply, Request, kind_of, own_stdout, sentence, serve
from normfold.runtime.tensors import Array, extended_type, read, write

REFERENCE_LIMIT: Final = 64 << 20
"""Bytes of model and data up to which onnx's reference evaluator, which is slow, is tried."""

EXTENDED_TYPES: Final[dict[str, tuple[str, int]]] = {
    "tensor(bfloat16)": ("bfloat16", 16),
    "tensor(float8e4m3fn)": ("float8_e4m3fn", 17),
    "tensor(float8e4m3fnuz)": ("float8_e4m3fnuz", 18),
    "tensor(float8e5m2)": ("float8_e5m2", 19),
    "tensor(float8e5m2fnuz)": ("float8_e5m2fnuz", 20),
}
"""ONNX Runtime's name of a type that NumPy lacks, to ml_dtypes' name and ONNX's number for it."""

LACKS_KERNEL: Final = (
    "NOT_IMPLEMENTED",
    "Type 'tensor(bfloat16)'",
    "Unsupported model IR version",
    "guarantees support for models stamped",
)
"""Messages with which ONNX Runtime says that the model may be right but is beyond it."""


class Session(Protocol):
    """A loaded model."""

    evaluator: str
    outputs: tuple[str, ...]

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Values of ``outputs`` for one set of inputs."""
        ...


class RuntimeSession:
    """ONNX Runtime on the CPU, unless asked for with its optimisations off, so that it computes what the file says."""

    def __init__(self, request: Request) -> None:
        import onnxruntime

        self._onnxruntime = onnxruntime
        self._session = onnxruntime.InferenceSession(
            _source(request), self._options(request), providers=["CPUExecutionProvider"]
        )
        self.evaluator = f"onnxruntime {onnxruntime.__version__}"
        types = {output.name: output.type for output in self._session.get_outputs()}
        self.outputs = tuple(types)
        self._extended = any(kind in EXTENDED_TYPES for kind in types.values())

    def _options(self, request: Request) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.log_severity_level = 4
        levels = self._onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if request["optimised"] else levels.ORT_DISABLE_ALL
        options.intra_op_num_threads = request["threads"]
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", request["data_folder"])
        for library in request["custom_ops"]:
            self._register(options, library)
        return options

    def _register(self, options: Any, library: str) -> None:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:
            raise RefusedError("custom-ops", f"{library}: {error}") from error

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Values of ``outputs``; raises what ONNX Runtime raises."""
        # Values of ONNX Runtime's own cannot hold strings, NumPy's arrays not the extended types.
        if self._extended or any(array.dtype.kind == "V" for array in feeds.values()):
            values = {name: given(self._onnxruntime, array) for name, array in feeds.items()}
            results = self._session.run_with_ort_values(list(outputs), values)
            return {name: taken(name, value) for name, value in zip(outputs, results, strict=True)}
        results = self._session.run(list(outputs), dict(feeds))
        return {name: _tensor(name, value) for name, value in zip(outputs, results, strict=True)}


def given(onnxruntime: Any, array: Array, device: str = "cpu") -> Any:
    """``array`` as ONNX Runtime's own value, in the memory of ``device``."""
    numbers = dict(EXTENDED_TYPES.values())
    if array.dtype.name not in numbers:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
    bits = np.ascontiguousarray(array).view(np.dtype(f"u{array.dtype.itemsize}"))
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, numbers[array.dtype.name])


def _tensor(name: str, value: object) -> Array:
    if not isinstance(value, np.ndarray):
        raise RefusedError("unsupported", f"output {name!r} is a {type(value).__name__}, not a tensor")
    return value


def taken(name: str, value: Any) -> Array:
    """The array in a value of ONNX Runtime's own."""
    if not value.is_tensor():
        raise RefusedError("unsupported", f"output {name!r} is a {value.data_type()}, not a tensor")
    if value.data_type() not in EXTENDED_TYPES:
        array: Array = value.numpy()
        return array
    dtype = extended_type(EXTENDED_TYPES[value.data_type()][0])
    size = value.tensor_size_in_bytes()
    bits = (ctypes.c_char * size).from_address(value.data_ptr()) if size else b""
    return np.frombuffer(bits, dtype=dtype).reshape(value.shape()).copy()


class ReferenceSession:
    """onnx's reference evaluator: every type, but slow."""

    def __init__(self, request: Request, reason: str) -> None:
        size = _size(request)
        if size > REFERENCE_LIMIT:
            limit = REFERENCE_LIMIT >> 20
            raise RefusedError("unsupported", f"{reason}; {size >> 20} MB is over the reference evaluator's {limit} MB")
        import onnx
        from onnx.external_data_helper import load_external_data_for_model
        from onnx.reference import ReferenceEvaluator

        model = onnx.load_model_from_string(_bytes(request))
        load_external_data_for_model(model, request["data_folder"])
        self._evaluator = ReferenceEvaluator(model)
        self.evaluator = f"onnx.reference {onnx.__version__}"
        self.outputs = tuple(self._evaluator.output_names)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Values of ``outputs``; raises what the reference evaluator raises."""
        results = self._evaluator.run(list(outputs), dict(feeds))
        return {name: np.asarray(value) for name, value in zip(outputs, results, strict=True)}


def _size(request: Request) -> int:
    """Bytes of the model's file and of the data files that it names, repeated names counted once."""
    import onnx

    file = Path(request["model"])
    if file.stat().st_size > REFERENCE_LIMIT:
        return file.stat().st_size
    graph = onnx.load_model(file, load_external_data=False).graph
    names = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}
    data = (Path(request["data_folder"]) / name for name in names)
    return sum(path.stat().st_size for path in (file, *data))


def _source(request: Request) -> str | bytes:
    """The path where ONNX Runtime can read the file itself, which saves a copy of it; else its bytes."""
    beside = Path(request["model"]).parent == Path(request["data_folder"])
    return str(request["model"]) if beside and not request["extra_outputs"] else _bytes(request)


def _bytes(request: Request) -> bytes:
    """The file's bytes followed by the extra outputs: concatenated messages merge (protobuf encoding, "Last One Wins").

    The buffer is allocated once and handed over without a copy.
    """
    file = Path(request["model"])
    suffix = b"".join(_output_message(name) for name in request["extra_outputs"])
    if not suffix:
        return file.read_bytes()
    size = file.stat().st_size
    buffer = io.BytesIO()
    buffer.seek(size)
    buffer.write(suffix)
    with file.open("rb") as stream, buffer.getbuffer() as view:
        got = stream.readinto(view[:size])
    if got != size:
        raise RefusedError("invalid", "the file changed while it was read")
    return buffer.getvalue()


def _output_message(name: str) -> bytes:
    """``ModelProto{graph: {output: {name}}}``, serialised by hand: field 7, then 12, then 1."""
    message = name.encode()
    for field in (1, 12, 7):
        message = bytes([field << 3 | 2]) + _varint(len(message)) + message
    return message


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


class Worker:
    """Serves requests, one after the other."""

    def __init__(self) -> None:
        self._session: Session | None = None

    def load(self, request: Request) -> Reply:
        """Release the model held and load ``model``; ``evaluator`` is "", "onnxruntime" or "onnx.reference"."""
        self.release(request)
        limit_this_process()
        started = time.perf_counter()
        self._session = _open(request)
        seconds = time.perf_counter() - started
        return {"evaluator": self._session.evaluator, "outputs": self._session.outputs, "seconds": seconds}

    def run(self, request: Request) -> Reply:
        """Run the model held on one set of inputs; the outputs go into the new directory ``results``."""
        if self._session is None:
            raise RefusedError("crash", "no model is loaded")
        feeds = read(request["feeds"])
        started = time.perf_counter()
        try:
            values = self._session.run(feeds, request["outputs"] or self._session.outputs)
        except RefusedError:
            raise
        except Exception as error:
            raise RefusedError(kind_of(error, "run"), sentence(error)) from error
        seconds = time.perf_counter() - started
        return {"results": write(Path(request["results"]), values), "seconds": seconds}

    def release(self, _request: Request) -> Reply:
        """Let go of the model held, if any."""
        self._session = None
        gc.collect()
        return {}


VERBS: Final[dict[str, Callable[[Worker, Request], Reply]]] = {
    "load": Worker.load,
    "run": Worker.run,
    "release": Worker.release,
}
"""What can be asked."""


def _open(request: Request) -> Session:
    if request["evaluator"] == "onnx.reference":
        return _open_reference(request, "the reference evaluator was asked for")
    try:
        return RuntimeSession(request)
    except RefusedError:
        raise
    except Exception as error:
        reason = sentence(error)
        if not request["evaluator"] and any(text in reason for text in LACKS_KERNEL):
            return _open_reference(request, reason)
        unknown = "is not a registered function/op" in reason or any(text in reason for text in LACKS_KERNEL)
        raise RefusedError(kind_of(error, "unsupported" if unknown else "invalid"), reason) from error


def _open_reference(request: Request, reason: str) -> Session:
    try:
        return ReferenceSession(request, reason)
    except RefusedError:
        raise
    except Exception as error:
        message = f"{reason}; the reference evaluator: {sentence(error)}"
        raise RefusedError(kind_of(error, "unsupported"), message) from error


def main() -> None:
    """Serve until standard input ends."""
    replies = own_stdout()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    serve(Worker(), VERBS, replies)


if __name__ == "__main__":
    main()
