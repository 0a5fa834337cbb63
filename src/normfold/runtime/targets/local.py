"""This machine: fresh processes of Python, which read and write its files."""

from __future__ import annotations

import platform
from typing import Final

from normfold.runtime.providers import ELSEWHERE, is_emulated
from normfold.runtime.targets.base import Target
from normfold.runtime.workers.process import local

LOCAL: Final = Target(
    "local",
    "measured",
    "ONNX Runtime in Python on this machine",
    local("normfold.runtime.workers.timing"),
    travels=False,
    profiles=True,
    tunes=True,
    pools=True,
    limits_memory=True,
    providers=None,
    custom_ops=True,
    kinds={one: "compiled" for one in ELSEWHERE if is_emulated(one, platform.machine())},
)
