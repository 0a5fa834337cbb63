"""normfold: fold every norm that mathematics lets go, and prove it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from normfold._version import __version__
from normfold.errors import NormfoldError

if TYPE_CHECKING:
    from normfold.api import DiffersError, FoldResult, InspectResult, UnprovenError, fold, inspect, verify
    from normfold.benchmark.contender import Effort
    from normfold.benchmark.session_profile import SessionProfile
    from normfold.exporting import export, fold_program
    from normfold.latency import BenchResult, bench, compare
    from normfold.modules.saving import restore
    from normfold.preprocess import Preprocess
    from normfold.tuning import Tuning, open_session, tune

__all__ = [
    "BenchResult",
    "DiffersError",
    "Effort",
    "FoldResult",
    "InspectResult",
    "NormfoldError",
    "Preprocess",
    "SessionProfile",
    "Tuning",
    "UnprovenError",
    "__version__",
    "bench",
    "compare",
    "export",
    "fold",
    "fold_program",
    "inspect",
    "open_session",
    "restore",
    "tune",
    "verify",
]

_PLACES: Final = {
    "BenchResult": "normfold.latency",
    "Effort": "normfold.latency",
    "SessionProfile": "normfold.latency",
    "Tuning": "normfold.tuning",
    "bench": "normfold.latency",
    "compare": "normfold.latency",
    "export": "normfold.exporting",
    "fold_program": "normfold.exporting",
    "open_session": "normfold.tuning",
    "restore": "normfold.modules.saving",
    "tune": "normfold.tuning",
}
"""Where the names are that are not in `normfold.api`."""


def __getattr__(name: str) -> Any:
    """Load the verbs when one is first used: they bring NumPy and onnx_ir with them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES.get(name, "normfold.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
