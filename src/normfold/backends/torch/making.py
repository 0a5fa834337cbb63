"""Modules of other kinds of norms, made with their constants to take the place of those that computed the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Final, get_args

import numpy as np
import torch
from torch import nn

from normfold.backends.torch.constants import exact
from normfold.backends.torch.modules import (
    BatchLayerNorm,
    By,
    DynamicTanh,
    FrozenBatchNorm,
    PositionNorm,
    Regrouped,
    StaticAffine,
)
from normfold.backends.torch.tracer import Op
from normfold.core.algebra import Affine
from normfold.core.algebra.affine import Array
from normfold.core.laws.collapse import norm_constants
from normfold.core.premises import CONVERTIBLE, KNOWN_RANK, NEEDS_STRUCTURE, ROOM, TRAILING_AXES
from normfold.core.views import AffineOp, BatchLayer, Norm, Spelling, View
from normfold.core.views import DynamicTanh as DynamicTanhView
from normfold.records import Refusal

Constants = Mapping[str, Array]
BATCH: Final = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
BY: Final[tuple[By, ...]] = get_args(By)
INSTANCE: Final = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
"""Modules by the rank of their input."""


@dataclass(frozen=True, slots=True)
class Making:
    """How to make a module that computes ``view``, by the operation of a norm of the kind ``by``.

    It takes the place of that of ``op`` or, ``behind``, reads what that makes.
    """

    op: Op
    view: View
    by: Spelling | None
    behind: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the norm's input in the run."""
        size: tuple[int, ...] = (self.op.outputs[0] if self.behind else self.op.arguments["input"]).shape
        return size

    def refusal(self, label: str) -> Refusal | None:
        """Why there is no such module."""
        if type(self.op.call.module) is BATCH.get(len(self.shape)) and self.by == "batch":
            return Refusal(CONVERTIBLE, f"{label} is a BatchNorm already")
        if self.by in ("batch", "frozen") and (len(self.shape) not in BATCH or not self._is_along_channels):
            return Refusal(KNOWN_RANK, f"the channels of {label} are not along the second axis of two to five")
        if isinstance(self.view, Norm) and self.view.tail is None and self.op.arguments.get("weight") is not None:
            return Refusal(ROOM, f"the scale of {label} is not its own, so that another norm cannot take it over")
        if isinstance(self.view, Norm) and self.trails_not and not self._is_per_position:
            return Refusal(TRAILING_AXES, f"{label} normalises neither the last axes nor the channels of each position")
        if isinstance(self.view, Norm) and self.view.epsilon is None:
            because = f"the epsilon of {label} is that of its type, and that of the norm asked for is a number"
            return Refusal(NEEDS_STRUCTURE, because)
        return None

    @property
    def trails_not(self) -> bool:
        """Whether the norm is over other axes than the last ones."""
        axes = self.view.axes if isinstance(self.view, Norm) else None
        return axes is None or axes != tuple(range(-len(axes), 0))

    @property
    def _is_per_position(self) -> bool:
        """Whether the norm is over the channels, along the second axis."""
        return isinstance(self.view, Norm) and self.view.groups is None and self.view.axes == (1 - len(self.shape),)

    @property
    def _is_along_channels(self) -> bool:
        return isinstance(self.view, AffineOp) and self.view.axis == 1 - len(self.shape)

    def module(self, old: nn.Module) -> nn.Module:
        """The module with its constants, on the device and of the type of those of ``old``."""
        new, constants = self._made()
        like = next(chain(old.parameters(recurse=False), old.buffers(recurse=False)), None)
        if like is not None:
            new = new.to(device=like.device, dtype=like.dtype)
        with torch.no_grad():
            held = dict(new.named_parameters()) | dict(new.named_buffers())
            for name, values in constants.items():
                shape = tuple(held[name].shape)
                full = values.reshape(shape) if values.size == prod(shape) else np.broadcast_to(values, shape)
                held[name].copy_(torch.from_numpy(np.array(full)))
        for name, parameter in new.named_parameters():
            before = getattr(old, name, None)
            parameter.requires_grad = not isinstance(before, nn.Parameter) or before.requires_grad
        new.training = old.training
        return new

    def _made(self) -> tuple[nn.Module, Constants]:
        match self.view:
            case DynamicTanhView():
                return nn.Tanh() if self.by == "tanh" else _dynamic_tanh(self.view), _of_tanh(self)
            case BatchLayer():
                return _batch_layer(self.view)
            case AffineOp():
                return MAKERS[self.by or "static"](self, self.view)
            case Norm():
                return _norm(self, self.view)
        raise TypeError(f"no module computes {type(self.view).__name__}")


def _of_tanh(making: Making) -> Constants:
    view = making.view
    if making.by == "tanh" or not isinstance(view, DynamicTanhView):
        return {}
    return {"alpha": np.asarray([view.alpha]), **_tail(view.tail)}


def _dynamic_tanh(view: DynamicTanhView) -> nn.Module:
    return DynamicTanh(_room(view.tail))


def _tail(tail: Affine) -> Constants:
    return {"weight": tail.scale, "bias": tail.shift}


def _room(tail: Affine) -> tuple[int, ...]:
    return np.broadcast_shapes(tail.scale.shape, tail.shift.shape)


def _statistics(making: Making, view: AffineOp, epsilon: float) -> tuple[Array, Array]:
    """Mean and variance that the norm has stored, or such as change nothing."""
    channels = making.shape[1]
    if view.statistics is not None:
        return view.statistics.mean.reshape(-1), view.statistics.variance.reshape(-1)
    buffers = [getattr(making.op.call.module, name, None) for name in ("running_mean", "running_var")]
    stored = [exact(one) for one in buffers if isinstance(one, torch.Tensor) and one.numel() == channels]
    if len(stored) == 2 and bool((stored[1] + epsilon > 0).all()):
        return stored[0].reshape(-1), stored[1].reshape(-1)
    return np.zeros(channels), np.full(channels, 1 - epsilon)


def _epsilon(making: Making, view: AffineOp) -> float:
    if view.statistics is not None:
        return view.statistics.epsilon
    own = getattr(making.op.call.module, "eps", 1e-5)
    return float(own) if isinstance(own, int | float) else 1e-5


def _batch(making: Making, view: AffineOp) -> tuple[nn.Module, Constants]:
    """A BatchNorm, or one whose statistics are fixed."""
    channels, epsilon = making.shape[1], _epsilon(making, view)
    mean, variance = _statistics(making, view, epsilon)
    spread = np.broadcast_to(view.affine.scale, (channels, *[1] * (len(making.shape) - 2)))
    affine = Affine(spread, np.broadcast_to(view.affine.shift, spread.shape))
    scale, bias = norm_constants(affine, mean, variance, epsilon)
    kind = FrozenBatchNorm if making.by == "frozen" else BATCH[len(making.shape)]
    momentum = getattr(making.op.call.module, "momentum", None)
    new = kind(channels, epsilon)
    if isinstance(new, nn.modules.batchnorm._BatchNorm) and isinstance(momentum, float):  # noqa: SLF001
        new.momentum = momentum
    constants = {"weight": scale.reshape(-1), "bias": bias.reshape(-1), "running_mean": mean, "running_var": variance}
    return new, constants


def _static(_making: Making, view: AffineOp) -> tuple[nn.Module, Constants]:
    return StaticAffine(_room(view.affine)), _tail(view.affine)


MAKERS: Final[Mapping[str, Callable[[Making, AffineOp], tuple[nn.Module, Constants]]]] = {
    "batch": _batch,
    "frozen": _batch,
    "static": _static,
}


def _norm(making: Making, view: Norm) -> tuple[nn.Module, Constants]:
    if view.epsilon is None:
        raise TypeError("the norm has no epsilon of its own")
    given = {} if view.tail is None else _tail(view.tail)
    constants = {name: values for name, values in given.items() if name == "weight" or view.holds_shift}
    if making.by is None and view.groups is not None:
        tail = view.tail or Affine.of()
        return Regrouped("rms", view.groups.count, _room(tail), view.epsilon), _tail(tail)
    if view.groups is not None:
        return _grouped(making, view.groups.count, view.epsilon, tuple(constants)), constants
    if making.trails_not:
        spread = (making.shape[1], *[1] * (len(making.shape) - 2))
        return PositionNorm(spread, view.epsilon, centred=view.kind == "layer"), _tail(view.tail or Affine.of())
    shape = making.shape[-len(view.axes or ()) :]
    if making.by is None and view.kind == "layer":
        return nn.LayerNorm(shape, view.epsilon, bool(constants), "bias" in constants), constants
    if making.by is None and "bias" in constants:
        return Regrouped("rms", 0, shape, view.epsilon, tuple(constants)), constants
    if making.by is None:
        return nn.RMSNorm(shape, view.epsilon, bool(constants)), constants
    by = next(one for one in BY if one == making.by)
    return Regrouped(by, 0, shape, view.epsilon, tuple(constants), mirrored=view.kind == "rms"), constants


def _grouped(making: Making, count: int, epsilon: float, held: tuple[str, ...]) -> nn.Module:
    """A norm of groups of channels: torch's own module, where it has one that does the same."""
    channels = making.shape[1]
    if making.by == "group":
        return nn.GroupNorm(count, channels, epsilon, bool(held))
    if making.by == "instance" and count == channels and len(making.shape) in INSTANCE:
        return INSTANCE[len(making.shape)](channels, epsilon, affine=bool(held))
    spread = (channels, *[1] * (len(making.shape) - 2))
    return Regrouped("layer" if making.by == "layer" else "instance", count, spread, epsilon, held)


def _batch_layer(view: BatchLayer) -> tuple[nn.Module, Constants]:
    parts = {"batch": view.batch, "feature": view.features}
    shape = np.broadcast_shapes(_room(view.tail), () if view.batch is None else view.batch.mean.shape)
    new = BatchLayerNorm(
        shape,
        view.batch_size,
        eps=view.epsilon,
        static_batch=view.batch is not None,
        static_features=view.features is not None,
    )
    constants = dict(_tail(view.tail))
    for part, stored in parts.items():
        if stored is not None:
            constants |= {f"{part}_mean": stored.mean, f"{part}_var": stored.variance}
    return new, constants
