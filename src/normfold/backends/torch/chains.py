"""Several operations seen as one: those of an affine module (FrozenBatchNorm2d, LayerScale), or of a written norm."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from normfold.backends.torch.constants import exact
from normfold.backends.torch.tracer import Call, Op, Trace, Value
from normfold.backends.torch.written import written_norms
from normfold.core.algebra import Affine, trim

AFFINE: Final = "affine"
"""The kind of the operation that stands for such a module's own ones, which its argument ``steps`` holds."""
TANH: Final = "dynamic tanh"
"""The kind of the operation that stands for those of a DyT."""
MIXED: Final = "batch layer norm"
"""The kind of the operation that stands for those of a Batch Layer Normalization."""
ATTRIBUTES: Final = (
    *("weight", "bias", "batch_mean", "batch_var", "feature_mean", "feature_var"),
    *("batch_size", "divisor", "eps", "static_batch", "static_features"),
)
"""What such a module has (`normfold.backends.torch.modules.BatchLayerNorm`)."""


def collapse(trace: Trace) -> tuple[Op, ...]:
    """The operations of ``trace`` that depend on its inputs, those of each affine module and each norm as one."""
    stands_for: dict[Op, Op | None] = {}
    for op in written_norms(trace):
        stands_for |= dict.fromkeys(op.arguments["steps"][:-1]) | {op.arguments["steps"][-1]: op}
    for call in trace.calls:
        kinds = ((_mixed(call), MIXED), (_steps(call), AFFINE), (_tanh_steps(call), TANH))
        for steps, kind in [one for one in kinds if one[0]][:1]:
            stands_for |= dict.fromkeys(steps[:-1]) | {steps[-1]: _joined(call, steps, kind)}
    moving = (op for op in trace.ops if any(value.tensor is None for value in op.outputs) or _reads_data(op))
    # A norm that is written out may be a step of a module that is one operation as a whole.
    joined = (found for op in moving if (found := stands_for.get(op, op)) is not None)
    return tuple(found for op in joined if (found := stands_for.get(op, op)) is not None)


def _tanh_steps(call: Call) -> list[Op]:
    """The operations on data of ``call``, if they are a DyT of its one input: ``tanh(alpha * x) * weight + bias``."""
    value = call.arguments[0] if len(call.arguments) == 1 else None
    steps = [item for item in call.items if isinstance(item, Op) and _reads_data(item)]
    if [step.kind for step in steps] not in (["mul", "tanh", "mul"], ["mul", "tanh", "mul", "add"]):
        return []
    for k, step in enumerate(steps):
        if not isinstance(value, Value) or (k != 1 and not _is_step(step, value)):
            return []
        if k == 1 and step.arguments["self"] is not value:
            return []
        value = step.outputs[0]
    alone = not any(isinstance(item, Call) for item in call.items)
    return steps if alone and call.result is value and _constant(steps[0]).tensor.numel() == 1 else []


def _mixed(call: Call) -> list[Op]:
    """The operations on data of ``call``, where its module is a Batch Layer Normalization by its attributes."""
    alike = len(call.arguments) == 1 and all(hasattr(call.module, name) for name in ATTRIBUTES)
    steps = [item for item in call.items if isinstance(item, Op) and _reads_data(item)] if alike else []
    alone = not any(isinstance(item, Call) for item in call.items)
    return steps if steps and alone and (call.result,) == steps[-1].outputs else []


def tanh_of(op: Op) -> tuple[float, Affine]:
    """The ``alpha`` of a DyT, and the scale and shift behind its tanh."""
    first, _, *rest = op.arguments["steps"]
    tail = Affine.of()
    for step in rest:
        tail = _map(step).after(tail)
    return float(exact(_constant(first).tensor).reshape(())), tail


def affine_of(op: Op) -> Affine:
    """The map that the steps of ``op`` make up."""
    affine = Affine.of()
    for step in op.arguments["steps"]:
        affine = _map(step).after(affine)
    return affine


def _reads_data(op: Op) -> bool:
    return any(value.tensor is None for value in op.inputs)


def _steps(call: Call) -> list[Op]:
    """The operations on data of ``call``, if they are an affine map of its one input that scales it; else none."""
    if isinstance(call.module, nn.modules.batchnorm._NormBase) or len(call.arguments) != 1:  # noqa: SLF001
        return []
    value = call.arguments[0]
    steps = [item for item in call.items if isinstance(item, Op) and _reads_data(item)]
    if not isinstance(value, Value) or not any(step.kind in ("mul", "div") for step in steps):
        return []
    for step in steps:
        if not _is_step(step, value):
            return []
        value = step.outputs[0]
    inner = [item for item in call.items if isinstance(item, Call)]
    reached = inner[0].arguments if inner else (call.result,)
    return steps if reached == (value,) else []


def _is_step(op: Op, value: Value) -> bool:
    """Whether ``op`` maps ``value`` by a stored constant, into memory of its own."""
    if op.kind not in ("mul", "div", "add", "sub") or len(op.outputs) != 1 or op.arguments.get("alpha", 1) != 1:
        return False
    left, right = op.arguments["self"], op.arguments["other"]
    constant = right if left is value else left
    ordered = left is value or (right is value and op.kind in ("mul", "add"))
    if not ordered or not isinstance(constant, Value) or constant.tensor is None or op.arguments.get("rounding_mode"):
        return False
    fresh = op.outputs[0].memory is not value.memory
    return fresh and constant.memory.written < 0 and op.outputs[0].shape == value.shape


def _joined(call: Call, steps: list[Op], kind: str) -> Op:
    value = call.arguments[0]
    arguments = {"input": value, "steps": tuple(steps), **(_held(steps) if kind == AFFINE else {})}
    op = Op(kind, steps[-1].name, steps[-1].index, call, arguments, steps[-1].outputs)
    op.outputs[0].op = op
    call.items = [op if item is steps[-1] else item for item in call.items if item not in steps[:-1]]
    return op


def _held(steps: list[Op]) -> dict[str, Value]:
    """The stored tensors that are the whole scale and the whole shift, where the steps are one of each at most."""
    kinds = [step.kind for step in steps]
    if kinds not in (["mul"], ["mul", "add"]):
        return {}
    constants = zip(("weight", "bias"), map(_constant, steps), strict=False)
    return {role: constant for role, constant in constants if constant.names}


def _constant(step: Op) -> Any:
    left, right = step.arguments["self"], step.arguments["other"]
    return right if left.tensor is None else left


def _map(step: Op) -> Affine:
    k = trim(exact(_constant(step).tensor))
    if step.kind == "mul":
        return Affine.of(k)
    if step.kind == "div":
        return Affine.of(1 / k)
    return Affine.of(shift=k if step.kind == "add" else -k)
