"""Node: onnxruntime-node, as an application of JavaScript on a gateway or a desktop has it."""

from __future__ import annotations

import shutil
from typing import Final

from normfold.runtime.targets import edge_tools
from normfold.runtime.targets.base import Target
from normfold.runtime.targets.server import SCRIPTS

PACKAGE: Final = "onnxruntime-node"


def node() -> Target:
    """The target, as far as it is there."""
    program = shutil.which("node")
    missing = edge_tools.missing(PACKAGE) if program else "there is no program node"
    return Target(
        "node",
        "measured",
        "ONNX Runtime in Node.js on this machine",
        (program or "node", str(SCRIPTS / "node_worker.mjs"), str(edge_tools.folder())),
        profiles=True,
        missing=missing,
        install=edge_tools.command(PACKAGE, first="" if program else "nodejs npm"),
    )
