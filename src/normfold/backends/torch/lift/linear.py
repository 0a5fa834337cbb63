"""Convolutions and Linear as `Linear`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from torch import nn

from normfold.backends.torch.constants import Stored, exact, largest, step
from normfold.backends.torch.tracer import Op, Value, trace
from normfold.backends.torch.tree import ModuleTree
from normfold.core.algebra import Weight, Window, trim
from normfold.core.algebra.affine import Array
from normfold.core.algebra.weight import split_shape
from normfold.core.premises import LINEAR_CONSUMER, MATRIX, PER_OUTPUT_CHANNEL
from normfold.core.views import Linear, NotLifted, View
from normfold.errors import UsageError

PLAIN: Final = frozenset(
    {nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d}
)
"""Modules that use their bias where they have one."""


def _convolution(tree: ModuleTree, op: Op) -> View:
    arguments = op.arguments
    transposed = op.kind.startswith("conv_transpose")
    stored = tree.own(op, "the weight", "weight")
    spatial, groups = stored.ndim - 2, int(arguments["groups"])
    weight = Weight(Stored(stored), split_shape(tuple(stored.shape), groups), "gio" if transposed else "goi")
    window = _window(arguments, tuple(stored.shape[2:]))
    return Linear(
        node=op,
        op="ConvTranspose" if transposed else "Conv",
        inputs=(arguments["input"],),
        outputs=op.outputs,
        weight=weight,
        bias=_bias(tree, op, spatial),
        out_axes=(-1 - spatial,),
        out_sizes=(weight.out_channels,),
        in_axes=(-1 - spatial,),
        in_sizes=(weight.in_channels,),
        whole_taps=_whole_taps(arguments, window, transposed=transposed),
        bias_slot=_takes_bias(tree, op),
        largest=largest(stored),
        step=step(stored),
        window=None if transposed else window,
    )


def _linear(tree: ModuleTree, op: Op) -> View:
    """``linear``, and ``addmm``, whose weight stands the other way round."""
    if any(op.arguments.get(factor, 1) != 1 for factor in ("alpha", "beta")):
        raise NotLifted(LINEAR_CONSUMER, f"{tree.label(op)} multiplies its product or its bias by a factor")
    stored = tree.own(op, "the weight", "weight")
    if stored.ndim != 2:
        raise NotLifted(MATRIX, f"the weight of {tree.label(op)} is a vector")
    weight = Weight(Stored(stored), split_shape(tuple(stored.shape), 1), "gio" if op.kind == "addmm" else "goi")
    if op.arguments["bias"] is not None and op.arguments["bias"].shape != (weight.out_channels,):
        raise NotLifted(PER_OUTPUT_CHANNEL, f"the bias of {tree.label(op)} is not one value for each output")
    return Linear(
        node=op,
        op="Gemm",
        inputs=(op.arguments["input"],),
        outputs=op.outputs,
        weight=weight,
        bias=_bias(tree, op, 0),
        out_axes=(-1,),
        out_sizes=(weight.out_channels,),
        in_axes=(-1,),
        in_sizes=(weight.in_channels,),
        whole_taps=True,
        bias_slot=_takes_bias(tree, op),
        largest=largest(stored),
        step=step(stored),
    )


def _bias(tree: ModuleTree, op: Op, spatial: int) -> Array | None:
    if op.arguments["bias"] is None:
        return None
    stored = tree.own(op, "the bias", "bias")
    return trim(exact(stored).reshape(-1, *[1] * spatial))


def _takes_bias(tree: ModuleTree, op: Op) -> bool:
    """Whether the operation has a bias, can be given one, or its module would use one."""
    if op.arguments["bias"] is not None or tree.gives_biases:
        return True
    if op in tree.trace.computed:
        return True
    module = op.call.module
    if tree.owner(op.arguments["weight"]) is not module or getattr(module, "bias", module) is not None:
        return False
    if type(module) in PLAIN:
        return True
    return _would_read_bias(module, op)


def _would_read_bias(module: nn.Module, op: Op) -> bool:
    """Whether ``module``, with a bias, gives it to the same operation: found out by giving it one for a moment."""
    weight, given = op.arguments["weight"].tensor, op.call.arguments
    if len(given) != 1 or not isinstance(given[0], Value):
        return False
    channels = op.outputs[0].shape[-1 if op.kind == "linear" else 2 - weight.ndim - 1]
    module.register_parameter("bias", nn.Parameter(weight.new_zeros(channels), requires_grad=False))
    try:
        run = trace(module, (weight.new_zeros(given[0].shape),), {})
    except UsageError:
        return False
    finally:
        module.register_parameter("bias", None)
    readers = [other.kind for other in run.ops if run.stored["bias"] in other.inputs]
    return readers == [op.kind]


def _window(arguments: Mapping[str, Any], kernel: Sequence[int]) -> Window | None:
    """Where a convolution looks; ``None`` where that depends on the input's size."""
    if arguments["padding"] == "same":
        return None
    padding = [0] if arguments["padding"] == "valid" else arguments["padding"]
    pads, strides, dilations = (_each(kernel, one) for one in (padding, arguments["stride"], arguments["dilation"]))
    return Window(tuple(kernel), strides, dilations, pads, pads)


def _each(kernel: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sizes) * len(kernel) if len(sizes) == 1 else tuple(sizes)


def _whole_taps(arguments: Mapping[str, Any], window: Window | None, *, transposed: bool) -> bool:
    if window is None:
        return False
    if not transposed:
        return not any(window.begins)
    whole = all(pad >= d * (k - 1) for pad, d, k in zip(window.begins, window.dilations, window.kernel, strict=True))
    return whole and all(stride == 1 for stride in window.strides) and not any(arguments["output_padding"])


LIFTS: dict[str, Callable[[ModuleTree, Op], View]] = {
    **{f"conv{k}d": _convolution for k in (1, 2, 3)},
    **{f"conv_transpose{k}d": _convolution for k in (1, 2, 3)},
    "linear": _linear,
    "addmm": _linear,
}
