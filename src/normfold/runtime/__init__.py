"""Evaluating models in a process of its own, with a memory and a time limit."""

from __future__ import annotations

from normfold.runtime.evaluator import Evaluator
from normfold.runtime.worker_client import Loaded, Ran, Runnable, WorkerClient
from normfold.runtime.worker_process import Failed

__all__ = ["Evaluator", "Failed", "Loaded", "Ran", "Runnable", "WorkerClient"]
