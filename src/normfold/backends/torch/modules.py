"""Norms that PyTorch has no module for, which conversions put in the place of others; all can be trained.

Constants are right-aligned with the input: ``shape`` is ``(C, 1, 1)`` for channels along the third axis from the end,
``(C,)`` for channels along the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final, Literal

import torch
from torch import nn
from torch.nn import functional

LEAK: Final = 1e-4
"""What Batch Layer Normalization takes from the share of each of its two parts."""

Shape = Sequence[int]
By = Literal["layer", "group", "instance", "rms"]


class FrozenBatchNorm(nn.Module):
    """A BatchNorm with fixed statistics, in training, too. Scale and bias can be trained.

    Args:
        num_features: channels, along the second axis.
        eps: added to the variance.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, ``[N, C, ...]``, normalised by the stored statistics."""
        stored = self.running_mean, self.running_var
        return functional.batch_norm(x, *stored, self.weight, self.bias, training=False, eps=self.eps)

    def extra_repr(self) -> str:
        """What the module was made with."""
        return f"{self.num_features}, eps={self.eps}"


class StaticAffine(nn.Module):
    """``x * weight + bias``, by channel: what a norm with fixed statistics computes."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.weight = nn.Parameter(torch.ones(self.shape))
        self.bias = nn.Parameter(torch.zeros(self.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` scaled and shifted."""
        return x * self.weight + self.bias

    def extra_repr(self) -> str:
        """What the module was made with."""
        return f"{self.shape}"


class DynamicTanh(nn.Module):
    """``tanh(alpha * x) * weight + bias``.

    Source: Zhu et al., Transformers without Normalization (arXiv 2503.10622).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.alpha = nn.Parameter(torch.ones(1))
        self.weight = nn.Parameter(torch.ones(self.shape))
        self.bias = nn.Parameter(torch.zeros(self.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` squashed, scaled and shifted."""
        return torch.tanh(self.alpha * x) * self.weight + self.bias

    def extra_repr(self) -> str:
        """What the module was made with."""
        return f"{self.shape}"


class PositionNorm(nn.Module):
    """The channels of each position, along the second axis, divided by their deviation.

    Args:
        shape: that of scale and bias: ``(C, 1, 1)`` for pictures.
        eps: added to the variance.
        centred: whether their mean is subtracted first, as by a LayerNorm; an RMSNorm subtracts none.
    """

    def __init__(self, shape: Shape, eps: float = 1e-5, *, centred: bool = True) -> None:
        super().__init__()
        self.shape, self.eps, self.centred = tuple(shape), eps, centred
        self.weight = nn.Parameter(torch.ones(self.shape))
        self.bias = nn.Parameter(torch.zeros(self.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, ``[N, C, ...]``, normalised."""
        own = x - x.mean(1, keepdim=True) if self.centred else x
        return own * torch.rsqrt(own.square().mean(1, keepdim=True) + self.eps) * self.weight + self.bias

    def extra_repr(self) -> str:
        """What the module was made with."""
        return f"{self.shape}, eps={self.eps}, centred={self.centred}"


class Regrouped(nn.Module):
    """A norm by the operation of another kind: of the same elements, in another shape.

    Args:
        by: whose operation normalises: that of a ``layer``, ``group``, ``instance`` or ``rms`` norm.
        groups: of channels along the second axis, each normalised with all its positions; 0 where the last axes are.
        shape: that of scale and bias, of the last axes where those are normalised.
        eps: added to the variance.
        held: the names of its constants: a scale, a bias.
        mirrored: whether the mean square takes the variance's place: the elements are normalised beside their
            negatives, so that their mean is zero.
    """

    def __init__(
        self,
        by: By,
        groups: int,
        shape: Shape,
        eps: float = 1e-5,
        held: Sequence[str] = ("weight", "bias"),
        *,
        mirrored: bool = False,
    ) -> None:
        super().__init__()
        self.by, self.groups, self.shape, self.eps, self.mirrored = by, groups, tuple(shape), eps, mirrored
        self.held = tuple(held)
        self.weight = nn.Parameter(torch.ones(self.shape)) if "weight" in self.held else None
        self.bias = nn.Parameter(torch.zeros(self.shape)) if "bias" in self.held else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, normalised."""
        rows = x.reshape(len(x) * self.groups, -1) if self.groups else x.reshape(-1, prod(self.shape))
        size = rows.shape[1]
        rows = self._normed(torch.cat([rows, -rows], 1))[:, :size] if self.mirrored else self._normed(rows)
        y = rows.reshape(x.shape)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias

    def _normed(self, rows: torch.Tensor) -> torch.Tensor:
        if self.by == "layer":
            return functional.layer_norm(rows, rows.shape[1:], eps=self.eps)
        if self.by == "rms":
            return functional.rms_norm(rows, rows.shape[1:], eps=self.eps)
        if self.by == "group":
            return functional.group_norm(rows.unsqueeze(2), 1, eps=self.eps).squeeze(2)
        return functional.instance_norm(rows.unsqueeze(0), eps=self.eps).squeeze(0)

    def extra_repr(self) -> str:
        """What the module was made with."""
        return f"{self.by}, groups={self.groups}, {self.shape}, eps={self.eps}"


class BatchLayerNorm(nn.Module):
    """Batch Layer Normalization: ``weight / sqrt(divisor) * (share * features + (1 - share) * batch) + bias``.

    ``features`` is the input normalised over its channels, ``batch`` over the samples of the batch; their shares are
    ``1 / b`` and ``1 - 1 / b``, less `LEAK` each. Either part may use stored statistics instead of those of the input,
    which are broadcast to it. Any module with these attributes is read as one.

    Args:
        shape: that of the stored statistics of the batch, of scale and bias, from the channels' axis on.
        batch_size: the ``b`` of the shares, which need not be that of the input.
        divisor: the ``d`` under the root.
        eps: added to both variances.
        static_batch, static_features: whether the stored statistics are used.

    Source: Ziaee and Cano, Batch Layer Normalization (arXiv 2209.08898).
    """

    batch_mean: torch.Tensor
    batch_var: torch.Tensor
    feature_mean: torch.Tensor
    feature_var: torch.Tensor

    def __init__(
        self,
        shape: Shape,
        batch_size: float,
        divisor: float = 1.0,
        eps: float = 1e-3,
        *,
        static_batch: bool = True,
        static_features: bool = True,
    ) -> None:
        super().__init__()
        self.shape, self.batch_size, self.divisor, self.eps = tuple(shape), batch_size, divisor, eps
        self.static_batch, self.static_features = static_batch, static_features
        self.weight = nn.Parameter(torch.ones(self.shape))
        self.bias = nn.Parameter(torch.zeros(self.shape))
        one = (1,) * len(self.shape)
        for part, size in (("batch", self.shape), ("feature", one)):
            self.register_buffer(f"{part}_mean", torch.zeros(size))
            self.register_buffer(f"{part}_var", torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, with channels along the axis that ``shape`` begins at, normalised."""
        features = self._part(x, -len(self.shape), self.feature_mean, self.feature_var, static=self.static_features)
        batch = self._part(x, 0, self.batch_mean, self.batch_var, static=self.static_batch)
        share = 1 / self.batch_size
        mixed = (share - LEAK) * features + (1 - share - LEAK) * batch
        y: torch.Tensor = self.weight / self.divisor**0.5 * mixed + self.bias
        return y

    def _part(self, x: torch.Tensor, axis: int, mean: torch.Tensor, var: torch.Tensor, *, static: bool) -> torch.Tensor:
        if not static:
            var, mean = torch.var_mean(x, axis, correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(var + self.eps)

    def extra_repr(self) -> str:
        """What the module was made with."""
        flags = f"static_batch={self.static_batch}, static_features={self.static_features}"
        return f"{self.shape}, batch_size={self.batch_size}, eps={self.eps}, {flags}"
