"""Every error a user can meet: a stable code, one sentence, and the way out.

``CODES`` is a closed list. Documentation and the JSON Schema are generated from it, so a code
that is raised but not listed here is a bug that the constructor reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar, Final

CODES: Final[dict[str, str]] = {
    "usage": "The command line or the arguments of a call are not valid.",
    "file-not-found": "The model file does not exist or cannot be read.",
    "not-a-file": "The path names a directory or a special file.",
    "empty-file": "The model file has no bytes.",
    "not-onnx": "The file is not an ONNX model: it cannot be parsed, or it was cut short.",
    "too-large": "The model, or a tensor in it, is larger than the format or this machine allows.",
    "bad-structure": "The model's graph is not well formed: a cycle, or a value without a definition.",
    "recursive-function": "A local function calls itself, directly or through others.",
    "bad-tensor": "A tensor's dimensions, type and data do not fit together.",
    "missing-external-data": "The model refers to a data file that is not there or is too short.",
    "unsafe-external-data": "The model refers to data outside its own folder.",
    "unsupported-version": "The model's IR version or opset is newer than the installed onnx package knows.",
    "invalid-model": "The ONNX checker or shape inference rejects the model.",
    "output-is-input": "The output would overwrite the input.",
    "output-not-writable": "The output cannot be written: a missing folder, missing rights, a full disk.",
    "bad-input": "An input given for verification does not fit the model.",
    "bad-data": "The calibration or evaluation data cannot be read, is empty, or does not fit the model.",
    "bad-metric": "The metric is unknown, fails, or needs labels that the data lack.",
    "bad-preprocess": "The preprocessing asked for is not valid, or does not fit the model's input.",
    "unverified": "No evaluator could run the model, so the result was not written.",
    "result-differs": "The folded model differs from its source, so the result was not written.",
    "bad-module": "What package.module:factory names is not there, or does not make a module.",
    "bad-weights": "The weights file cannot be read, or does not fit the module.",
    "unsafe-weights": "The weights file holds more than tensors: unpickling it could run code.",
    "not-repeatable": "The module gives other outputs for the same inputs, so no result can be compared with it.",
    "not-traceable": "The module runs, but not while its operations are recorded, as where it takes gradients.",
    "not-exportable": "PyTorch cannot export the module.",
    "nothing-to-quantize": "No operation of the model can be quantised.",
    "not-faster": "The quantised model is not faster than its source, so it was not written.",
    "budget-missed": "No model that was tried keeps within the accuracy or latency asked for, so none was written.",
    "export-differs": "The exported model differs from the module, so it was not written.",
    "meta-tensors": "The module's tensors are on the meta device, which holds no data.",
    "custom-ops": "The library of custom operators cannot be loaded.",
    "missing-package": "A required package is not installed.",
    "no-cost-table": "There is no cost table for this execution provider.",
    "provider-unavailable": "The execution provider is not part of the installed ONNX Runtime, or cannot be loaded.",
    "provider-fallback": "Some nodes would run on another execution provider than the one asked for.",
    "not-runnable": "ONNX Runtime cannot load or run the model.",
    "inputs-differ": "The models to time beside one another take different inputs.",
    "outputs-differ": "The outputs of the models to time differ by more than the tolerance.",
    "deadline-missed": "More runs of a model took longer than the deadline than may.",
    "worker-died": "The worker process that timed a model crashed or was killed.",
    "out-of-memory": "There is not enough memory to run the model.",
    "target-unavailable": "The target to measure on cannot run here, or lacks what it needs.",
    "target-unsupported": "The target to measure on does not support an option.",
    "target-full": "There is no space left on the target's disk.",
    "link-broken": "The connection to the target was interrupted, or damaged what was sent over it.",
    "worker-version": "The target's worker speaks another version of the protocol.",
    "timed-out": "The model did not finish loading or running in time.",
    "bad-session-profile": "The session profile is not valid, or has an unknown setting.",
    "bad-measurement": "The file of figures is not a valid normfold.bench/1 document.",
    "environment-differs": "Two sets of figures were measured under different conditions.",
    "already-quantized": "The model is quantised already.",
    "cannot-dequantize": "An operation of a quantised model has no form in floating point here.",
    "internal": "A bug in normfold.",
}
"""Error code to what it means, in the order in which the documentation lists them."""


def suggestion(written: str, names: Iterable[str]) -> str:
    """What may have been meant by ``written``, among ``names``; empty where nothing is near."""
    near = get_close_matches(written, list(names), n=1)
    return f"Did you mean {near[0]!r}?" if near else ""


class NormfoldError(Exception):
    """Base of every error raised on purpose.

    ``code`` is a key of `CODES`, ``hint`` says what the user can do; ``exit_code`` is the
    command's exit status: 2 for bad usage or input, 3 for a missing environment.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"unlisted error code: {code}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def record(self) -> dict[str, str]:
        """Code, message and hint, as a document holds them."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class UsageError(NormfoldError):
    """The call is not valid: its options, patterns or inputs."""


class ModelFileError(NormfoldError):
    """A model file cannot be read, is malformed or is unsafe."""


class OutputError(NormfoldError):
    """The result cannot be written where it was asked for."""


class FindingError(NormfoldError):
    """The job was done, and this is what it found."""

    exit_code = 1


class EnvironmentUnavailableError(NormfoldError):
    """A package, an execution provider or a worker that the job needs is not available."""

    exit_code = 3
