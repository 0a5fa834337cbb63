"""What is measured, under which conditions, and with what effort."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from normfold.backends.onnx.quantizers import quantizes_activations
from normfold.errors import UsageError
from normfold.measure import statistics
from normfold.models import onnxfile as modelfile
from normfold.models.data import UserInputs
from normfold.proof.probes import Dim, InputSpec, input_specs
from normfold.runtime import Runnable
from normfold.runtime.session_profile import SessionProfile, Use
from normfold.runtime.targets import LOCAL

if TYPE_CHECKING:
    import onnx
    import onnx_ir

INT8: Final = "int8"
QUANTIZED: Final = re.compile(r"^(QLinear|DynamicQuantize)|Integer$|ToFloat$")
"""Operators that compute with bytes."""
COARSE: Final = ("bfloat16", "float16")
"""Types whose rounding decides how close two models can be, coarsest first."""
COPIED_BELOW: Final = 256 << 20
"""Bytes of a model up to which a process holds several sessions of it."""
CONTROL: Final = "(control)"
"""Name of the reference's second copy."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model and the settings of its session."""

    name: str
    model: Runnable
    inputs: tuple[InputSpec, ...]
    sha256: str | None = None
    nbytes: int | None = None
    precision: str | None = None
    """Coarsest type that it computes in, where its outputs do not show it: `INT8` or one of floating point."""
    profile: SessionProfile = field(default_factory=SessionProfile)
    declared: tuple[InputSpec, ...] = ()
    """Inputs as the file has them, whatever ``inputs`` are to be."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions under which figures hold."""

    batch: int | None = None
    """Size of every input's first dimension where that is free; None: as given, else 1."""
    threads: int = 1
    use: Use = "server"
    cpus: tuple[int, ...] = ()
    """Processors to run on; empty: those that this process may use."""
    target: str = LOCAL.name
    """Name of the target that they run on."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure, and the precision aimed at."""

    half_width: float = statistics.HALF_WIDTH
    threshold: float = statistics.THRESHOLD
    first: int = statistics.FIRST
    """Processes of the first stage."""
    most: int = 15
    """Processes of both stages together."""
    time_limit: float = 60.0
    """Seconds for the processes of one experiment; none is started for which no time is left."""
    per_process: float = 2.0
    """Seconds of timed runs in each process, at most."""
    warm_up: float = 0.1
    """Seconds that each model runs in each process before it is timed."""
    worker_timeout: float = 300.0
    """Seconds that a process has to answer one request."""
    copies: int = 2
    """Sessions of each model in each process, taking turns: where a session's memory lies makes it faster or slower."""
    details: bool = True
    """Also measure memory and the time of each node, in further processes."""
    control: bool = True
    """Time a second copy of the reference beside it."""


def with_batch(
    specs: Sequence[InputSpec], given: UserInputs, batch: int | None
) -> tuple[tuple[InputSpec, ...], UserInputs]:
    """Inputs and shapes with the batch size put in; a free one is 1 by default.

    Raises:
        UsageError: ``bad-input``, every input's first dimension is fixed, and one of them at another size.
    """
    heads = {spec.name: spec.shape[0] for spec in specs if spec.shape}
    free = {name for name, head in heads.items() if not isinstance(head, int)}
    if batch is not None and not free:
        for name, head in heads.items():
            if head != batch:
                raise UsageError("bad-input", f"The batch size cannot be {batch}: input {name!r} has {head} there.")
    size = 1 if batch is None else batch
    shapes = {
        name: (batch, *shape[1:]) if batch is not None and name in free else shape
        for name, shape in given.shapes.items()
    }
    told = {heads[name] for name in (*shapes, *given.arrays) if name in free} if batch is None else set()
    same = {heads[name] for name in free} - told
    sized = (replace(spec, shape=_sized(spec.shape, same, size)) for spec in specs)
    both = tuple(spec if spec.name in shapes else better for spec, better in zip(specs, sized, strict=True))
    return both, replace(given, shapes=shapes)


def _sized(shape: tuple[Dim, ...] | None, same: set[Dim], size: int) -> tuple[Dim, ...] | None:
    """``shape`` with ``size`` for a first dimension of ``same``, and wherever the name of such a dimension stands."""
    if not shape:
        return shape
    head = size if shape[0] in same else shape[0]
    return (head, *(size if isinstance(dim, str) and dim in same else dim for dim in shape[1:]))


@contextmanager
def open_candidate(
    model: str | os.PathLike[str] | onnx.ModelProto | onnx_ir.Model,
    name: str = "",
    profile: SessionProfile | None = None,
) -> Iterator[Candidate]:
    """A model ready to be timed: checked, and in a file for as long as the ``with`` block lasts.

    Args:
        model: a path, a ``ModelProto`` or an ``onnx_ir.Model``.
        name: in the figures; by default that of the file.
        profile: settings of its session.

    Raises:
        ModelFileError: the model cannot be read.
    """
    with ExitStack() as stack:
        if isinstance(model, str | os.PathLike):
            path = Path(model)
        else:
            folder = stack.enter_context(TemporaryDirectory(prefix="normfold-"))
            path = Path(folder) / "model.onnx"
            _write(model, path)
        file = modelfile.read(path)
        inputs = input_specs(file.model)
        yield Candidate(
            name or path.stem,
            Runnable(file.file, file.data_folder, file.locations),
            inputs,
            file.sha256,
            file.nbytes,
            _precision(file.model),
            profile or SessionProfile(),
            inputs,
        )


def _write(model: onnx.ModelProto | onnx_ir.Model, path: Path) -> None:
    """Put a model in memory into a file of its own."""
    import onnx
    import onnx_ir

    if isinstance(model, onnx.ModelProto):
        modelfile.check_structure(model)
        copy = modelfile.from_proto(model)
    elif isinstance(model, onnx_ir.Model):
        copy = model.clone()
    else:
        kind = type(model).__name__
        raise UsageError("usage", f"A model is a path, an onnx.ModelProto or an onnx_ir.Model, not a {kind}.")
    with modelfile.stage(copy, path) as staged:
        staged.commit()


def _precision(model: onnx_ir.Model) -> str | None:
    operators = {node.op_type for node in model.graph.all_nodes()}
    if quantizes_activations(model) or any(QUANTIZED.search(operator) for operator in operators):
        return INT8
    types = {value.dtype.name.lower() for value in model.graph.initializers.values() if value.dtype is not None}
    return next((name for name in COARSE if name in types), None)
