"""Activations, Clip, Pad, Concat, arithmetic on values, and their matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from normfold.backends.torch.constants import exact, largest, step
from normfold.backends.torch.lift.moving import Lift, data
from normfold.backends.torch.schemas import TENSORS
from normfold.backends.torch.tracer import Op, Value
from normfold.backends.torch.tree import ModuleTree
from normfold.core.algebra import Affine, Permute, trim
from normfold.core.premises import CONSTANT, KNOWN_PARTS, LINEAR_CONSUMER, MATRIX, NEEDS_STRUCTURE, SAME_SHAPE
from normfold.core.views import (
    AffineOp,
    Clip,
    Concat,
    MatrixProduct,
    Moving,
    NotLifted,
    Pad,
    PositiveHomogeneous,
    Product,
    Sum,
    View,
)
from normfold.records import Refusal

RELU6 = (0.0, 6.0)


def _homogeneous(_: ModuleTree, op: Op) -> View:
    return PositiveHomogeneous(node=op, op=op.kind, inputs=(data(op),), outputs=op.outputs)


def _clip(tree: ModuleTree, op: Op) -> View:
    names = ("min_val", "max_val") if op.kind == "hardtanh" else ("min", "max")
    low, high = RELU6 if op.kind == "relu6" else (op.arguments.get(name) for name in names)
    if isinstance(low, Value) or isinstance(high, Value):
        raise NotLifted(CONSTANT, f"the bounds of {tree.label(op)} are tensors")
    bounds = (float("-inf") if low is None else float(low), float("inf") if high is None else float(high))
    return Clip(
        node=op,
        op=op.kind,
        inputs=(data(op),),
        outputs=op.outputs,
        low=np.asarray(bounds[0]),
        high=np.asarray(bounds[1]),
    )


def _extremum(tree: ModuleTree, op: Op) -> View:
    """``maximum`` and ``minimum`` of a value and a stored tensor."""
    left, right = op.arguments["self"], op.arguments["other"]
    x, held = (left, right) if left.tensor is None else (right, left)
    if held.tensor is None or held.memory.written >= 0:
        raise NotLifted(CONSTANT, f"{tree.label(op)} does not compare a value with a constant")
    bound = exact(held.tensor)
    if x.shape != op.outputs[0].shape or not bool(np.isfinite(bound).all()):
        raise NotLifted(SAME_SHAPE, f"the constant of {tree.label(op)} enlarges the value, or is not a number")
    lower = op.kind == "maximum"
    return Clip(
        node=op,
        op=op.kind,
        inputs=(x,),
        outputs=op.outputs,
        low=trim(bound) if lower else np.asarray(-np.inf),
        high=np.asarray(np.inf) if lower else trim(bound),
        uniform=False,
        holds_low=lower,
        holds_high=not lower,
    )


def _pad(_: ModuleTree, op: Op) -> View:
    pads = op.arguments.get("pad", op.arguments.get("padding", ()))
    axes = tuple(-1 - k // 2 for k in range(0, len(pads), 2) if pads[k] or pads[k + 1])
    constant = op.arguments.get("mode", "constant") == "constant"
    value = float(op.arguments.get("value") or 0.0) if constant else None
    return Pad(node=op, op=op.kind, inputs=(data(op),), outputs=op.outputs, axes=axes, value=value)


def _concat(tree: ModuleTree, op: Op) -> View:
    parts = tuple(op.arguments["tensors"])
    stored = Refusal(LINEAR_CONSUMER, f"{tree.label(op)} joins a stored tensor to its input")
    refusals = (stored,) if any(part.tensor is not None for part in parts) else ()
    rank = len(op.outputs[0].shape)
    if any(len(part.shape) != rank for part in parts):
        raise NotLifted(KNOWN_PARTS, f"{tree.label(op)} joins an empty tensor of another rank")
    axis = int(op.arguments["dim"]) % rank - rank
    sizes = tuple(part.shape[axis] for part in parts)
    return Concat(node=op, op=op.kind, inputs=parts, outputs=op.outputs, axis=axis, sizes=sizes, refusals=refusals)


def _terms(tree: ModuleTree, op: Op) -> tuple[Value, Value]:
    left, right = op.arguments["self"], op.arguments["other"]
    if not isinstance(left, Value) or not isinstance(right, Value) or op.arguments.get("alpha", 1) != 1:
        raise NotLifted(NEEDS_STRUCTURE, f"{tree.label(op)} works with a Python constant of its module's own forward")
    if left.tensor is not None or right.tensor is not None:
        raise NotLifted(NEEDS_STRUCTURE, _own_constant(tree, op))
    return left, right


def _own_constant(tree: ModuleTree, op: Op) -> str:
    return f"{tree.label(op)} works with a constant in its module's own forward"


def stored_term(op: Op) -> tuple[str, Any]:
    """Which argument of an addition is stored, if one is, and what it is."""
    left = op.arguments["self"]
    argument = "self" if isinstance(left, Value) and left.tensor is not None else "other"
    return argument, op.arguments[argument]


def _shift(tree: ModuleTree, op: Op) -> View | None:
    """The addition of a stored tensor, as a positional table: it can get other values, but not go."""
    argument, k = stored_term(op)
    x = op.arguments["other" if argument == "self" else "self"]
    stored = k.tensor if isinstance(k, Value) and isinstance(x, Value) and x.tensor is None else None
    if (
        stored is None
        or type(stored) not in TENSORS
        or not stored.is_floating_point()
        or op.outputs[0].shape != x.shape
    ):
        return None
    if op.kind != "add" or op.arguments.get("alpha", 1) != 1:
        return None
    return AffineOp(
        node=op,
        op="Add",
        inputs=(x,),
        outputs=op.outputs,
        affine=Affine.of(shift=exact(stored)),
        holds_scale=False,
        holds_shift=_is_own(tree, op, argument),
        largest=largest(stored),
        step=step(stored),
    )


def _is_own(tree: ModuleTree, op: Op, argument: str) -> bool:
    try:
        tree.own(op, "the constant", argument)
    except NotLifted:
        return False
    return True


def _sum(tree: ModuleTree, op: Op) -> View:
    if any(isinstance(op.arguments[side], int | float) and op.arguments[side] == 0 for side in ("self", "other")):
        # What Python's sum() starts with.
        return Moving(node=op, op=op.kind, inputs=(data(op),), outputs=op.outputs, moves=(Permute(),))
    shift = _shift(tree, op)
    if shift is not None:
        return shift
    terms = _terms(tree, op)
    signs = (1, -1) if op.kind == "sub" else (1, 1)
    shapes = tuple(term.shape for term in terms)
    return Sum(node=op, op=op.kind, inputs=terms, outputs=op.outputs, signs=signs, shapes=shapes)


def _product(tree: ModuleTree, op: Op) -> View:
    terms = _terms(tree, op)
    shapes = tuple(term.shape for term in terms)
    steady = tuple(k for k, term in enumerate(terms) if term.steady)
    return Product(node=op, op=op.kind, inputs=terms, outputs=op.outputs, shapes=shapes, steady=steady)


def _negation(_: ModuleTree, op: Op) -> View:
    """The product of a value and minus one, which has no constant to be set."""
    x = data(op)
    return Product(node=op, op=op.kind, inputs=(x,), outputs=op.outputs, shapes=(x.shape,))


def _matrix_product(tree: ModuleTree, op: Op) -> View:
    factors = (op.arguments["self"], op.arguments["mat2" if op.kind == "bmm" else "other"])
    left, right = (factor.shape for factor in factors)
    if any(factor.tensor is not None for factor in factors) or len(left) < 2 or len(right) < 2:
        raise NotLifted(MATRIX, f"an operand of {tree.label(op)} is stored, or a vector")
    return MatrixProduct(node=op, op="MatMul", inputs=factors, outputs=op.outputs, shapes=(left, right))


LIFTS: dict[str, Lift] = {
    **dict.fromkeys(("relu", "leaky_relu", "prelu", "abs"), _homogeneous),
    **dict.fromkeys(("hardtanh", "relu6", "clamp", "clamp_min", "clamp_max", "clip"), _clip),
    **dict.fromkeys(("maximum", "minimum"), _extremum),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concat),
    **dict.fromkeys(("add", "sub"), _sum),
    "mul": _product,
    "neg": _negation,
    **dict.fromkeys(("matmul", "bmm"), _matrix_product),
}
