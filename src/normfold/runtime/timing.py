"""The timing process, over the protocol of `normfold.runtime.serving`.

Holds any number of models at a time, each under a name, with its inputs and outputs in place, so that
a timed run does nothing else. `VERBS` lists what can be asked, in the order of use: ``hello``, ``open``,
``bind``, then ``time`` as often as wished. Runs as ``python -m normfold.runtime.timing``.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from normfold.runtime import energy, memory
from normfold.runtime.serving import RefusedError, Reply, Request, kind_of, own_stdout, sentence, serve
from normfold.runtime.session_options import session_options

CPU: Final = "CPUExecutionProvider"
DEVICES: Final = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda", "ROCMExecutionProvider": "cuda"}
"""Where the tensors of a provider live, in ONNX Runtime's words; others work on the CPU's memory."""
PLUGINS: Final = {
    "OpenVINOExecutionProvider": "onnxruntime_ep_openvino",
    "WebGpuExecutionProvider": "onnxruntime_ep_webgpu",
    "QNNExecutionProvider": "onnxruntime_qnn",
}
"""Modules of the packages in which providers come that are not part of ONNX Runtime itself."""
ASSIGNED: Final = "session.record_ep_graph_assignment_info"
DATA_FOLDER: Final = "session.model_external_initializers_file_folder_path"


@dataclass(slots=True)
class Held:
    """A model that is loaded; ``binding`` is there once its inputs are.

    A binding keeps no hold on the arrays behind ``values``, its inputs.
    """

    session: Any
    device: str
    binding: Any = None
    values: list[Any] = field(default_factory=list)


class Timer:
    """Serves requests, one after the other."""

    def __init__(self) -> None:
        self._runtime: Any = None
        self._models: dict[str, Held] = {}
        self._shared_pool = False
        self._plugged: set[str] = set()

    def hello(self, request: Request) -> Reply:
        """Import ONNX Runtime, keep to the processors ``cpus``, and share one pool of ``pool`` threads, if any."""
        if request["cpus"] and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, request["cpus"])
        started = time.perf_counter_ns()
        import onnxruntime

        took = time.perf_counter_ns() - started
        self._runtime = onnxruntime
        onnxruntime.set_default_logger_severity(4)
        if request["pool"]:
            onnxruntime.set_global_thread_pool_sizes(request["pool"], 1)
            self._shared_pool = True
        if request["preload"] and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        return {
            "import_ns": took,
            "onnxruntime": onnxruntime.__version__,
            "available": onnxruntime.get_available_providers(),
            "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "peak_rss": memory.peak_of_this_process(),
        }

    def open(self, request: Request) -> Reply:
        """Load ``model`` under ``name``; the reply has the seconds it took, and which node went to which provider."""
        wanted = request["session"]["provider"]
        if wanted in PLUGINS and wanted not in self._plugged:
            self._plug_in(wanted)
        available = self._runtime.get_available_providers()
        if wanted not in available:
            raise RefusedError("provider", f"this ONNX Runtime has no {wanted}; it has {', '.join(available)}")
        if wanted == CPU:
            memory.limit_this_process()
        options = self._options(request)
        started = time.perf_counter_ns()
        session = self._session(request, options)
        took = time.perf_counter_ns() - started
        if wanted not in session.get_providers():
            raise RefusedError("provider", f"{wanted} could not be loaded; ONNX Runtime went on without it")
        session.disable_fallback()
        self._models[request["name"]] = Held(session, DEVICES.get(wanted, "cpu"))
        return {
            "load_ns": took,
            "providers": session.get_providers(),
            "placed": placed(session),
            "inputs": [[value.name, value.type, value.shape] for value in session.get_inputs()],
            "outputs": [value.name for value in session.get_outputs()],
        }

    def bind(self, request: Request) -> Reply:
        """Put the inputs ``feeds`` in place, run once, and keep its outputs as the place for all later ones."""
        from normfold.runtime.tensors import read

        held = self._models[request["name"]]
        binding = held.session.io_binding()
        for name, array in read(request["feeds"]).items():
            held.values.append(self._value(array, held.device))
            binding.bind_ortvalue_input(name, held.values[-1])
        for output in held.session.get_outputs():
            binding.bind_output(output.name, held.device)
        started = time.perf_counter_ns()
        try:
            held.session.run_with_iobinding(binding)
        except Exception as error:
            raise RefusedError(kind_of(error, "run"), sentence(error)) from error
        took = time.perf_counter_ns() - started
        for output, value in zip(held.session.get_outputs(), binding.get_outputs(), strict=True):
            if value.is_tensor():
                binding.bind_ortvalue_output(output.name, value)
        held.binding = binding
        return {"first_run_ns": took, "peak_rss": memory.peak_of_this_process()}

    def time(self, request: Request) -> Reply:
        """Run ``blocks``, pairs of a name and a number of runs: nanoseconds of each run, microjoules of each block."""
        meter = energy.meter()
        durations, energies = [], []
        gc.collect()
        gc.disable()
        try:
            for name, runs in request["blocks"]:
                held = self._models[name]
                before = meter.read() if isinstance(meter, energy.Meter) else ()
                durations.append(_timed(held.session.run_with_iobinding, held.binding, runs))
                if isinstance(meter, energy.Meter):
                    energies.append(meter.used(before, meter.read()))
        except Exception as error:
            raise RefusedError(kind_of(error, "run"), sentence(error)) from error
        finally:
            gc.enable()
        known = isinstance(meter, energy.Meter)
        return {"ns": durations, "microjoules": energies if known else None, "no_energy": None if known else meter}

    def outputs(self, request: Request) -> Reply:
        """Write what the last run of ``name`` gave into the new directory ``results``."""
        from normfold.runtime.tensors import write
        from normfold.runtime.worker import taken

        held = self._models[request["name"]]
        names = [output.name for output in held.session.get_outputs()]
        values = {name: taken(name, value) for name, value in zip(names, held.binding.get_outputs(), strict=True)}
        return {"results": write(Path(request["results"]), values)}

    def profile(self, request: Request) -> Reply:
        """Time each node of ``model`` over ``runs`` runs in a session of its own; also the arena's peak, in bytes."""
        from normfold.runtime.node_times import node_times

        options = self._options(request)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(request["results"]))
        session = self._session(request, options)
        self._models["profile"] = Held(session, DEVICES.get(request["session"]["provider"], "cpu"))
        self.bind({"name": "profile", "feeds": request["feeds"]})
        held = self._models.pop("profile")
        for _ in range(request["runs"]):
            held.session.run_with_iobinding(held.binding)
        return node_times(Path(session.end_profiling()))

    def optimizers(self, request: Request) -> Reply:
        """Which of its optimisers change ``model`` as it is loaded."""
        from normfold.runtime.optimizers import INFO, changing

        options = self._options(request)
        options.log_severity_level = INFO
        return {"changing": changing(lambda: self._session(request, options))}

    def close(self, request: Request) -> Reply:
        """Let go of ``name``."""
        self._models.pop(request["name"], None)
        gc.collect()
        return {}

    def _session(self, request: Request, options: Any) -> Any:
        session = request["session"]
        provider = (session["provider"], session["provider_options"])
        file, folder = Path(request["model"]), Path(request["data_folder"])
        source: str | bytes = str(file) if file.parent == folder else file.read_bytes()
        plugged = session["provider"] in self._plugged
        others = [] if session["provider"] == CPU else [CPU]
        try:
            if plugged:
                options.add_provider_for_devices(self._devices(session["provider"])[:1], session["provider_options"])
            return self._runtime.InferenceSession(
                source,
                options,
                providers=None if plugged else [provider, *others],
                disabled_optimizers=session["disabled_optimizers"],
                enable_fallback=0,
            )
        except Exception as error:
            reason = sentence(error)
            foreign = session["provider"] != CPU and "provider" in reason.lower()
            refusal = "provider" if foreign else "invalid"
            raise RefusedError(kind_of(error, refusal), reason) from error

    def _plug_in(self, provider: str) -> None:
        """Register a provider that comes in a package of its own, if that is installed."""
        try:
            package = importlib.import_module(PLUGINS[provider])
            self._runtime.register_execution_provider_library(provider, package.get_library_path())
        except ModuleNotFoundError:
            return
        except Exception as error:
            raise RefusedError("provider", f"{provider} could not be loaded: {sentence(error)}") from error
        if not self._devices(provider):
            raise RefusedError("provider", f"{provider} found no device that it could use")
        self._plugged.add(provider)

    def _devices(self, provider: str) -> list[Any]:
        return [device for device in self._runtime.get_ep_devices() if device.ep_name == provider]

    def _options(self, request: Request) -> Any:
        session = request["session"]
        options = session_options(self._runtime, session)
        options.log_severity_level = 4
        options.use_per_session_threads = not self._shared_pool
        options.add_session_config_entry(ASSIGNED, "1")
        options.add_session_config_entry(DATA_FOLDER, request["data_folder"])
        for library in session["custom_ops"]:
            self._register(options, library)
        return options

    def _register(self, options: Any, library: str) -> None:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:
            raise RefusedError("custom-ops", f"{library}: {error}") from error

    def _value(self, array: Any, device: str) -> Any:
        from normfold.runtime.worker import given

        return given(self._runtime, array, device)


def _timed(run: Callable[[Any], None], binding: Any, runs: int) -> list[int]:
    """Nanoseconds of each of ``runs`` runs; the clock is read once between two of them."""
    clock, marks = time.perf_counter_ns, [0] * (runs + 1)
    marks[0] = clock()
    for index in range(1, runs + 1):
        run(binding)
        marks[index] = clock()
    return [late - early for early, late in itertools.pairwise(marks)]


def placed(session: Any) -> list[list[str]] | None:
    """Name, operator and provider of every node; None where this ONNX Runtime does not say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    return [
        [node.name, node.op_type, part.ep_name]
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


VERBS: Final[dict[str, Callable[[Timer, Request], Reply]]] = {
    "hello": Timer.hello,
    "open": Timer.open,
    "bind": Timer.bind,
    "time": Timer.time,
    "outputs": Timer.outputs,
    "profile": Timer.profile,
    "optimizers": Timer.optimizers,
    "close": Timer.close,
}
"""What can be asked."""


def main() -> None:
    """Serve until standard input ends."""
    replies = own_stdout()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # The garbage collector has nothing to find in what is loaded by now.
    gc.freeze()
    serve(Timer(), VERBS, replies)


if __name__ == "__main__":
    main()
