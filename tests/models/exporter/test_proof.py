"""The comparison with the module: which sizes are tried, and how much of a difference is the module's own rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import normfold
from normfold.models.exporter.interface import Interface
from normfold.models.module.example import Example
from normfold.proof.exported import examples
from normfold.proof.modules import ModuleRunner, RunnableModule
from normfold.runtime import Loaded
from torch_nets import Forward


def shapes(module: nn.Module, dynamic: dict, *inputs: torch.Tensor) -> list[tuple[tuple[int, ...], ...]]:
    names = tuple(f"x{k}" for k in range(len(inputs)))
    what = Interface(Example(inputs), names, ("y",), dynamic)
    return [tuple(tuple(tensor.shape) for tensor in example.tensors()) for example in examples(module, what)]


def test_free_sizes_are_varied() -> None:
    module = Forward(lambda self, x: x.mean((2, 3)))
    assert shapes(module, {}, torch.zeros(2, 3, 8, 8)) == [((2, 3, 8, 8),)]
    dynamic = {"x0": {0: "n", 2: "height", 3: "width"}}
    assert shapes(module, dynamic, torch.zeros(2, 3, 8, 100)) == [
        ((2, 3, 8, 100),),
        ((3, 3, 16, 50),),
        ((1, 3, 8, 100),),
    ]


def test_equal_names_stay_equal_and_sizes_that_the_module_refuses_are_left_out() -> None:
    module = Forward(lambda self, x, y: (x + y).reshape(len(x), -1, 7))
    dynamic = {"x0": {0: "n", 1: "k"}, "x1": {0: "n", 1: "k"}}
    pairs = shapes(module, dynamic, torch.zeros(3, 21), torch.ones(3, 21))
    assert [first for first, _ in pairs] == [second for _, second in pairs]
    assert [first for first, _ in pairs] == [(3, 21), (5, 42), (1, 21)]


def test_a_size_that_nothing_else_fits_is_said() -> None:
    module = Forward(lambda self, x: x.reshape(2, 5))
    with pytest.raises(normfold.NormfoldError, match="no other size than k 5"):
        shapes(module, {"x0": {1: "k"}}, torch.zeros(2, 5))


def test_the_module_is_its_own_measure_of_rounding() -> None:
    """In float32 the sum loses what float64 keeps; the answer is rounded to the type that the module gives."""
    module = Forward(lambda self, x: (x + 1e8) - 1e8)
    x = torch.full((2, 3), 0.25)
    runner = ModuleRunner(Example((x,)), ["x"], ["y"])
    answers = []
    for optimised in (False, True):
        assert isinstance(runner.load(RunnableModule(module), optimised=optimised), Loaded)
        answers.append(runner.run({"x": x.numpy()}).outputs["y"])
    assert [answer.dtype for answer in answers] == [np.float32, np.float32]
    np.testing.assert_array_equal(answers[0], np.zeros((2, 3)))
    np.testing.assert_allclose(answers[1], np.full((2, 3), 0.25), atol=1e-7)


def test_a_difference_within_its_own_rounding_is_none() -> None:
    """The bias cancels after it has taken the digits; no change of the inputs shows that, the same in float64 does."""
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    with torch.no_grad():
        module[0].bias.fill_(3e5)
        module[1].running_mean.fill_(3e5)
    proof = normfold.export(module, torch.randn(2, 4), fold=False).verification
    assert proof.status == "equivalent"
    assert "rounding" in proof.because
