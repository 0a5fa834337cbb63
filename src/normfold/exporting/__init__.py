"""From an ``nn.Module`` to ONNX: PyTorch's exporter without its optimiser, normfold's own fold, compared with eager."""

from normfold.exporting.job import export
from normfold.exporting.program import fold_program, save_program

__all__ = ["export", "fold_program", "save_program"]
