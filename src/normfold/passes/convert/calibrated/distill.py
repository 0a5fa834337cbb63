"""Distillation: a converted module is trained to do what its source does, on the same unlabelled inputs.

Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (arXiv 1503.02531).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from normfold import limits
from normfold.records import Progress

RATE: Final = 3e-3
BATCH: Final = 64
TEMPERATURE: Final = 2.0
CHECKS: Final = 8
"""How often the state is compared with the best so far."""
CROP: Final = 4
"""Pixels by which a picture is moved at most, of 32; larger ones in proportion."""
SMALL: Final = 1e-6
GRADIENT: Final = 1.0
"""The largest norm of a gradient."""

Tensors = tuple[torch.Tensor, ...]
Call = Callable[[nn.Module, Tensors], torch.Tensor]
"""Calls a module with a batch of its inputs, and gives the first tensor that it returns."""


@dataclass(frozen=True, slots=True)
class Distillation:
    """What to train with, and how long.

    Attributes:
        inputs: tensors whose first axis counts samples.
        call: how a module is called with them.
        features: paths of modules whose outputs are to agree, too.
        agreement: of a module with the source on held-out samples; the higher the better.
    """

    inputs: Tensors
    call: Call
    features: Sequence[str]
    agreement: Callable[[nn.Module], float]
    seconds: float
    seed: int
    progress: Progress


@dataclass(slots=True)
class _Best:
    score: float
    state: dict[str, torch.Tensor] = field(default_factory=dict)


def distill(source: nn.Module, result: nn.Module, job: Distillation) -> float:
    """Train ``result`` in place; it is left with the best state that was seen. How well that agrees with ``source``."""
    best = _Best(job.agreement(result), _state(result))
    generator = torch.Generator().manual_seed(job.seed)
    parameters = [one for one in result.parameters() if one.is_floating_point()]
    trainable = [(one, one.requires_grad) for one in parameters]
    with _outputs(source, job.features) as wanted, _outputs(result, job.features) as found, torch.enable_grad():
        for one in parameters:
            one.requires_grad = True
        optimiser = torch.optim.AdamW(parameters, RATE)
        started, checked = time.monotonic(), 0
        for batch in _batches(job.inputs, generator):
            part = (time.monotonic() - started) / job.seconds
            if part >= 1.0:
                break
            limits.check()
            loss = _step(source, result, job.call, batch, (wanted, found))
            for group in optimiser.param_groups:
                group["lr"] = RATE * 0.5 * (1.0 + math.cos(math.pi * part))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, GRADIENT)
            optimiser.step()
            if part * CHECKS >= checked + 1:
                checked = int(part * CHECKS)
                _keep(best, result, job)
                job.progress(f"distilling: {part:.0%}, agreement {best.score:.4f}")
        _keep(best, result, job)
    result.load_state_dict(best.state)
    for one, before in trainable:
        one.requires_grad = before
        one.grad = None
    return best.score


def _keep(best: _Best, result: nn.Module, job: Distillation) -> None:
    score = job.agreement(result)
    if score > best.score:
        best.score, best.state = score, _state(result)


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _step(
    source: nn.Module, result: nn.Module, call: Call, batch: Tensors, outputs: tuple[dict[str, torch.Tensor], ...]
) -> torch.Tensor:
    """The loss on ``batch``."""
    with torch.no_grad():
        wanted = call(source, batch)
    found = call(result, batch)
    loss = _loss(wanted, found)
    before, now = outputs
    pairs = [(before[path], now[path]) for path in now if path in before and before[path].shape == now[path].shape]
    if pairs:
        loss = loss + torch.stack([_error(one, other) for one, other in pairs]).mean()
    return loss


def _loss(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Divergence of the classes' probabilities where the output is one row of logits a sample, else squared error."""
    if wanted.ndim == 2 and wanted.shape[1] > 1:
        one, other = (functional.log_softmax(tensor / TEMPERATURE, 1) for tensor in (found, wanted))
        return functional.kl_div(one, other, log_target=True, reduction="batchmean") * TEMPERATURE**2
    return _error(wanted, found)


def _error(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(found, wanted.detach()) / (wanted.detach().var() + SMALL)


@contextmanager
def _outputs(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """What the modules at ``paths`` returned last."""
    seen: dict[str, torch.Tensor] = {}
    hooks = []
    for path in paths:

        def see(_module: nn.Module, _inputs: object, output: object, path: str = path) -> None:
            if isinstance(output, torch.Tensor):
                seen[path] = output

        hooks.append(module.get_submodule(path).register_forward_hook(see))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _batches(inputs: Tensors, generator: torch.Generator) -> Iterator[Tensors]:
    """Batches without end, in another order each time, pictures flipped and moved."""
    count = len(inputs[0])
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, max(count - BATCH + 1, 1), BATCH):
            chosen = order[start : start + BATCH]
            yield tuple(_varied(one[chosen], generator) for one in inputs)


def _varied(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures mirrored and cropped; everything else as it is."""
    if batch.ndim != 4 or batch.shape[1] not in (1, 3) or not batch.is_floating_point():
        return batch
    flipped = torch.rand(len(batch), generator=generator) < 0.5
    batch = torch.where(flipped[:, None, None, None], batch.flip(3), batch)
    height, width = batch.shape[2:]
    down, right = max(1, height * CROP // 32), max(1, width * CROP // 32)
    padded = functional.pad(batch, (right, right, down, down))
    top = torch.randint(0, 2 * down + 1, (len(batch),), generator=generator)
    left = torch.randint(0, 2 * right + 1, (len(batch),), generator=generator)
    return torch.stack(
        [one[:, y : y + height, x : x + width] for one, y, x in zip(padded, top.tolist(), left.tolist(), strict=True)]
    )
