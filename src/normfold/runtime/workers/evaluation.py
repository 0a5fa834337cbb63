"""The evaluation process, over the protocol of `normfold.runtime.workers.protocol`.

`VERBS` lists what can be asked. One model is held at a time: loading another releases it first.
Runs as ``python -m normfold.runtime.workers.evaluation``.
"""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from normfold.runtime.memory import address_space, limit_this_process
from normfold.runtime.providers import CPU
from normfold.runtime.session_profile import SPINNING
from normfold.runtime.sessions import QUIET
from normfold.runtime.workers.arrays import is_extended, read, write
from normfold.runtime.workers.observing import Observed
from normfold.runtime.workers.options import worker_options
from normfold.runtime.workers.patches import Patches
from normfold.runtime.workers.protocol import RefusedError, Reply, Request, kind_of, own_stdout, sentence, serve
from normfold.runtime.workers.values import EXTENDED_TYPES, to_array, to_value

if TYPE_CHECKING:
    from normfold.runtime.workers.arrays import Array

if TYPE_CHECKING:
    import onnx

REFERENCE_LIMIT: Final = 64 << 20
"""Bytes of model and data up to which onnx's reference evaluator, which is slow, is tried."""

LACKS_KERNEL: Final = (
    "NOT_IMPLEMENTED",
    "Type 'tensor(bfloat16)'",
    "Unsupported model IR version",
    "support for models stamped",
)
"""Messages with which ONNX Runtime says that the model may be right but is beyond it."""

PACKED_TYPES: Final = frozenset(
    {"tensor(int4)", "tensor(uint4)", "tensor(int2)", "tensor(uint2)", "tensor(float4e2m1)"}
)
"""Types of less than a byte, which its Python interface neither takes nor gives."""


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

        self._session = onnxruntime.InferenceSession(_source(request), _options(request), providers=[CPU])
        self.evaluator = f"onnxruntime {onnxruntime.__version__}"
        types = {output.name: output.type for output in self._session.get_outputs()}
        packed = {value.type for value in (*self._session.get_inputs(), *self._session.get_outputs())} & PACKED_TYPES
        if packed:
            raise NotImplementedError(f"NOT_IMPLEMENTED : Python cannot exchange {min(packed)} with ONNX Runtime")
        self.outputs = tuple(types)
        self._extended = any(kind in EXTENDED_TYPES for kind in types.values())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Values of ``outputs``; raises what ONNX Runtime raises."""
        # Values of ONNX Runtime's own cannot hold strings, NumPy's arrays not the extended types.
        if self._extended or any(is_extended(array.dtype) for array in feeds.values()):
            values = {name: to_value(array) for name, array in feeds.items()}
            results = self._session.run_with_ort_values(list(outputs), values)
            return {name: to_array(name, value) for name, value in zip(outputs, results, strict=True)}
        results = self._session.run(list(outputs), dict(feeds))
        return {name: _tensor(name, value) for name, value in zip(outputs, results, strict=True)}


def _options(request: Request) -> Any:
    """Computes what the file says, in as little memory as possible, and leaves the processors alone between runs."""
    level = "ORT_ENABLE_ALL" if request["optimised"] else "ORT_DISABLE_ALL"
    session = {
        "intra_threads": request["threads"],
        "inter_threads": 1,
        "options": {"graph_optimization_level": level, "enable_cpu_mem_arena": False},
        "config": dict.fromkeys(SPINNING, "0"),
    }
    return worker_options(session, request["data_folder"], request["custom_ops"])


def _tensor(name: str, value: object) -> Array:
    if not isinstance(value, np.ndarray):
        raise RefusedError("unsupported", f"output {name!r} is a {type(value).__name__}, not a tensor")
    return value


class ReferenceSession:
    """onnx's reference evaluator: every type, but slow."""

    def __init__(self, request: Request, reason: str) -> None:
        size = _size(request)
        if size > REFERENCE_LIMIT:
            limit = REFERENCE_LIMIT >> 20
            raise RefusedError("unsupported", f"{reason}; {size >> 20} MB is over the reference evaluator's {limit} MB")
        import onnx
        from onnx.reference import ReferenceEvaluator

        self._evaluator = ReferenceEvaluator(_whole(request))
        self._reason = reason
        self.evaluator = f"onnx.reference {onnx.__version__}"
        self.outputs = tuple(self._evaluator.output_names)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Values of ``outputs``; where there are none, the reason says why ONNX Runtime was not asked, too."""
        try:
            results = self._evaluator.run(list(outputs), dict(feeds))
        except Exception as error:
            message = f"{self._reason}; the reference evaluator: {sentence(error)}"
            raise RefusedError(kind_of(error, "run"), message) from error
        return {name: np.asarray(value) for name, value in zip(outputs, results, strict=True)}


class PreciseSession:
    """The model in float64, by ONNX Runtime where it has the kernels, else by onnx's reference evaluator."""

    def __init__(self, request: Request) -> None:
        size = _size(request)
        if size > REFERENCE_LIMIT:
            raise RefusedError("unsupported", f"{size >> 20} MB are too much for float64")
        from normfold.runtime.workers.widening import widened

        model = widened(_whole(request))
        try:
            import onnxruntime

            self._session: Any = onnxruntime.InferenceSession(
                model.SerializeToString(), _options(request), providers=[CPU]
            )
            self.outputs = tuple(output.name for output in self._session.get_outputs())
            self.evaluator = f"onnxruntime {onnxruntime.__version__} in float64"
        except Exception:  # noqa: BLE001 - for want of a kernel, mostly; the other one says why where it fails, too
            from onnx.reference import ReferenceEvaluator

            self._session = ReferenceEvaluator(model)
            self.outputs = tuple(self._session.output_names)
            self.evaluator = "onnx.reference in float64"

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Values of ``outputs``, in float64 where they are floating-point."""
        from normfold.runtime.workers.widening import widened_feeds

        results = self._session.run(list(outputs), widened_feeds(feeds))
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


def _whole(request: Request) -> onnx.ModelProto:
    """The model with its external data and extra outputs."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    model = onnx.load_model_from_string(_bytes(request))
    load_external_data_for_model(model, request["data_folder"])
    return model


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


class EvaluationWorker:
    """Holds one model at a time."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._used: int | None = None
        self._observed: dict[str, Observed] = {}
        self._patches: dict[str, Patches] = {}
        self._turns = 0
        self._threads = 1

    def load(self, request: Request) -> Reply:
        """Release the model held and load ``model``; ``evaluator`` is "", "onnxruntime" or "onnx.reference"."""
        self.release(request)
        self._used, self._threads = address_space(), int(request["threads"])
        limit_this_process(request["memory_limit"])
        started = time.perf_counter()
        self._session = _open(request)
        seconds = time.perf_counter() - started
        return {"evaluator": self._session.evaluator, "outputs": self._session.outputs, "seconds": seconds}

    def run(self, request: Request) -> Reply:
        """Run the model held on one set of inputs; the outputs go into the new directory ``results``."""
        if self._session is None:
            raise RefusedError("crash", "no model is loaded")
        limit_this_process(request["memory_limit"], self._used)
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

    def observe(self, request: Request) -> Reply:
        """Run the model held on one set of inputs, and keep statistics of the values in ``axes`` alone.

        ``axes`` has the axis of each value's channels, or null; ``patches`` by any name, which no value has, a value of
        these and what is drawn of it.
        """
        if self._session is None:
            raise RefusedError("crash", "no model is loaded")
        limit_this_process(request["memory_limit"], self._used)
        feeds, axes = read(request["feeds"]), request["axes"]
        try:
            ran = self._session.run(feeds, [name for name in axes if name not in feeds])
        except Exception as error:
            raise RefusedError(kind_of(error, "run"), sentence(error)) from error
        seen = [self._observed.setdefault(name, Observed(axis)) for name, axis in axes.items()]
        values = [ran[name] if name in ran else feeds[name] for name in axes]
        # NumPy lets go of the interpreter while it adds up; the statistics of a value are one thread's at a time.
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(lambda one, value: one.add(value, self._turns), seen, values):
                pass
            by_name = dict(zip(axes, values, strict=True))
            drawn = [self._patches.setdefault(name, Patches(**spec)) for name, (_, spec) in request["patches"].items()]
            sources = [by_name[value] for value, _ in request["patches"].values()]
            for _ in pool.map(lambda one, value: one.add(value, self._turns), drawn, sources):
                pass
        self._turns += 1
        return {}

    def observed(self, request: Request) -> Reply:
        """The statistics kept since the model was loaded, as arrays in the new directory ``results``."""
        kept: dict[str, Observed | Patches] = {**self._observed, **self._patches}
        entries = {f"{key} {name}": array for name, one in kept.items() for key, array in one.arrays().items()}
        return {"results": write(Path(request["results"]), entries)}

    def release(self, _request: Request) -> Reply:
        """Let go of the model held, if any."""
        self._session = None
        self._observed, self._patches, self._turns = {}, {}, 0
        gc.collect()
        return {}


VERBS: Final[dict[str, Callable[[EvaluationWorker, Request], Reply]]] = {
    "load": EvaluationWorker.load,
    "run": EvaluationWorker.run,
    "observe": EvaluationWorker.observe,
    "observed": EvaluationWorker.observed,
    "release": EvaluationWorker.release,
}
"""What can be asked."""


def _open(request: Request) -> Session:
    if request["precise"]:
        return _opened_precisely(request)
    if request["evaluator"] == "onnx.reference":
        return _open_reference(request, RefusedError("unsupported", "the reference evaluator was asked for"))
    try:
        return RuntimeSession(request)
    except RefusedError:
        raise
    except Exception as error:
        reason = sentence(error)
        lacking = "is not a registered function/op" in reason or any(text in reason for text in LACKS_KERNEL)
        refused = RefusedError(kind_of(error, "unsupported" if lacking else "invalid"), reason)
        if request["evaluator"] or refused.kind == "memory":
            raise refused from error
        return _open_reference(request, refused)


def _opened_precisely(request: Request) -> Session:
    try:
        return PreciseSession(request)
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError(kind_of(error, "unsupported"), sentence(error)) from error


def _open_reference(request: Request, refused: RefusedError) -> Session:
    try:
        return ReferenceSession(request, str(refused))
    except RefusedError:
        raise
    except Exception as error:
        message = f"{refused}; the reference evaluator: {sentence(error)}"
        raise RefusedError(kind_of(error, refused.kind), message) from error


def main() -> None:
    """Serve until standard input ends."""
    replies = own_stdout()
    import onnxruntime

    onnxruntime.set_default_logger_severity(QUIET)
    serve(EvaluationWorker(), VERBS, replies)


if __name__ == "__main__":
    main()
