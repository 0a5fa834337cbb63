"""Sessions of ONNX Runtime: their options, and a session from a profile."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from normfold.errors import EnvironmentUnavailableError, UsageError
from normfold.runtime import session_profile
from normfold.runtime.providers import PROVIDERS, available
from normfold.runtime.session_profile import SessionProfile

ENUMERATIONS: Final = {"graph_optimization_level": "GraphOptimizationLevel", "execution_mode": "ExecutionMode"}
"""Attributes of ``onnxruntime.SessionOptions`` whose values are members of an enumeration, given here by name."""
QUIET: Final = 4
"""Log level that leaves out everything but fatal errors."""
INFO: Final = 1
"""Log level at which ONNX Runtime names the optimisers that changed a model."""
DATA_FOLDER: Final = "session.model_external_initializers_file_folder_path"
"""Configuration entry: the folder that external data is relative to."""


def attributes(session: Mapping[str, Any]) -> dict[str, object]:
    """Attributes of ``onnxruntime.SessionOptions`` that ``session`` sets; threads that are None stay out."""
    threads = {"intra_op_num_threads": session["intra_threads"], "inter_op_num_threads": session["inter_threads"]}
    return {name: value for name, value in threads.items() if value is not None} | dict(session["options"])


def session_options(session: Mapping[str, Any]) -> Any:
    """``onnxruntime.SessionOptions`` with the threads, ``options`` and ``config`` of ``session``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for name, value in attributes(session).items():
        enumeration = ENUMERATIONS.get(name)
        setattr(options, name, getattr(getattr(onnxruntime, enumeration), str(value)) if enumeration else value)
    for key, value in session["config"].items():
        options.add_session_config_entry(key, value)
    return options


def open_session(model: str | os.PathLike[str], profile: SessionProfile | str | os.PathLike[str]) -> Any:
    """An ``onnxruntime.InferenceSession`` of the model file with the settings of ``profile``, or of a file of it.

    Raises:
        UsageError: ``bad-session-profile``, the file is none; ``not-runnable``, ONNX Runtime cannot load the model.
        EnvironmentUnavailableError: ``provider-unavailable``, ONNX Runtime went on without the execution provider.
    """
    settings = profile if isinstance(profile, SessionProfile) else session_profile.read(profile)
    provider = PROVIDERS[settings.provider]
    if provider in available():
        session = _opened(os.fspath(model), settings)
        if provider in session.get_providers():
            return session
    raise EnvironmentUnavailableError("provider-unavailable", f"This ONNX Runtime cannot use {provider}.")


def _opened(model: str, settings: SessionProfile) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(
            model,
            session_options(settings.to_json()),
            providers=[(PROVIDERS[settings.provider], dict(settings.provider_options))],
            disabled_optimizers=list(settings.disabled_optimizers),
        )
    except Exception as error:
        raise UsageError("not-runnable", f"ONNX Runtime cannot load {model}: {error}") from error
