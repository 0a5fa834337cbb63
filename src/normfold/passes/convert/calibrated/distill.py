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

CLOCK: Callable[[], float] = time.monotonic
"""What seconds are counted by. A benchmark on a machine that others use counts those of the processor."""
RATE: Final = 1e-3
"""Of AdamW at its peak. Larger steps move a converted network further than a short schedule brings it back."""
WARMING: Final = 0.05
"""The part of the time in which the rate rises."""
BATCH: Final = 32
TEMPERATURE: Final = 2.0
SHOWN: Final = 1 / 3
"""The part of the features that are compared in a step, drawn anew each time: to compare all takes as long as they."""
FEATURES: Final = 20.0
"""What the mean error of features counts beside that of outputs, of which a few pictures are soon known by heart."""
MEASURED: Final = 128
"""Samples that the variances of features are taken from."""
CHECKS: Final = 8
"""How often the state is compared with the best so far."""
CROP: Final = 4
"""Pixels by which a picture is moved at most, of 32; larger ones in proportion."""
SMALL: Final = 1e-6
GRADIENT: Final = 1.0
"""The largest norm of a gradient."""
TRIALS: Final = 2
"""Steps that are timed in each precision."""

Tensors = tuple[torch.Tensor, ...]
Outputs = dict[str, torch.Tensor]
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
    parameters = [one for one in result.parameters() if one.is_floating_point()]
    trainable = [(one, one.requires_grad) for one in parameters]
    with _outputs(source, job.features) as wanted, _outputs(result, job.features) as found, torch.enable_grad():
        for one in parameters:
            one.requires_grad = True
        pupil = _Pupil(source, result, job, wanted, found)
        pupil.choose_precision()
        started, checked = CLOCK(), 0
        for batch in pupil.batches():
            part = (CLOCK() - started) / job.seconds
            if part >= 1.0:
                break
            limits.check()
            pupil.step(batch, RATE * min(1.0, part / WARMING) * 0.5 * (1.0 + math.cos(math.pi * part)))
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


class _Pupil:
    """The module that is trained, its source, and what both made of the last batch."""

    def __init__(
        self, source: nn.Module, result: nn.Module, job: Distillation, wanted: Outputs, found: Outputs
    ) -> None:
        self.source, self.result, self.job, self.wanted, self.found = source, result, job, wanted, found
        self.generator = torch.Generator().manual_seed(job.seed)
        self.parameters = [one for one in result.parameters() if one.is_floating_point()]
        self.optimiser = torch.optim.AdamW(self.parameters, RATE, weight_decay=0.0)
        self.half = False
        with torch.no_grad():
            output = job.call(source, tuple(one[:MEASURED] for one in job.inputs))
        self.variance = {path: float(one.float().var()) + SMALL for path, one in wanted.items()}
        self.output_variance = float(output.float().var()) + SMALL

    def batches(self) -> Iterator[Tensors]:
        """Batches without end."""
        return _batches(self.job.inputs, self.generator)

    def choose_precision(self) -> None:
        """Compute in bfloat16 where that is the faster one: not every processor has instructions for it."""
        batch, taken = next(_batches(self.job.inputs, torch.Generator().manual_seed(0))), {}
        if not all(one.dtype == torch.float32 for one in self.parameters):
            return
        for self.half in (True, False):
            times = []
            for _ in range(1 + TRIALS):
                started = time.perf_counter()
                self._loss(batch).backward()
                times.append(time.perf_counter() - started)
            taken[self.half] = min(times[1:])
        self.half = taken[True] < taken[False]
        self.optimiser.zero_grad()

    def step(self, batch: Tensors, rate: float) -> None:
        """Train on ``batch``."""
        loss = self._loss(batch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, GRADIENT)
        self.optimiser.step()

    def _loss(self, batch: Tensors) -> torch.Tensor:
        """How far the two are apart: what they return, and some of their features."""
        kind = next((one.device.type for one in self.parameters), "cpu")
        with torch.autocast(kind, torch.bfloat16, enabled=self.half):
            with torch.no_grad():
                wanted = self.job.call(self.source, batch)
            found = self.job.call(self.result, batch)
        loss = self._of_outputs(_wide(wanted), _wide(found))
        paths = [path for path, one in self.found.items() if path in self.variance and self._alike(path, one)]
        chosen = torch.randperm(len(paths), generator=self.generator)[: math.ceil(SHOWN * len(paths))].tolist()
        errors = [self._of_feature(paths[k]) for k in chosen]
        return loss + FEATURES * torch.stack(errors).mean() if errors else loss

    def _alike(self, path: str, found: torch.Tensor) -> bool:
        return path in self.wanted and self.wanted[path].shape == found.shape

    def _of_feature(self, path: str) -> torch.Tensor:
        found, wanted = _wide(self.found[path]), _wide(self.wanted[path])
        return functional.mse_loss(found, wanted.detach()) / self.variance[path]

    def _of_outputs(self, wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """Divergence of the classes' probabilities where the output is one row of logits a sample, else the error."""
        if wanted.ndim == 2 and wanted.shape[1] > 1:
            one, other = (functional.log_softmax(tensor / TEMPERATURE, 1) for tensor in (found, wanted))
            return functional.kl_div(one, other, log_target=True, reduction="batchmean") * TEMPERATURE**2
        return functional.mse_loss(found, wanted.detach()) / self.output_variance


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` in a type in which differences and sums keep their digits."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


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
