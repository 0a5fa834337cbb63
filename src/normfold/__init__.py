"""normfold: fold every norm that mathematics lets go, and prove it."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from normfold._version import __version__
from normfold.errors import NormfoldError
from normfold.models.deferred import Deferring

if TYPE_CHECKING:
    from normfold.core.preprocess import Preprocess
    from normfold.measure.candidate import Effort
    from normfold.models.module.save import restore
    from normfold.pipeline.prove import DiffersError, UnprovenError
    from normfold.runtime.session_profile import SessionProfile
    from normfold.runtime.sessions import open_session
    from normfold.verbs.advise import AdviceResult, advise
    from normfold.verbs.bench import BenchResult, bench
    from normfold.verbs.compare import CompareResult, compare
    from normfold.verbs.convert import convert
    from normfold.verbs.demo import DemoResult, demo
    from normfold.verbs.env import EnvResult, env
    from normfold.verbs.export import export
    from normfold.verbs.fold import fold
    from normfold.verbs.fold_program import fold_program
    from normfold.verbs.fold_result import FoldResult
    from normfold.verbs.inspect import InspectResult, inspect
    from normfold.verbs.optimize import OptimizeResult, optimize
    from normfold.verbs.ort import OrtResult, ort
    from normfold.verbs.quantize import QuantizeResult, quantize
    from normfold.verbs.tune import TuneResult, tune
    from normfold.verbs.undo import UndoResult, undo
    from normfold.verbs.verify import VerifyResult, verify

__all__ = [
    "AdviceResult",
    "BenchResult",
    "CompareResult",
    "DemoResult",
    "DiffersError",
    "Effort",
    "EnvResult",
    "FoldResult",
    "InspectResult",
    "NormfoldError",
    "OptimizeResult",
    "OrtResult",
    "Preprocess",
    "QuantizeResult",
    "SessionProfile",
    "TuneResult",
    "UndoResult",
    "UnprovenError",
    "VerifyResult",
    "__version__",
    "advise",
    "bench",
    "compare",
    "convert",
    "demo",
    "env",
    "export",
    "fold",
    "fold_program",
    "inspect",
    "open_session",
    "optimize",
    "ort",
    "quantize",
    "restore",
    "tune",
    "undo",
    "verify",
]

_PLACES: Final = {
    "AdviceResult": "normfold.verbs.advise",
    "BenchResult": "normfold.verbs.bench",
    "CompareResult": "normfold.verbs.compare",
    "DemoResult": "normfold.verbs.demo",
    "DiffersError": "normfold.pipeline.prove",
    "Effort": "normfold.measure.candidate",
    "EnvResult": "normfold.verbs.env",
    "FoldResult": "normfold.verbs.fold_result",
    "InspectResult": "normfold.verbs.inspect",
    "OptimizeResult": "normfold.verbs.optimize",
    "OrtResult": "normfold.verbs.ort",
    "Preprocess": "normfold.core.preprocess",
    "QuantizeResult": "normfold.verbs.quantize",
    "SessionProfile": "normfold.runtime.session_profile",
    "TuneResult": "normfold.verbs.tune",
    "UndoResult": "normfold.verbs.undo",
    "UnprovenError": "normfold.pipeline.prove",
    "VerifyResult": "normfold.verbs.verify",
    "advise": "normfold.verbs.advise",
    "bench": "normfold.verbs.bench",
    "compare": "normfold.verbs.compare",
    "convert": "normfold.verbs.convert",
    "demo": "normfold.verbs.demo",
    "env": "normfold.verbs.env",
    "export": "normfold.verbs.export",
    "fold": "normfold.verbs.fold",
    "fold_program": "normfold.verbs.fold_program",
    "inspect": "normfold.verbs.inspect",
    "open_session": "normfold.runtime.sessions",
    "optimize": "normfold.verbs.optimize",
    "ort": "normfold.verbs.ort",
    "quantize": "normfold.verbs.quantize",
    "restore": "normfold.models.module.save",
    "tune": "normfold.verbs.tune",
    "undo": "normfold.verbs.undo",
    "verify": "normfold.verbs.verify",
}
"""Where the names are."""

# Here, because whichever module comes first may import onnx_ir.
if "onnx_ir" not in sys.modules:
    sys.meta_path.insert(0, Deferring("onnx_ir", "sympy"))


def __getattr__(name: str) -> Any:
    """Load the verbs when one is first used: they bring NumPy and onnx_ir with them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
