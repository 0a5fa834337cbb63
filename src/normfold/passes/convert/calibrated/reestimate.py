"""Statistics of BatchNorms, computed anew over a whole stream of inputs: after pruning, quantising, or for other data.

Each BatchNorm normalises by the batch at hand meanwhile, so that what reads it sees what it will see. What is stored is
the mean and variance of the population, over all batches, and not a moving average with Bessel's correction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from normfold import limits
from normfold.core.premises import CALLED_ONCE
from normfold.passes.convert.calibrated.moments import Gatherer
from normfold.records import Refusal

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(slots=True)
class Reestimated:
    """Paths of the norms that got statistics, and why others did not."""

    done: list[str] = field(default_factory=list)
    refused: dict[str, Refusal] = field(default_factory=dict)


def reestimate(
    module: nn.Module, runs: Iterable[Callable[[nn.Module], object]], kept: Mapping[str, Refusal]
) -> Reestimated:
    """Give the BatchNorms of ``module`` the statistics that their inputs have in ``runs``, each a call of it.

    Those at the paths ``kept`` keep theirs.

    One without running statistics gets some, and normalises by them from then on. One that is called more than once in
    a run has no one population, and is left alone. The module is left in evaluation mode.
    """
    module.eval()
    every = {path: one for path, one in module.named_modules() if isinstance(one, BATCH_NORMS)}
    norms = {path: one for path, one in every.items() if path not in kept}
    seen = {path: Gatherer(1) for path in norms}
    calls: Counter[str] = Counter()
    with ExitStack() as stack, torch.no_grad():
        for path, norm in norms.items():
            stack.callback(_as_it_was(norm))
            norm.training, norm.momentum = True, 0.0
            stack.callback(norm.register_forward_pre_hook(_gathering(path, seen[path], calls)).remove)
        count = 0
        for run in runs:
            limits.check()
            run(module)
            count += 1
    result = Reestimated(refused={path: kept[path] for path in every if path in kept})
    for path, norm in norms.items():
        if calls[path] == count:
            _store(norm, seen[path])
            result.done.append(path)
        else:
            because = f"BatchNorm {path!r} is called {calls[path]} times in {count} runs of the module"
            result.refused[path] = Refusal(CALLED_ONCE, because)
    return result


def _as_it_was(norm: nn.modules.batchnorm._BatchNorm) -> Callable[[], None]:
    training, momentum = norm.training, norm.momentum

    def put_back() -> None:
        norm.training, norm.momentum = training, momentum

    return put_back


def _gathering(path: str, gatherer: Gatherer, calls: Counter[str]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def gather(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[path] += 1
        # Channels are along the second axis.
        gatherer.axis = 1 - inputs[0].ndim
        gatherer.add(inputs[0].detach().cpu().float().numpy())

    return gather


def _store(norm: nn.modules.batchnorm._BatchNorm, gatherer: Gatherer) -> None:
    moments = gatherer.moments()
    weight = getattr(norm, "weight", None)
    like = torch.empty(0) if weight is None else weight
    for name, values in (("running_mean", moments.mean), ("running_var", moments.variance)):
        held = getattr(norm, name)
        new = torch.from_numpy(values).to(like if held is None else held)
        if held is None:
            setattr(norm, name, new)
        else:
            held.copy_(new)
    norm.track_running_stats = True
