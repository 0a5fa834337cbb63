"""Options of an ONNX Runtime session from a plain description of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def session_options(runtime: Any, session: Mapping[str, Any]) -> Any:
    """``onnxruntime.SessionOptions`` with the threads, ``options`` and ``config`` of ``session``.

    ``runtime`` is the module onnxruntime. Threads that are None are left to it; values of enumerations are their names.
    """
    options = runtime.SessionOptions()
    options.intra_op_num_threads = session["intra_threads"] or 0
    options.inter_op_num_threads = session["inter_threads"]
    kinds = {"graph_optimization_level": runtime.GraphOptimizationLevel, "execution_mode": runtime.ExecutionMode}
    for name, value in session["options"].items():
        setattr(options, name, getattr(kinds[name], value) if name in kinds else value)
    for key, value in session["config"].items():
        options.add_session_config_entry(key, value)
    return options
