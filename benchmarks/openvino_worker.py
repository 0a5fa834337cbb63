"""The timing process of `normfold.measure`, which can hold OpenVINO's models (``.xml``) beside those of ONNX Runtime.

Started by `quantize.py` in place of ``normfold.runtime.workers.timing``: one process, the same rounds for both. With
``threads`` of its own; in which type it computes is OpenVINO's choice, and `precision_of` says which it was.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, Final

import numpy as np

from normfold.runtime.workers.protocol import own_stdout, serve
from normfold.runtime.workers.timing import VERBS, TimingWorker

SUFFIX: Final = ".xml"


def compiled(file: Path, threads: int) -> Any:
    """The model, compiled for the CPU and for latency."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(file, "CPU", settings)


def precision_of(file: Path) -> str:
    """The type in which OpenVINO computes what is not quantised."""
    return str(compiled(file, 1).get_property("INFERENCE_PRECISION_HINT")).removeprefix("<Type: '").rstrip("'>")


class Value:
    """An input or an output, as a session of ONNX Runtime names it."""

    def __init__(self, port: Any) -> None:
        self.name = port.get_any_name()
        self.type = f"tensor({port.get_element_type().get_type_name()})"
        self.shape = str(port.get_partial_shape())


class Result:
    """An output's value, as ONNX Runtime's bindings hand them out."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def numpy(self) -> Any:
        """The array."""
        return self._array

    def is_tensor(self) -> bool:
        """It is."""
        return True

    def data_type(self) -> str:
        """In ONNX Runtime's words; nothing needs to know more than that NumPy can hold it."""
        return f"tensor({self._array.dtype})"


class Binding:
    """Inputs in place."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.request = session.model.create_infer_request()

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        """Put ``value`` in place, once for all runs."""
        import openvino

        self.request.set_tensor(name, openvino.Tensor(value.numpy(), shared_memory=False))

    def bind_output(self, _name: str, _device: str) -> None:
        """Outputs are OpenVINO's own."""

    def bind_ortvalue_output(self, _name: str, _value: Result) -> None:
        """They stay where they are from run to run."""

    def get_outputs(self) -> list[Result]:
        """Those of the last run."""
        return [Result(np.array(tensor.data)) for tensor in self.request.output_tensors]


class Session:
    """A model of OpenVINO's behind the methods that the worker calls."""

    def __init__(self, file: Path, threads: int) -> None:
        self.model = compiled(file, threads)

    def get_providers(self) -> list[str]:
        """The worker wants the CPU, and it is the CPU."""
        return ["CPUExecutionProvider"]

    def disable_fallback(self) -> None:
        """There is none."""

    def get_inputs(self) -> list[Value]:
        """Inputs."""
        return [Value(port) for port in self.model.inputs]

    def get_outputs(self) -> list[Value]:
        """Outputs."""
        return [Value(port) for port in self.model.outputs]

    def io_binding(self) -> Binding:
        """A place for inputs."""
        return Binding(self)

    def run_with_iobinding(self, binding: Binding) -> None:
        """One run."""
        binding.request.infer()


class Worker(TimingWorker):
    """As the worker of `normfold.runtime`, for both kinds of files."""

    def _session(self, request: dict[str, Any], options: Any) -> Any:
        file = Path(request["model"])
        if file.suffix == SUFFIX:
            return Session(file, request["session"]["intra_threads"])
        return super()._session(request, options)


def main() -> None:
    """Serve until standard input ends."""
    replies = own_stdout()
    gc.freeze()
    serve(Worker(), VERBS, replies)


if __name__ == "__main__":
    main()
