"""Every verb that takes a module leaves the module, the process and its settings as they were."""

from __future__ import annotations

import copy
import os
import random
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normfold
from normfold.measure.candidate import Effort

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("onnxscript", reason="onnxscript is an extra")
nn = torch.nn

PICTURE = torch.randn(2, 3, 8, 8)
BRIEF = Effort(time_limit=1.0, first=2, most=2, copies=1, per_process=0.05, warm_up=0.0, control=False)
TIMING = ("bench", "compare")
HOOKS = [name for name in vars(nn.modules.module) if name.startswith("_global_")]


class Cached(nn.Module):
    """Keeps a table, for every network of its kind, that it made in its first call."""

    table: torch.Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if Cached.table is None:
            Cached.table = torch.linspace(1, 2, 4, device=x.device, dtype=x.dtype)
        return self.head(self.bn(self.conv(x)).mean((2, 3)) * Cached.table)


class Random(Cached):
    """The same, with numbers of every generator in it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(()) + random.random() + float(np.random.random())  # noqa: NPY002, S311 - the global ones
        return super().forward(x) + 1e-9 * noise


def process() -> dict[str, Any]:
    """What the process can tell of a call."""
    generator: Any = np.random.get_state()  # noqa: NPY002 - the global one
    return {
        "environment": dict(os.environ),
        "warning filters": list(warnings.filters),
        "random": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in generator],
        "torch": torch.get_rng_state().tolist(),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "type": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "hooks": {name: len(getattr(nn.modules.module, name) or ()) for name in HOOKS},
        "printing": str(torch.tensor(1 / 3)),
        "folder": Path.cwd(),
    }


def inside(module: nn.Module) -> dict[str, Any]:
    """What a module holds: its parts, their flags and hooks, and which tensors in which memory."""
    return {
        path: (
            type(inner),
            inner.training,
            sorted(vars(inner)),
            {name: len(hooks) for name, hooks in vars(inner).items() if name.endswith("_hooks")},
            {name: _about(tensor) for name, tensor in inner.named_parameters(recurse=False)},
            {name: _about(tensor) for name, tensor in inner.named_buffers(recurse=False)},
        )
        for path, inner in module.named_modules()
    }


def _about(tensor: torch.Tensor) -> tuple[Any, ...]:
    return id(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad, tensor.grad, tensor.tolist()


VERBS: dict[str, Callable[[nn.Module], Any]] = {
    "inspect": lambda net: normfold.inspect(net, (PICTURE,)),
    "fold": lambda net: normfold.fold(net, (PICTURE,)),
    "fold in place": lambda net: normfold.fold(copy.deepcopy(net), (PICTURE,), in_place=True),
    "fold_program": lambda net: normfold.fold_program(net, (PICTURE,)),
    "export": lambda net: normfold.export(net, (PICTURE,)),
    "verify": lambda net: normfold.verify(net, net, example_inputs=(PICTURE,)),
    "bench": lambda net: normfold.bench(net, example_inputs=(PICTURE,), effort=BRIEF),
    "compare": lambda net: normfold.compare(net, net, example_inputs=(PICTURE,), effort=BRIEF),
}


def check_that_nothing_is_left_behind(call: Callable[[nn.Module], Any], net: nn.Module) -> None:
    before = process(), inside(net)
    try:
        call(net)
    except normfold.NormfoldError as error:
        assert error.code in {"not-exportable", "bad-input", "outputs-differ"}  # noqa: PT017 - it may raise or not
    now = process(), inside(net)
    for told, held in zip(now, before, strict=True):
        assert {name: told[name] for name in told if told[name] != held.get(name)} == {}
        assert told.keys() == held.keys()


@pytest.mark.parametrize("make", [Cached, Random])
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in TIMING])
def test_nothing_is_left_behind(verb: str, make: type[nn.Module]) -> None:
    check_that_nothing_is_left_behind(VERBS[verb], make().eval())


@pytest.mark.slow
@pytest.mark.parametrize("verb", TIMING)
def test_nothing_is_left_behind_by_measuring(verb: str) -> None:
    check_that_nothing_is_left_behind(VERBS[verb], Cached().eval())


@pytest.mark.parametrize("verb", ["inspect", "fold", "fold in place", "fold_program", "export", "verify"])
def test_nothing_is_left_behind_by_what_fails(verb: str) -> None:
    class Fails(Random):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            os.environ["LEFT_BEHIND"] = "yes"
            warnings.simplefilter("ignore")
            super().forward(x)
            raise ValueError("not today")

    with pytest.raises(normfold.NormfoldError, match="not today"):
        VERBS[verb](Fails().eval())
    check_that_nothing_is_left_behind(VERBS[verb], Fails().eval())


@pytest.mark.parametrize("verb", ["inspect", "fold", "fold_program", "export", "verify"])
def test_what_the_run_has_cached_can_be_trained_with(verb: str) -> None:
    """A table made in inference mode could not be."""
    Cached.table, net = None, Cached().eval()
    VERBS[verb](net)
    assert Cached.table is not None
    net.train()(PICTURE).sum().backward()
    assert net.conv.weight.grad is not None
