"""Lines of Python that open a session from its profile, with normfold and without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from normfold.runtime.providers import PROVIDERS
from normfold.runtime.session_profile import SessionProfile
from normfold.runtime.sessions import ENUMERATIONS, attributes


def loading_lines(model: str | os.PathLike[str], file: str | os.PathLike[str]) -> tuple[str, ...]:
    """Python that opens the session from a file of its profile; ``inputs`` has an array for each input."""
    return (
        "import normfold",
        f"session = normfold.open_session({os.fspath(model)!r}, {os.fspath(file)!r})",
        "outputs = session.run(None, inputs)",
    )


def plain_lines(model: str | os.PathLike[str], profile: SessionProfile) -> tuple[str, ...]:
    """Python that opens the same session with ONNX Runtime alone."""
    return ("import onnxruntime as ort", "options = ort.SessionOptions()", *_options(profile), _session(model, profile))


def _options(profile: SessionProfile) -> Iterator[str]:
    for name, value in attributes(profile.to_json()).items():
        enumeration = ENUMERATIONS.get(name)
        yield f"options.{name} = {f'ort.{enumeration}.{value}' if enumeration else repr(value)}"
    for key, value in profile.config.items():
        yield f"options.add_session_config_entry({key!r}, {value!r})"


def _session(model: str | os.PathLike[str], profile: SessionProfile) -> str:
    name = PROVIDERS[profile.provider]
    provider = repr((name, dict(profile.provider_options))) if profile.provider_options else repr(name)
    without = f", disabled_optimizers={list(profile.disabled_optimizers)!r}" if profile.disabled_optimizers else ""
    return f"session = ort.InferenceSession({str(Path(model))!r}, options, providers=[{provider}]{without})"
