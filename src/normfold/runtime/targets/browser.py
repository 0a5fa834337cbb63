"""A browser: onnxruntime-web as WebAssembly in a headless Chromium, which is the engine that users have."""

from __future__ import annotations

import shutil
import sys
from typing import Final

from normfold.runtime.targets import edge_tools
from normfold.runtime.targets.base import Target

PACKAGE: Final = "onnxruntime-web"
PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser() -> Target:
    """The target, as far as it is there."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    missing = edge_tools.missing(PACKAGE) if program else "there is no Chromium"
    worker = "normfold.runtime.targets.browsing"
    return Target(
        "browser",
        "measured",
        "ONNX Runtime as WebAssembly in a headless Chromium on this machine",
        (sys.executable, "-P", "-m", worker, program or "chromium", str(edge_tools.package(PACKAGE) / "dist")),
        # The browser has no GPU: WebGPU is computed by a software rasteriser.
        providers=("cpu", "webgpu"),
        kinds={"webgpu": "emulated"},
        missing=missing,
        install=edge_tools.command(PACKAGE, first="" if program else "chromium"),
    )
