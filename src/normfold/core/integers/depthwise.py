"""Maps by channel and means over windows as depthwise convolutions, which integer kernels have."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Window
from normfold.core.integers.steps import Affine, AveragePool, Floating, Linear, Network, Step


def with_depthwise(network: Network) -> Network:
    """``network`` with maps that no weight took, and means over windows, as convolutions of each channel alone.

    A map of what is no code yet stays: its result is rounded once either way.
    """
    coded = {step.output for step in network.steps if not isinstance(step, Floating)}
    return replace(
        network,
        steps=tuple(
            step if isinstance(step, Affine) and step.inputs[0] not in coded else _depthwise(network, step)
            for step in network.steps
        ),
    )


def _depthwise(network: Network, step: Step) -> Step:
    rank = network.rank(step.output) or network.rank(step.inputs[0]) if step.inputs else None
    if rank not in (3, 4) or not isinstance(step, Affine | AveragePool):
        return step
    channels = network.channels(step.output, 1 - rank) or network.channels(step.inputs[0], 1 - rank)
    if channels is None or (isinstance(step, Affine) and step.axis != 1 - rank):
        return step
    if isinstance(step, AveragePool):
        weight = np.full((channels, 1, *step.window.kernel), 1.0 / math.prod(step.window.kernel))
        return _convolution(step, weight, np.zeros(channels), step.window)
    scale, shift = (np.broadcast_to(one, (channels,)).astype(np.float64) for one in (step.scale, step.shift))
    ones, zeros = (1,) * (rank - 2), (0,) * (rank - 2)
    made = _convolution(step, scale.reshape(-1, 1, *ones), shift, Window(ones, ones, ones, zeros, zeros))
    return replace(made, low=step.low, high=step.high)


def _convolution(step: Step, weight: np.ndarray, bias: np.ndarray, window: Window) -> Linear:
    return Linear(
        name=step.name,
        operator=step.operator,
        inputs=step.inputs,
        output=step.output,
        nodes=step.nodes,
        weight=weight,
        bias=bias,
        groups=len(weight),
        window=window,
    )
