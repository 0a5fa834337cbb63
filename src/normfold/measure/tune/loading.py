"""Sessions from a session profile: opened here, or as lines of Python for where normfold is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from normfold.errors import EnvironmentUnavailableError, UsageError
from normfold.measure import session_profile
from normfold.measure.session_profile import PROVIDERS, SessionProfile
from normfold.runtime.session_options import session_options

KINDS: Final = {"graph_optimization_level": "GraphOptimizationLevel", "execution_mode": "ExecutionMode"}


def open_session(model: str | os.PathLike[str], profile: SessionProfile | str | os.PathLike[str]) -> Any:
    """An ``onnxruntime.InferenceSession`` of the model file with the settings of ``profile``, or of a file of it.

    Raises:
        UsageError: ``bad-session-profile``, the file is none; ``not-runnable``, ONNX Runtime cannot load the model.
        EnvironmentUnavailableError: ``provider-unavailable``, ONNX Runtime went on without the execution provider.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    settings = profile if isinstance(profile, SessionProfile) else session_profile.read(profile)
    provider = PROVIDERS[settings.provider]
    if provider in onnxruntime.get_available_providers():
        session = _opened(onnxruntime, os.fspath(model), settings)
        if provider in session.get_providers():
            return session
    raise EnvironmentUnavailableError("provider-unavailable", f"This ONNX Runtime cannot use {provider}.")


def _opened(runtime: Any, model: str, settings: SessionProfile) -> Any:
    try:
        return runtime.InferenceSession(
            model,
            session_options(runtime, settings.to_json()),
            providers=[(PROVIDERS[settings.provider], dict(settings.provider_options))],
            disabled_optimizers=list(settings.disabled_optimizers),
        )
    except Exception as error:
        raise UsageError("not-runnable", f"ONNX Runtime cannot load {model}: {error}") from error


def loading_lines(model: str | os.PathLike[str], file: str | os.PathLike[str]) -> tuple[str, ...]:
    """Python that opens the session from a file of its profile; ``feeds`` has an array for each input."""
    return (
        "import normfold",
        f"session = normfold.open_session({os.fspath(model)!r}, {os.fspath(file)!r})",
        "outputs = session.run(None, feeds)",
    )


def plain_lines(model: str | os.PathLike[str], profile: SessionProfile) -> tuple[str, ...]:
    """Python that opens the same session with ONNX Runtime alone."""
    return ("import onnxruntime as ort", "options = ort.SessionOptions()", *_options(profile), _session(model, profile))


def _options(profile: SessionProfile) -> Iterator[str]:
    if profile.intra_threads is not None:
        yield f"options.intra_op_num_threads = {profile.intra_threads}"
    if profile.inter_threads > 1:
        yield f"options.inter_op_num_threads = {profile.inter_threads}"
    for name, value in profile.options.items():
        yield f"options.{name} = {f'ort.{KINDS[name]}.{value}' if name in KINDS else repr(value)}"
    for key, value in profile.config.items():
        yield f"options.add_session_config_entry({key!r}, {value!r})"


def _session(model: str | os.PathLike[str], profile: SessionProfile) -> str:
    name = PROVIDERS[profile.provider]
    provider = repr((name, dict(profile.provider_options))) if profile.provider_options else repr(name)
    without = f", disabled_optimizers={list(profile.disabled_optimizers)!r}" if profile.disabled_optimizers else ""
    return f"session = ort.InferenceSession({str(Path(model))!r}, options, providers=[{provider}]{without})"
