"""ONNX Runtime: its sessions, what it reports, and the processes in which it runs, with a memory and a time limit.

No other room imports it. Its telemetry is off in this process and in those that it starts.
"""

from __future__ import annotations

import os

from normfold.runtime.workers.checker import CHECKER
from normfold.runtime.workers.evaluation_client import Drawn, Loaded, Ran, Runnable, WorkerClient
from normfold.runtime.workers.evaluator import Evaluator
from normfold.runtime.workers.process import Failed

__all__ = ["CHECKER", "Drawn", "Evaluator", "Failed", "Loaded", "Ran", "Runnable", "WorkerClient"]

# ONNX Runtime reads this when it is imported, which happens in functions of this room only.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
