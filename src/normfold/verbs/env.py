"""The verb `env`: what results depend on besides the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normfold.records import Progress, silent
from normfold.report import environment
from normfold.report.blocks import Blocks, Detail, Heading, KeyValues, Paragraph
from normfold.report.result import Result
from normfold.runtime.targets import Target, find, listed


@dataclass(frozen=True, slots=True, repr=False)
class EnvResult(Result):
    """Versions, execution providers, processor features, devices, and targets to measure on."""

    facts: Mapping[str, Any]
    targets: tuple[Target, ...]
    asked: Target | None = None
    """The one target that was asked about."""

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """Names and values; of one target, the command that makes it run, or that it can."""
        if self.asked is not None:
            return (Paragraph(_sentence(self.asked)),)
        facts = environment.report(dict(self.facts), detail)
        if detail == Detail.SUMMARY:
            return facts
        return (*facts, Heading("targets"), KeyValues(tuple((one.name, _state(one)) for one in self.targets)))

    def document(self) -> dict[str, Any]:
        """``result`` of the JSON document."""
        return {**self.facts, "targets": [one.record() for one in self.targets]}


def env(*, target: str | None = None, progress: Progress = silent) -> EnvResult:
    """The versions, execution providers, processor features and devices that results depend on, and the targets.

    A package that cannot be used is listed with the reason.

    Args:
        target: the one to say in a sentence of, whether it can run here.
        progress: told what is being done.

    Raises:
        UsageError: there is no such target.
    """
    asked = None if target is None else find(target)
    progress("asking for versions and devices")
    targets = listed() if asked is None else (asked,)
    return EnvResult(environment.environment(), targets, asked)


def _sentence(target: Target) -> str:
    if not target.missing:
        return f"The target {target.name} can run here."
    return target.install or f"The target {target.name} cannot run here: {target.missing}."


def _state(target: Target) -> str:
    if not target.missing:
        return f"{target.kind}: {target.purpose}"
    how = f"; {target.install}" if target.install else ""
    return f"cannot run here: {target.missing}{how}"
