"""A proof of modules in few runs: inputs of several kinds in one batch, and what is known of the source used again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from normfold import limits
from normfold.models.module.behaviour import seed_generators
from normfold.models.module.example import Example, call, tensor_like, tensors_in, to_array
from normfold.proof.comparison import Setup
from normfold.proof.deviation import Deviation, compare, tolerance
from normfold.proof.probes import KINDS, Array, Feed, Kind, Layout, is_float, kinds_for, make_feed
from normfold.records import Verification
from normfold.runtime import Failed


def agreement(known: Any, source: nn.Module, result: nn.Module, example: Example, setup: Setup) -> Verification | None:
    """The proof that ``result`` is equivalent to ``source``; None where that needs a closer look.

    ``known`` is what ``source`` has returned for ``example``. Other kinds of inputs come as the samples of one batch,
    larger than that of the example, where both take that; as the samples of one as large where not, and one after
    the other where neither will do. Outputs are compared kind by kind, so that none hides in the range of another.
    Both draw the same random numbers, and both are called as often, so that a state that changes from call to call
    changes alike.
    """
    started = time.monotonic()
    own = _answer(result, example, setup)
    feeds = [_feed(kind, setup) for kind in _kinds(setup, time.monotonic() - started)]
    deviations = [*_deviations(known, own, 1, setup)]
    inputs = [_filled(example, feed, setup) for feed in feeds]
    whole = _stacked(inputs)
    wanted = Failed("run", "no batch") if whole is None else _answer(source, whole, setup)
    if isinstance(wanted, Failed):
        whole = _mixed(inputs)
        wanted = Failed("run", "no batch") if whole is None else _answer(source, whole, setup)
    if whole is not None and _is_batch(wanted, len(inputs)):
        deviations += _deviations(wanted, _answer(result, whole, setup), len(inputs), setup)
    else:
        for one in inputs:
            deviations += _deviations(_answer(source, one, setup), _answer(result, one, setup), 1, setup)
    if any(deviation.excess > 1.0 for deviation in deviations):
        return None
    return Verification(
        "equivalent",
        max_abs=_largest(deviation.max_abs for deviation in deviations),
        max_rel=_largest(deviation.max_rel for deviation in deviations),
        rtol=_largest(tolerance(array.dtype, setup.precision) for array in _arrays(known)),
        inputs=tuple(probe for feed in (_feed(KINDS[0], setup), *feeds) for probe in feed.probes),
    )


def agree(first: Any | Failed, second: Any | Failed, setup: Setup) -> bool:
    """Whether two answers to the same inputs are equal but for rounding."""
    return all(deviation.excess <= 1.0 for deviation in _deviations(first, second, 1, setup))


def _answer(module: nn.Module, example: Example, setup: Setup) -> Any | Failed:
    limits.check()
    seed_generators(setup.seed)
    return call(module, example)


def _kinds(setup: Setup, seconds: float) -> Sequence[Kind]:
    """Kinds of inputs besides the example itself, two at the least; more where a run takes few ``seconds``."""
    kinds = kinds_for(setup.inputs, seconds)[1:]
    if any(is_float(spec.dtype) for spec in setup.inputs):
        return kinds if len(kinds) > 1 else KINDS[1:3]
    return (KINDS[0], *kinds)


def _feed(kind: Kind, setup: Setup) -> Feed:
    shapes = {spec.name: setup.given.arrays[spec.name].shape for spec in setup.inputs}
    return make_feed(setup.inputs, setup.given, Layout(shapes, "range"), kind, setup.seed)


def _filled(example: Example, feed: Feed, setup: Setup) -> Example:
    named = zip(setup.inputs, example.tensors(), strict=True)
    return example.filled([tensor_like(feed.arrays[spec.name], like) for spec, like in named])


def _stacked(inputs: Sequence[Example]) -> Example | None:
    """``inputs`` as one batch; None where a tensor has no axes."""
    parts = [one.tensors() for one in inputs]
    if not all(tensor.ndim for tensor in parts[0]):
        return None
    return inputs[0].filled([torch.cat(tensors) for tensors in zip(*parts, strict=True)])


def _mixed(inputs: Sequence[Example]) -> Example | None:
    """As many samples of each of ``inputs`` as make one batch of the size that each has; None where there is none."""
    parts = [one.tensors() for one in inputs]
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in parts[0]}
    if len(sizes) != 1 or min(sizes) % len(inputs) or not min(sizes):
        return None
    each = min(sizes) // len(inputs)
    return inputs[0].filled([torch.cat([tensor[:each] for tensor in tensors]) for tensors in zip(*parts, strict=True)])


def _is_batch(answer: Any | Failed, parts: int) -> bool:
    """Whether every output has the samples of the ``parts`` along its first axis, and none spoils all others."""
    if isinstance(answer, Failed):
        return False
    return all(
        array.ndim > 0 and array.shape[0] % parts == 0 and all(map(_is_telling, np.split(array, parts)))
        for array in _arrays(answer)
    )


def _is_telling(array: Array) -> bool:
    return not array.size or not is_float(array.dtype) or bool(np.isfinite(array.astype(np.float64)).any())


def _deviations(source: Any | Failed, result: Any | Failed, parts: int, setup: Setup) -> Iterator[Deviation]:
    """Deviation of each output, part by part; infinite where the two cannot be compared."""
    nothing = Deviation(np.inf)
    if isinstance(source, Failed) or isinstance(result, Failed):
        yield nothing
        return
    first, second = _arrays(source), _arrays(result)
    if not first or len(first) != len(second):
        yield nothing
        return
    for wanted, got in zip(first, second, strict=True):
        if wanted.shape != got.shape or not _is_telling(wanted):
            yield nothing
            return
        rtol = tolerance(wanted.dtype, setup.precision)
        pairs = zip(np.split(wanted, parts), np.split(got, parts), strict=True) if parts > 1 else [(wanted, got)]
        yield from (compare(a, b, rtol) for a, b in pairs)


def _arrays(answer: Any) -> list[Array]:
    return [to_array(tensor) for tensor in tensors_in(answer)]


def _largest(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)
