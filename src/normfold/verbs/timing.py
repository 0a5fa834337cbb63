"""What the verbs share that time models: models of any kind, their sessions' settings, and what both must be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from normfold import limits
from normfold.errors import UsageError
from normfold.measure.candidate import Candidate, open_candidate
from normfold.models.source import File, OnnxModel, module_of
from normfold.runtime import processors, session_profile
from normfold.runtime.providers import PROVIDERS
from normfold.runtime.session_profile import PRECISION, PROVIDER_OPTIONS, SessionProfile, in_precision
from normfold.runtime.targets import Target

if TYPE_CHECKING:
    from torch import nn

    Model = OnnxModel | nn.Module
    Session = SessionProfile | File


def settings_of_each(session: Session | None, ep: str | Sequence[str], precision: str | None) -> list[SessionProfile]:
    """Those of `session_settings` for each of several execution providers, such as ``"cpu,openvino"``.

    ``precision`` is for those that have one to choose.

    Raises:
        UsageError: as `session_settings`; none of them has a precision to choose.
    """
    names = list(dict.fromkeys(ep.split(",") if isinstance(ep, str) else ep))
    found = [session_settings(session, name) for name in (names if session is None else names[:1])]
    if precision is None:
        return found
    chosen = [one if PRECISION not in PROVIDER_OPTIONS[one.provider] else in_precision(one, precision) for one in found]
    return [in_precision(found[0], precision)] if chosen == found else chosen


def session_settings(session: Session | None, ep: str) -> SessionProfile:
    """``session``, or the settings in its file; where there is none, the default settings on ``ep``.

    Raises:
        UsageError: there is no such execution provider; ``bad-session-profile``.
    """
    if session is None:
        if ep not in PROVIDERS:
            known = ", ".join(PROVIDERS)
            raise UsageError("usage", f"There is no execution provider {ep!r}.", f"There are: {known}.")
        return SessionProfile(provider=ep)
    return session if isinstance(session, SessionProfile) else session_profile.read(session)


def check_cpus(cpus: Sequence[int]) -> None:
    """Raise `UsageError` unless this process may run on all of them."""
    available = processors.usable()
    if unavailable := sorted(set(cpus) - set(available)):
        listed = ", ".join(map(str, available))
        raise UsageError("usage", f"Processor {unavailable[0]} is not available.", f"Available: {listed}.")


def check_target(target: Target, settings: SessionProfile, cpus: Sequence[int], custom_ops: Sequence[str] = ()) -> None:
    """Raise the `NormfoldError` that says what keeps ``target`` from running what is asked for."""
    target.check([settings.provider], custom_ops, limits.memory_limit())
    if not target.remote:
        check_cpus(cpus)


@contextmanager
def open_candidates(
    models: Sequence[Model], example_inputs: Any, settings: SessionProfile
) -> Iterator[tuple[Candidate, ...]]:
    """The models ready to be timed for as long as the ``with`` block lasts; modules are exported first.

    Raises:
        UsageError: there is no model; a module comes without ``example_inputs``, or these come without a module.
        NormfoldError: a model cannot be read, or a module not be exported.
    """
    if not models:
        raise UsageError("usage", "There is no model to time.")
    if example_inputs is not None and not any(map(module_of, models)):
        raise UsageError("usage", "example_inputs= is for PyTorch modules.", "Use inputs= for arrays by input name.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="normfold-")))
        opened = [
            stack.enter_context(_opened(model, example_inputs, folder / f"{index}.onnx", settings))
            for index, model in enumerate(models)
        ]
        yield _with_distinct_names(opened, list(map(str, models)))


@contextmanager
def _opened(model: Model, example_inputs: Any, file: Path, settings: SessionProfile) -> Iterator[Candidate]:
    module = module_of(model)
    if module is None:
        with open_candidate(cast("OnnxModel", model), profile=settings) as opened:
            yield opened
        return
    if example_inputs is None:
        raise UsageError("usage", "A PyTorch module is exported to be timed, and needs example_inputs=.")
    from normfold.verbs.export import export

    export(module, example_inputs, output=file, fold=False)
    with open_candidate(file, type(module).__name__, settings) as opened:
        yield opened


def on_each(candidates: Sequence[Candidate], settings: Sequence[SessionProfile]) -> tuple[Candidate, ...]:
    """Every candidate with each of the settings; their execution provider in its name where there are several."""
    if len(settings) == 1:
        return tuple(candidates)
    return tuple(
        replace(one, name=f"{one.name} ({profile.provider})", profile=profile)
        for profile in settings
        for one in candidates
    )


def _with_distinct_names(candidates: Sequence[Candidate], paths: Sequence[str]) -> tuple[Candidate, ...]:
    """File names, else paths, else numbered."""
    names = [one.name for one in candidates]
    if len(set(names)) < len(names):
        names = [path if len(path) < 200 else name for path, name in zip(paths, names, strict=True)]
    unique: list[str] = []
    for name in names:
        copies = (f"{name} #{number}" for number in itertools.count(2))
        unique.append(next(word for word in itertools.chain([name], copies) if word not in unique))
    return tuple(replace(one, name=name) for one, name in zip(candidates, unique, strict=True))
