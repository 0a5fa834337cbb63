"""The verb `env`: what results depend on besides the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normfold.records import Progress, silent
from normfold.report import environment
from normfold.report.blocks import Blocks, Detail
from normfold.report.result import Result


@dataclass(frozen=True, slots=True, repr=False)
class EnvResult(Result):
    """Versions, execution providers, processor features and devices."""

    facts: Mapping[str, Any]

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """Names and values."""
        return environment.report(dict(self.facts), detail)

    def document(self) -> dict[str, Any]:
        """``result`` of the JSON document."""
        return dict(self.facts)


def env(*, progress: Progress = silent) -> EnvResult:
    """The versions, execution providers, processor features and devices that results depend on.

    Never fails: a package that cannot be used is listed with the reason.
    """
    progress("asking for versions and devices")
    return EnvResult(environment.environment())
