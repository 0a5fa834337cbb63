"""A module and its converted copy, run side by side, so that each layer of the copy is refitted when it is reached.

What stands before a layer has been refitted by then, so that its input is the one that it will have. Nothing is kept
but what the two forward passes hold at that moment.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from normfold.passes.convert.calibrated.refit import affine, ridge

ROWS: Final = 30_000
"""Rows that a layer is fitted on at most."""
PER_INPUT: Final = 24
"""Rows for each weight of an output, as far as there are as many."""
DENSE: Final = (nn.Linear, nn.Conv1d, nn.Conv2d)

Run = Callable[[nn.Module], object]


def refit(source: nn.Module, result: nn.Module, run: Run, norms: Collection[str], *, dense: bool) -> None:
    """Fit the scales and biases of ``norms`` in ``result``, and with ``dense`` the weights that come behind them.

    ``norms`` are the paths of norms that were converted. ``run`` calls a module with the calibration samples.
    """
    paths = [path for path, module in result.named_modules() if path in norms or (dense and _fits(module))]
    step = _Lockstep(source, result, run, frozenset(norms), tuple(paths))
    step.go()


def _fits(module: nn.Module) -> bool:
    """Whether ``module`` is a matrix product of windows of its input."""
    if type(module) not in DENSE or module.weight.requires_grad is None:
        return False
    if isinstance(module, nn.Linear):
        return True
    return bool(
        isinstance(module, nn.Conv1d | nn.Conv2d)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


class _StoppedError(Exception):
    """The other module is not run any more."""


@dataclass
class _Lockstep:
    source: nn.Module
    result: nn.Module
    run: Run
    norms: frozenset[str]
    paths: Sequence[str]
    handed: queue.Queue[tuple[str, torch.Tensor] | None] = field(default_factory=lambda: queue.Queue(1))
    stopped: bool = False
    started: bool = False
    """Whether a converted norm has been reached: what comes before is as it was."""

    def go(self) -> None:
        """Run both; the source in a thread of its own, which waits at each layer."""
        with ExitStack() as hooks:
            for path in self.paths:
                hooks.enter_context(self._hooked(path))
            thread = threading.Thread(target=self._run_source, name="normfold-source")
            thread.start()
            try:
                with torch.no_grad():
                    self.run(self.result)
            finally:
                self.stopped = True
                while thread.is_alive():
                    self._drain()
                    thread.join(0.05)

    def _run_source(self) -> None:
        try:
            with torch.no_grad():
                self.run(self.source)
        except _StoppedError:
            return
        finally:
            self._put(None)

    def _drain(self) -> None:
        try:
            self.handed.get_nowait()
        except queue.Empty:
            return

    def _put(self, item: tuple[str, torch.Tensor] | None) -> None:
        while not self.stopped:
            try:
                self.handed.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    @contextmanager
    def _hooked(self, path: str) -> Iterator[None]:
        before, now = self.source.get_submodule(path), self.result.get_submodule(path)
        if path in self.norms:
            hooks = [
                before.register_forward_hook(lambda _m, _i, output: self._hand(path, output)),
                now.register_forward_hook(lambda module, _i, output: self._refit_norm(path, module, output)),
            ]
        else:
            hooks = [
                before.register_forward_pre_hook(lambda _m, inputs: self._hand(path, inputs[0])),
                now.register_forward_pre_hook(lambda module, inputs: self._refit_dense(path, module, inputs[0])),
            ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hand(self, path: str, tensor: torch.Tensor) -> None:
        if self.stopped:
            raise _StoppedError
        self._put((path, tensor))

    def _other(self, path: str) -> torch.Tensor | None:
        """What the source has at ``path``; None where it took another way."""
        if self.stopped:
            return None
        found = self.handed.get()
        if found is None or found[0] != path:
            self.stopped = True
            return None
        return found[1]

    def _refit_norm(self, path: str, module: nn.Module, output: torch.Tensor) -> torch.Tensor | None:
        before, self.started = self._other(path), True
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if before is None or weight is None or bias is None or before.shape != output.shape:
            return None
        axis = _channel_axis(output, weight)
        scale, shift = affine(_channels_last(before, axis), _channels_last(output, axis))
        scales, shifts = (torch.from_numpy(one).to(output) for one in (scale, shift))
        weight.data.copy_(weight * scales.reshape(weight.shape))
        bias.data.copy_(bias * scales.reshape(bias.shape) + shifts.reshape(bias.shape))
        spread = (-1, *[1] * (-axis - 1))
        return output * scales.reshape(spread) + shifts.reshape(spread)

    def _refit_dense(self, path: str, module: nn.Module, now: torch.Tensor) -> None:
        before = self._other(path)
        if before is None or not self.started or before.shape != now.shape:
            return
        weight = module.get_parameter("weight")
        flat = weight.detach().reshape(len(weight), -1)
        rows = min(ROWS, max(PER_INPUT * flat.shape[1], ROWS // 4))
        seed = crc32(path.encode())
        found = ridge(_rows(module, before, rows, seed), _rows(module, now, rows, seed), flat.double().numpy())
        weight.data.add_(torch.from_numpy(found.weight).to(weight).reshape(weight.shape))
        if module.bias is not None:
            bias = module.get_parameter("bias")
            bias.data.add_(torch.from_numpy(found.bias).to(bias))


def _channel_axis(output: torch.Tensor, weight: torch.Tensor) -> int:
    """The axis (negative) along which the constants of a norm vary."""
    if weight.ndim == 1 and output.ndim > 1 and output.shape[1] == len(weight):
        return 1 - output.ndim
    return -next(k for k, size in enumerate(reversed(weight.shape), 1) if size == weight.numel())


def _channels_last(tensor: torch.Tensor, axis: int) -> np.ndarray[Any, np.dtype[Any]]:
    last = tensor.movedim(axis, -1)
    return np.asarray(last.reshape(-1, last.shape[-1]).numpy())


def _rows(module: nn.Module, tensor: torch.Tensor, count: int, seed: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Windows of ``tensor`` that the matrix of ``module`` is multiplied with, ``[rows, in]``, drawn with ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        rows = tensor.reshape(-1, tensor.shape[-1])
        chosen = torch.randperm(len(rows), generator=generator)[:count]
        return np.asarray(rows[chosen].numpy())
    picture = tensor.unsqueeze(2) if isinstance(module, nn.Conv1d) else tensor
    flat = isinstance(module, nn.Conv1d)

    def two(sizes: Sequence[int], fill: int) -> tuple[int, ...]:
        return (fill, *sizes) if flat else tuple(sizes)

    if isinstance(module.padding, str):
        raise TypeError("the padding is not known")
    kernel, stride = two(module.kernel_size, 1), two(module.stride, 1)
    padding, dilation = two(module.padding, 0), two(module.dilation, 1)
    padded = functional.pad(picture, (padding[1], padding[1], padding[0], padding[0]))
    height, width = (
        (size - step * (taps - 1) - 1) // move + 1
        for size, taps, step, move in zip(padded.shape[2:], kernel, dilation, stride, strict=True)
    )
    total = len(padded) * height * width
    chosen = torch.randint(total, (min(count, total),), generator=generator)
    sample, row, column = chosen // (height * width), chosen // width % height, chosen % width
    # Channels last, so that a window is gathered tap by tap.
    last = padded.permute(0, 2, 3, 1)
    taps = [
        last[sample, row * stride[0] + i * dilation[0], column * stride[1] + j * dilation[1]]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]
    return np.asarray(torch.stack(taps, 2).reshape(len(chosen), -1).numpy())
