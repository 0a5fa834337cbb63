"""Modules that compute their weight anew at each call from what they store: weight standardisation, PyTorch's norms.

Where the call does nothing but that, a plain convolution that stores the computed weight does the same. A linear module
of PyTorch's whose weight has a weight norm or a spectral norm (`torch.nn.utils`) does so without. What is found
out from one run is looked at again at other sizes of the input, which the module may use to compute a padding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from torch import nn

from normfold.backends.torch.schemas import TENSORS
from normfold.backends.torch.stored import shared_memory
from normfold.backends.torch.tracer import Call, Computed, Op, Trace, Value, trace
from normfold.backends.torch.tree import ModuleTree
from normfold.backends.torch.weight_norms import is_normalised, parts, watched, without_norm
from normfold.core.premises import (
    CALLED_ONCE,
    CONSTANT,
    EVAL_MODE,
    NEEDS_STRUCTURE,
    NO_HOOKS,
    PARAMETER_UNTIED,
)
from normfold.core.views import NotLifted
from normfold.errors import UsageError
from normfold.records import Refusal

PLAIN: Final[Mapping[str, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}
"""The module that each operation is."""
NORMALISED: Final = frozenset({"linear", *PLAIN, *(f"conv_transpose{rank}d" for rank in (1, 2, 3))})
"""Operations of modules whose weight may have a norm of PyTorch's."""
MOST_STRIDE: Final = 8
"""Strides up to which every remainder that an input's size can leave is looked at."""


def computed_weights(base: Trace) -> dict[Op, Computed | Refusal]:
    """Every convolution of ``base`` whose module computes the weight itself; why it has to, where it has."""
    candidates = [
        (op, made)
        for op in base.ops
        if (op.kind in PLAIN or (op.kind in NORMALISED and is_normalised(op.call.module))) and (made := _made(op))
    ]
    if not candidates:
        return {}
    tree, out = ModuleTree(base, shared_memory(base.module)), dict[Op, Computed | Refusal]()
    for op, made in candidates:
        try:
            out[op] = _computed(tree, op, made)
        except NotLifted as reason:
            out[op] = reason.refusal
    return out | dict(_called_otherwise(tree, out))


def baked(op: Op, computed: Computed, *, bias: bool) -> nn.Module:
    """A module that stores the weight that the one of ``op`` computes; with room for a bias, or without."""
    if computed.plain is None:
        return without_norm(op.call.module, op.arguments["weight"].tensor, bias=bias)
    weight, own = op.arguments["weight"].tensor, list(op.call.module.parameters())
    like = {"device": "meta", "dtype": weight.dtype}  # where nothing is drawn at random
    new = computed.plain(**computed.settings, bias=bias, **like)
    trains = any(parameter.requires_grad for parameter in own) or not own
    new.weight = nn.Parameter(weight.detach().clone(), requires_grad=trains)
    if bias:
        held = op.arguments["bias"]
        values = weight.new_zeros(new.out_channels) if held is None else held.tensor.detach().clone()
        new.bias = nn.Parameter(values, requires_grad=trains)
    new.training = op.call.module.training
    return new


def _made(op: Op) -> tuple[Op, ...]:
    """The operations that compute the constants of ``op`` within its call; none where others do, or nothing does.

    A weight that is larger than what it is made from stays as it is: it would take more memory.
    """
    weight, steps = op.arguments["weight"], dict[Op, None]()
    if not isinstance(weight, Value) or weight.tensor is None or weight.names:
        return ()
    todo, stored, own = _constants(op), set[Value](), parts(op.call.module)
    while todo:
        value = todo.pop()
        if value.names:
            stored.add(value)
        elif value.op is None or not _is_within(value.op.call, op.call, own) or value.tensor is None:
            return ()
        elif value.op not in steps:
            steps[value.op] = None
            todo += value.op.inputs
    small = sum(value.tensor.numel() for value in stored if value.tensor is not None) < weight.tensor.numel()
    return () if small else tuple(sorted(steps, key=lambda step: step.index))


def _is_within(call: Call, around: Call, own: Collection[nn.Module]) -> bool:
    """Whether ``call`` is ``around``, or one within it of a module of ``own``."""
    inner: Call | None = call
    while inner is not None and inner is not around and inner.module in own:
        inner = inner.parent
    return inner is around


def _constants(op: Op) -> list[Value]:
    return [value for name in ("weight", "bias") if isinstance(value := op.arguments[name], Value)]


def _computed(tree: ModuleTree, op: Op, made: tuple[Op, ...]) -> Computed:
    """How a plain module does what that of ``op`` does.

    Raises:
        NotLifted: none can take its place.
    """
    module, label = op.call.module, tree.label(op)
    if watched(module):
        raise NotLifted(NO_HOOKS, f"{label} has a hook, which would go with it")
    if module.training:
        raise NotLifted(EVAL_MODE, f"{label} is in training mode, where its weight is still to change")
    _refuse_sharing(tree, op, made)
    if is_normalised(module) and op.call.path and id(module) in tree.paths:
        return Computed(tree.paths[id(module)][0], made, None, {})
    found = _settings(op.call)
    if not op.call.path or id(module) not in tree.paths or found is None:
        what = "does more than compute a weight and convolve with it, so no plain convolution can take its place"
        raise NotLifted(NEEDS_STRUCTURE, f"{label} computes its weight at each call, and {what}")
    _refuse_other_sizes(op, found, label)
    return Computed(tree.paths[id(module)][0], made, PLAIN[op.kind], found)


def _refuse_sharing(tree: ModuleTree, op: Op, made: Sequence[Op]) -> None:
    """Refuse where somebody else sees what the constants are computed from, or changes it."""
    own, label = parts(op.call.module), tree.label(op)
    read = dict.fromkeys(value for step in (*made, op) for value in step.inputs if value.names)
    for value in read:
        name = value.names[0]
        if value.memory.written >= 0 or type(value.tensor) not in TENSORS:
            raise NotLifted(
                CONSTANT, f"{name!r}, from which {label} computes its weight, is changed, or no plain tensor"
            )
        shared = [*value.names[1:], *(tree.shared[own] for own in value.names if own in tree.shared)]
        if shared:
            raise NotLifted(PARAMETER_UNTIED, f"{name!r} of {label} is in the same memory as {shared[0]!r}")
        others = [reader for reader in tree.readers[value] if reader.call.module not in own]
        if others or tree.owner(value) not in own:
            who = tree.label(others[0]) if others else "another module"
            raise NotLifted(
                PARAMETER_UNTIED, f"{name!r}, from which {label} computes its weight, is also that of {who}"
            )


def _settings(call: Call) -> dict[str, Any] | None:
    """The arguments of a plain module that does what ``call`` does, where that is one convolution by constants.

    Zeros that are put around its input, as many on either side, are a padding of its own.
    """
    items = [item for item in call.items if isinstance(item, Call) or _touches_data(item)]
    if not items or len(call.arguments) != 1 or call.named or not all(isinstance(item, Op) for item in items):
        return None
    *before, last = (item for item in items if isinstance(item, Op))
    if last.kind not in PLAIN or call.result is not last.outputs[0]:
        return None
    around = _around(call, before, last)
    if around is None:
        return None
    if any(value.tensor is None for value in _constants(last)):
        return None
    weight, groups = last.arguments["weight"], int(last.arguments["groups"])
    padding = last.arguments["padding"]
    if any(around):
        if isinstance(padding, str):
            return None
        own = tuple(padding) * len(around) if len(padding) == 1 else tuple(padding)
        padding = tuple(one + more for one, more in zip(own, around, strict=True))
    return {
        "in_channels": weight.shape[1] * groups,
        "out_channels": weight.shape[0],
        "kernel_size": tuple(weight.shape[2:]),
        "stride": _plain(last.arguments["stride"]),
        "padding": _plain(padding),
        "dilation": _plain(last.arguments["dilation"]),
        "groups": groups,
    }


def _plain(sizes: Any) -> Any:
    """``sizes`` as a module takes them."""
    if isinstance(sizes, str):
        return sizes
    return tuple(sizes) if len(sizes) > 1 else int(sizes[0])


def _touches_data(op: Op) -> bool:
    return any(value.tensor is None for value in (*op.inputs, *op.outputs))


def _around(call: Call, before: Sequence[Op], last: Op) -> tuple[int, ...] | None:
    """How many zeros ``before``, a Pad or nothing, puts on either side of each axis that ``last`` convolves."""
    spatial = len(last.arguments["weight"].shape) - 2
    if not before:
        return (0,) * spatial if last.arguments["input"] is call.arguments[0] else None
    pad = before[0]
    if len(before) > 1 or pad.kind not in ("pad", "constant_pad_nd") or pad.arguments["self"] is not call.arguments[0]:
        return None
    if last.arguments["input"] is not pad.outputs[0] or pad.arguments.get("mode", "constant") != "constant":
        return None
    sizes = list(pad.arguments["pad"]) + [0] * (2 * spatial - len(pad.arguments["pad"]))
    begins, ends = sizes[0::2], sizes[1::2]
    if begins != ends or min(sizes) < 0 or len(begins) > spatial or pad.arguments.get("value") not in (None, 0):
        return None
    return tuple(reversed(begins))


def _refuse_other_sizes(op: Op, settings: Mapping[str, Any], label: str) -> None:
    """Refuse where the module does something else on inputs of other sizes."""
    weight, value = op.arguments["weight"].tensor, op.call.arguments[0]
    for sizes in _sizes(op):
        batch = value.shape[: -1 - len(sizes)]
        given = weight.new_zeros((*batch[:1], settings["in_channels"], *sizes))
        try:
            run = trace(op.call.module, (given,), {})
        except UsageError:
            continue  # it is not made for that size
        if run.reads or _settings(run.calls[0]) != settings:
            what = "pads its input by as much as its size asks for, which a plain convolution cannot"
            raise NotLifted(NEEDS_STRUCTURE, f"{label} computes its weight at each call, and {what}")


def _sizes(op: Op) -> Iterator[tuple[int, ...]]:
    """Small sizes of an input that leave every remainder by the stride."""
    spatial = len(op.arguments["weight"].shape) - 2
    strides, dilations = (tuple(op.arguments[name]) for name in ("stride", "dilation"))
    dilations *= spatial if len(dilations) == 1 else 1
    kernel = op.arguments["weight"].shape[2:]
    smallest = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    for more in range(min(max(strides), MOST_STRIDE) + 1):
        yield tuple(size + more for size in smallest)


def _called_otherwise(tree: ModuleTree, found: Mapping[Op, Computed | Refusal]) -> Iterator[tuple[Op, Refusal]]:
    """Those of ``found`` whose modules are called several times, and not each time for the same."""
    same = Counter((id(op.call.module), repr(one.settings)) for op, one in found.items() if isinstance(one, Computed))
    for op, one in found.items():
        calls = tree.calls[id(op.call.module)]
        if isinstance(one, Computed) and same[id(op.call.module), repr(one.settings)] != calls:
            yield op, Refusal(CALLED_ONCE, f"{tree.label(op)} is called {calls} times, and does not always do the same")
