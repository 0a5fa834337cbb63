"""Runs a user's own code without changing the settings of the process or its generators of random numbers."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch

Setting = tuple[Callable[[], Any], Callable[[Any], Any]]

SETTINGS: Final[tuple[Setting, ...]] = (
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
)
"""What reads and what writes each of them."""


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever the block does to the environment, the warning filters and the settings of PyTorch is undone."""
    environment = dict(os.environ)
    before = [(write, read()) for read, write in SETTINGS]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            yield
    finally:
        for write, value in before:
            write(value)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
