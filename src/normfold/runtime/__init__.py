"""Evaluating models in a process of its own, with a memory and a time limit."""

from __future__ import annotations

from normfold.runtime.evaluator import Evaluator
from normfold.runtime.worker_client import Failed, Loaded, Ran, Runnable, WorkerClient

__all__ = ["Evaluator", "Failed", "Loaded", "Ran", "Runnable", "WorkerClient"]
