"""A folded module as an ``ExportedProgram`` in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from normfold.exporting.exporter import exported_program, quiet
from normfold.exporting.interface import Dynamic, interface
from normfold.modules.example import Example
from normfold.modules.saving import replacing


def save_program(module: nn.Module, example: Any, dynamic: Dynamic, target: Path) -> None:
    """Write ``module`` to ``target``, a ``.pt2`` file, by way of ``torch.export``.

    Raises:
        UsageError: ``not-exportable``, with PyTorch's reason.
        OutputError: ``output-not-writable``.
    """
    with replacing(target) as file:
        program = exported_program(module, interface(module, Example.of(example), dynamic))
        with quiet():
            torch.export.save(program, file)
