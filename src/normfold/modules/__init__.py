"""Working on an ``nn.Module``: load one, run it, fold it, prove it in PyTorch itself, save it."""

from normfold.modules.folding import Folded, fold, inspect

__all__ = ["Folded", "fold", "inspect"]
