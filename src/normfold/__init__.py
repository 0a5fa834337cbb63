"""normfold: fold every norm that mathematics lets go, and prove it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from normfold.errors import NormfoldError

if TYPE_CHECKING:
    from normfold.api import DiffersError, FoldResult, InspectResult, UnprovenError, fold, inspect, verify
    from normfold.preprocess import Preprocess

__version__ = "0.1.0"

__all__ = [
    "DiffersError",
    "FoldResult",
    "InspectResult",
    "NormfoldError",
    "Preprocess",
    "UnprovenError",
    "__version__",
    "fold",
    "inspect",
    "verify",
]

_VERBS: Final = frozenset(
    {"DiffersError", "FoldResult", "InspectResult", "Preprocess", "UnprovenError", "fold", "inspect", "verify"}
)


def __getattr__(name: str) -> Any:
    """Load the verbs when one is first used: they bring NumPy and onnx_ir with them."""
    if name not in _VERBS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("normfold.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
