"""The timing process, over the protocol of `normfold.runtime.workers.protocol`.

Holds any number of models at a time, each under a name, with its inputs and outputs in place, so that
a timed run does nothing else. `VERBS` lists what can be asked, in the order of use: ``hello``, ``open``,
``bind``, then ``time`` as often as wished. Runs as ``python -m normfold.runtime.workers.timing``.
"""

from __future__ import annotations

import gc
import itertools
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from normfold.runtime import energy, memory
from normfold.runtime.optimizers import changing
from normfold.runtime.processors import machine
from normfold.runtime.profile import node_times
from normfold.runtime.providers import CPU, DEVICES, available
from normfold.runtime.sessions import INFO, QUIET
from normfold.runtime.workers.arrays import read, write
from normfold.runtime.workers.counting import counted
from normfold.runtime.workers.options import worker_options
from normfold.runtime.workers.plugins import PLUGINS, devices, plug_in, settings
from normfold.runtime.workers.protocol import (
    VERSION,
    RefusedError,
    Reply,
    Request,
    kind_of,
    own_stdout,
    sentence,
    serve,
)
from normfold.runtime.workers.store import get, held, put
from normfold.runtime.workers.values import to_array, to_value

PACKAGED: Final = ("x86_64", "aarch64", "AMD64", "arm64", "ARM64")
"""Architectures for which onnxruntime is on PyPI."""
ASSIGNED: Final = "session.record_ep_graph_assignment_info"
"""Configuration entry with which ONNX Runtime remembers which node went to which provider."""


@dataclass(slots=True)
class OpenModel:
    """A model that is loaded; ``binding`` is there once its inputs are.

    A binding keeps no hold on the arrays behind ``values``, its inputs.
    """

    session: Any
    device: str
    binding: Any = None
    values: list[Any] = field(default_factory=list)


class TimingWorker:
    """Holds any number of models."""

    def __init__(self) -> None:
        self._models: dict[str, OpenModel] = {}
        self._shared_pool = False
        self._plugged: set[str] = set()

    def hello(self, request: Request) -> Reply:
        """Import ONNX Runtime, keep to the processors ``cpus``, and share one pool of ``pool`` threads, if any."""
        if request["cpus"] and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, request["cpus"])
        started = time.perf_counter_ns()
        try:
            import onnxruntime
        except ImportError as error:
            raise RefusedError("target", f"a model without onnxruntime: {_without(sentence(error))}") from error
        took = time.perf_counter_ns() - started
        onnxruntime.set_default_logger_severity(QUIET)
        if request["pool"]:
            onnxruntime.set_global_thread_pool_sizes(request["pool"], 1)
            self._shared_pool = True
        if request["preload"] and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        return {
            "protocol": VERSION,
            "machine": machine(),
            "import_ns": took,
            "onnxruntime": onnxruntime.__version__,
            "runtime_bytes": installed_bytes(Path(onnxruntime.__file__).parent),
            "available": available(),
            "cpus": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "peak_rss": memory.peak_of_this_process(),
        }

    def open(self, request: Request) -> Reply:
        """Load ``model`` under ``name``; the reply has the seconds it took, and which node went to which provider."""
        wanted = request["session"]["provider"]
        if wanted not in self._plugged and plug_in(wanted):
            self._plugged.add(wanted)
        if wanted not in (found := available()):
            way = f" (pip install {PLUGINS[wanted].package})" if wanted in PLUGINS else ""
            raise RefusedError("provider", f"this ONNX Runtime has no {wanted}; it has {', '.join(found)}{way}")
        if wanted == CPU:
            memory.limit_this_process(request["memory_limit"])
        options = self._options(request)
        started = time.perf_counter_ns()
        session = self._session(request, options)
        took = time.perf_counter_ns() - started
        if wanted not in session.get_providers():
            raise RefusedError("provider", f"{wanted} could not be loaded; ONNX Runtime went on without it")
        session.disable_fallback()
        self._models[request["name"]] = OpenModel(session, DEVICES.get(wanted, "cpu"))
        return {
            "load_ns": took,
            "providers": session.get_providers(),
            "placed": placed(session),
            "inputs": [[value.name, value.type, value.shape] for value in session.get_inputs()],
            "outputs": [value.name for value in session.get_outputs()],
        }

    def bind(self, request: Request) -> Reply:
        """Put the inputs ``feeds`` in place, run once, and keep its outputs as the place for all later ones."""
        held = self._models[request["name"]]
        if held.device == "cpu":
            memory.limit_this_process(request["memory_limit"])
        binding = held.session.io_binding()
        for name, array in read(request["feeds"]).items():
            held.values.append(to_value(array, held.device))
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

    def count(self, request: Request) -> Reply:
        """Instructions of a run of ``name``, by class; another run before it finds its memory."""
        held = self._models[request["name"]]
        try:
            held.session.run_with_iobinding(held.binding)
            return {"counts": counted(lambda: held.session.run_with_iobinding(held.binding))}
        except RefusedError:
            raise
        except Exception as error:
            raise RefusedError(kind_of(error, "run"), sentence(error)) from error

    def outputs(self, request: Request) -> Reply:
        """Write what the last run of ``name`` gave into the new directory ``results``."""
        held = self._models[request["name"]]
        names = [output.name for output in held.session.get_outputs()]
        values = {name: to_array(name, value) for name, value in zip(names, held.binding.get_outputs(), strict=True)}
        return {"results": write(Path(request["results"]), values)}

    def profile(self, request: Request) -> Reply:
        """Time each node of ``model`` over ``runs`` runs in a session of its own; also the arena's peak, in bytes."""
        options = self._options(request)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(request["results"]))
        session = self._session(request, options)
        self._models["profile"] = OpenModel(session, DEVICES.get(request["session"]["provider"], "cpu"))
        self.bind({**request, "name": "profile"})
        held = self._models.pop("profile")
        for _ in range(request["runs"]):
            held.session.run_with_iobinding(held.binding)
        return node_times(Path(session.end_profiling()))

    def optimizers(self, request: Request) -> Reply:
        """Which of its optimisers change ``model`` as it is loaded."""
        options = self._options(request)
        options.log_severity_level = INFO
        return {"changing": changing(lambda: self._session(request, options))}

    def reduce(self, request: Request) -> Reply:
        """Write ``model``, optimised, in ONNX Runtime's own format to ``ort``, and its operators to ``operators``."""
        options = self._options(request)
        options.optimized_model_filepath = request["ort"]
        options.add_session_config_entry("session.save_model_format", "ORT")
        self._session(request, options)
        from onnxruntime.tools.ort_format_model import create_config_from_models

        create_config_from_models([Path(request["ort"])], Path(request["operators"]), enable_type_reduction=False)
        return {}

    def compile(self, request: Request) -> Reply:
        """Compile ``model`` for its provider's processor into the new directory ``results``; how large it became."""
        folder = Path(request["results"])
        folder.mkdir()
        options = self._options(request)
        for name, value in (("enable", "1"), ("embed_mode", "0"), ("file_path", str(folder / "context.onnx"))):
            options.add_session_config_entry(f"ep.context_{name}", value)
        self._session(request, options)
        return {"context_bytes": sum(file.stat().st_size for file in folder.glob("*.bin"))}

    def close(self, request: Request) -> Reply:
        """Let go of ``name``."""
        self._models.pop(request["name"], None)
        gc.collect()
        return {}

    def _session(self, request: Request, options: Any) -> Any:
        import onnxruntime

        wanted, provider_options = request["session"]["provider"], request["session"]["provider_options"]
        file, folder = Path(request["model"]), Path(request["data_folder"])
        plugged = wanted in self._plugged
        listed = [(wanted, provider_options), *([] if wanted == CPU else [CPU])]
        try:
            if plugged:
                options.add_provider_for_devices(devices(wanted)[:1], settings(wanted, provider_options))
            return onnxruntime.InferenceSession(
                str(file) if file.parent == folder else file.read_bytes(),
                options,
                providers=None if plugged else listed,
                disabled_optimizers=request["session"]["disabled_optimizers"],
                enable_fallback=0,
            )
        except Exception as error:
            reason = sentence(error)
            foreign = wanted != CPU and "provider" in reason.lower()
            refusal = "provider" if foreign else "invalid"
            raise RefusedError(kind_of(error, refusal), reason) from error

    def _options(self, request: Request) -> Any:
        session = request["session"]
        options = worker_options(session, request["data_folder"], session["custom_ops"])
        options.use_per_session_threads = not self._shared_pool
        options.add_session_config_entry(ASSIGNED, "1")
        for name, size in session.get("dimensions", {}).items():
            options.add_free_dimension_override_by_name(name, size)
        return options


def _without(reason: str) -> str:
    """Why ONNX Runtime cannot be imported, and the way out where there is one."""
    architecture = platform.machine()
    if architecture not in PACKAGED:
        return f"there is no package of it for {architecture}"
    if "ELF" in reason:
        return f"what is installed is for another architecture than {architecture}: {reason}"
    return f"{reason} (pip install onnxruntime)"


def installed_bytes(folder: Path) -> int:
    """Bytes of ONNX Runtime's own files, which an application brings along."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")


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


VERBS: Final[dict[str, Callable[[TimingWorker, Request], Reply]]] = {
    "hello": TimingWorker.hello,
    "held": held,
    "put": put,
    "get": get,
    "open": TimingWorker.open,
    "bind": TimingWorker.bind,
    "time": TimingWorker.time,
    "count": TimingWorker.count,
    "outputs": TimingWorker.outputs,
    "profile": TimingWorker.profile,
    "optimizers": TimingWorker.optimizers,
    "reduce": TimingWorker.reduce,
    "compile": TimingWorker.compile,
    "close": TimingWorker.close,
}
"""What can be asked."""


def main() -> None:
    """Serve until standard input ends."""
    replies = own_stdout()
    # The garbage collector has nothing to find in what is loaded by now.
    gc.freeze()
    serve(TimingWorker(), VERBS, replies)


if __name__ == "__main__":
    main()
