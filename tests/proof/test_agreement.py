"""The proof of modules in few runs: how many, what they tell, and modules that do not give the same twice."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable

import pytest

import normfold
from normfold.core.premises import VERIFICATION_FAILED
from normfold.verbs.fold_result import FoldResult

torch = pytest.importorskip("torch", reason="torch is an extra")
nn = torch.nn

from normfold.passes.fold import module as module_pass  # noqa: E402 - it needs torch

PICTURE = torch.randn(2, 3, 8, 8)
MOST = 8
MOST_FIXED = 8
"""For a module that runs on no other batch than that of its example, where kinds of inputs share that one."""
MOST_SINGLE = 10
"""The same where it is a batch of one: each kind takes a run of both."""


class Net(nn.Module):
    """Convolutions with norms, and something ``between``; counts all calls of all copies."""

    calls = 0

    def __init__(self, between: Callable[[Net, torch.Tensor], torch.Tensor] = lambda net, x: x) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two, self.norm2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.between, self.count = nn.Dropout(), between, 0
        self.register_buffer("steps", torch.zeros(()))
        for norm in (self.norm1, self.norm2):
            with torch.no_grad():
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Net.calls += 1
        return self.norm2(self.two(self.between(self, self.norm1(self.one(x)).relu())))


def calls(net: nn.Module, *inputs: torch.Tensor, **options) -> int:
    Net.calls = 0
    result = normfold.fold(net.eval(), inputs or (PICTURE,), **options)
    assert result.verification.status == "equivalent"
    assert {one.outcome for one in result.decisions} == {"folded"}
    return Net.calls


def failed(result: FoldResult) -> list[str]:
    """Sites that are kept because the result did not hold with them."""
    return [one.site for one in result.decisions for no in one.refused_by if no.premise == VERIFICATION_FAILED]


def test_a_proof_takes_few_forward_passes() -> None:
    assert calls(Net()) <= 5
    assert calls(Net(), in_place=True) <= 6


def test_one_that_takes_no_larger_batch_takes_few_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.proof.probes.TIME_BUDGET", 0.0)
    fixed = Net(lambda net, x: x.reshape(2, 4, 8, 8))
    assert calls(fixed) <= MOST_FIXED
    assert calls(fixed, in_place=True) <= MOST_FIXED + 1
    single = Net(lambda net, x: x.reshape(1, 4, 8, 8))
    assert calls(single, PICTURE[:1]) <= MOST_SINGLE


def test_the_inputs_are_said() -> None:
    probes = normfold.fold(Net().eval(), PICTURE).verification.inputs
    assert probes[0].made == "given"
    assert len({probe.made for probe in probes}) >= 3
    assert all(probe.shape == (2, 3, 8, 8) for probe in probes)


@pytest.mark.parametrize("kind", ["samples", "halves of a fixed batch", "one number", "a row"])
def test_a_difference_in_any_kind_of_input_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault shows where values are large, and nowhere else."""
    right = module_pass.write

    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.01 * x.abs().amax() * (x.abs().amax((1, 2, 3), keepdim=True) > 30)

    def wrong(graph, module):
        change = right(graph, module)
        if graph.removals:
            module.norm1 = Wrong()
        return change

    monkeypatch.setattr(module_pass, "write", wrong)
    shapes = {
        "samples": lambda x: x,
        "halves of a fixed batch": lambda x: x.reshape(2, 4, 6, 6),
        "one number": lambda x: x.mean(),
        "a row": lambda x: x.flatten()[None],
    }

    class Shaped(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return shapes[kind](super().forward(x))

    assert failed(normfold.fold(Shaped().eval(), PICTURE, skip=["norm2"])) == ["norm1"]


RANDOM = {
    "dropout": lambda net, x: nn.functional.dropout(x, training=True),
    "randn": lambda net, x: x + torch.randn_like(x),
    "python": lambda net, x: x * random.random(),  # noqa: S311 - no secret
}


@pytest.mark.parametrize("name", RANDOM)
def test_what_draws_random_numbers_gets_the_same_ones(name: str) -> None:
    assert calls(Net(RANDOM[name])) <= MOST


def test_dropout_in_training_mode_is_compared_with_the_same_masks() -> None:
    net = Net(lambda net, x: net.drop(x)).eval()
    net.drop.train()
    result = normfold.fold(net, PICTURE)
    assert result.verification.status == "equivalent"
    assert result.model.drop.training


def test_a_random_module_with_a_wrong_fold_is_not_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = module_pass.write

    def wrong(graph, module):
        change = right(graph, module)
        if graph.removals:
            module.two.weight.data[0] *= -1
        return change

    monkeypatch.setattr(module_pass, "write", wrong)
    assert failed(normfold.fold(Net(RANDOM["randn"]).eval(), PICTURE, skip=["norm1"])) == ["norm2"]


def counted(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.count += 1
    return x * net.count


def stepped(net: Net, x: torch.Tensor) -> torch.Tensor:
    net.steps += 1
    return x * net.steps


@pytest.mark.parametrize("between", [counted, stepped])
def test_a_state_that_changes_from_call_to_call(between: Callable) -> None:
    net = Net(between).eval()
    result = normfold.fold(net, PICTURE)
    assert result.verification.status == "equivalent"
    assert "folded" in {one.outcome for one in result.decisions}
    assert net.count == result.model.count == 0
    assert float(net.steps) == float(result.model.steps) == 0
    torch.testing.assert_close(result.model(PICTURE), net(PICTURE), rtol=1e-4, atol=1e-4)


CLOCKS = {
    "counter": lambda numbers: lambda net, x: x * next(numbers),
    "clock": lambda numbers: lambda net, x: x * (time.perf_counter_ns() % 1000),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_what_depends_on_something_outside_is_not_blamed_on_a_fold(name: str) -> None:
    class Clock:
        """Not copied with the module."""

        numbers = itertools.count(1)

    net = Net(CLOCKS[name](Clock.numbers)).eval()
    with pytest.raises(normfold.UnprovenError, match="other outputs for the same inputs") as caught:
        normfold.fold(net, PICTURE)
    assert caught.value.code == "not-repeatable"
    assert "outside itself" in caught.value.message
    assert caught.value.verification.status == "unavailable"
    assert normfold.fold(net, PICTURE, verify=False).verification.status == "skipped"


@pytest.mark.parametrize("seed", [2, 19, 31])
def test_a_module_that_differs_from_itself_is_not_taken_for_a_chaotic_one(seed: int) -> None:
    """With these weights it moves little enough from call to call for that: 11 of 150 did."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = Net().state_dict()
        picture = torch.randn(2, 3, 8, 8)
    for verb in (normfold.fold, normfold.export):
        net = Net(CLOCKS["counter"](itertools.count(1))).eval()
        net.load_state_dict(weights)
        with pytest.raises(normfold.UnprovenError) as caught:
            verb(net, (picture,))
        assert caught.value.code == "not-repeatable"


def forces(net: Net, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(x.square().sum(), x)[0]


@pytest.mark.parametrize("verb", [normfold.fold, normfold.inspect, normfold.fold_program, normfold.export])
def test_gradients_taken_inside_are_named(verb: Callable) -> None:
    net = Net(forces).eval()
    net(PICTURE)
    with pytest.raises(normfold.NormfoldError, match="takes gradients in its forward") as caught:
        verb(net, (PICTURE,))
    assert caught.value.code == "not-traceable"


def test_inputs_that_do_not_fit_are_not_called_gradients() -> None:
    with pytest.raises(normfold.NormfoldError, match="expected input") as caught:
        normfold.fold(Net(forces).eval(), (PICTURE[:, :2],))
    assert caught.value.code == "bad-input"
