"""PyTorch modules: run once, lift what ran to views, find the norms, write plans into a module tree."""

from normfold.backends.torch.carried import carried
from normfold.backends.torch.copies import copied
from normfold.backends.torch.graph import TorchGraph
from normfold.backends.torch.paths import closed, explore
from normfold.backends.torch.program import ProgramGraph, prepare, rewrite
from normfold.backends.torch.replacing import put
from normfold.backends.torch.stored import shared_memory, stored
from normfold.backends.torch.tracer import Trace, trace
from normfold.backends.torch.weight_norms import is_normalised, normalise
from normfold.backends.torch.write import Change, Snapshot, take_out, write

__all__ = [
    "Change",
    "ProgramGraph",
    "Snapshot",
    "TorchGraph",
    "Trace",
    "carried",
    "closed",
    "copied",
    "explore",
    "is_normalised",
    "normalise",
    "prepare",
    "put",
    "rewrite",
    "shared_memory",
    "stored",
    "take_out",
    "trace",
    "write",
]
