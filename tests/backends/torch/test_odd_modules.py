"""Odd modules: what each is folded to, or why it is not. Nothing wrong is handed over, whatever it is called with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils import checkpoint

import normfold
from normfold.core.premises import PREMISES
from torch_nets import ConvNorm, Forward, live, outcomes, premises

KEPT, FOLDED = "kept", "folded"
CASES: dict[str, tuple[Callable[[], nn.Module], Any]] = {}
"""By name: what makes the module, and the outcomes of its sites or the code of the error."""


def odd(expected: Any, name: str = "") -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def note(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CASES[name or make.__name__] = (make, expected)
        return make

    return note


def simple(expected: Any, **more: nn.Module) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A forward of a module with ``conv``, ``bn`` and ``tail``, where another norm folds."""

    def note(forward: Callable[..., Any]) -> Callable[..., Any]:
        def make() -> nn.Module:
            tail = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
            return Forward(forward, conv=nn.Conv2d(4, 4, 3, padding=1), bn=nn.BatchNorm2d(4), tail=tail, **more)

        CASES[forward.__name__] = (make, expected)
        return forward

    return note


ALL = {"bn": FOLDED, "tail.2": FOLDED}
REST = {"bn": KEPT, "tail.2": FOLDED}


# A norm that its module looks at ---------------------------------------------------------------------------------


@simple(REST)
def reads_epsilon_for_the_result(self, x):
    return self.tail(self.bn(self.conv(x)) + self.bn.eps)


@simple(REST)
def reads_epsilon(self, x):
    y = self.bn(self.conv(x))
    return self.tail(y * (1 if self.bn.eps > 1e-7 else 2))


@simple(REST)
def asks_for_the_class(self, x):
    y = self.bn(self.conv(x))
    return self.tail(y if isinstance(self.bn, nn.BatchNorm2d) else y * 2)


@simple(REST)
def asks_for_the_exact_class(self, x):
    y = self.bn(self.conv(x))
    return self.tail(y if type(self.bn) is nn.BatchNorm2d else y * 2)


@simple(REST)
def asks_for_the_size(self, x):
    return self.tail(self.bn(self.conv(x))).reshape(x.shape[0], self.bn.num_features, -1)


@simple(REST)
def asks_whether_there_is_one(self, x):
    y = self.bn(self.conv(x))
    return self.tail(y if hasattr(self.bn, "running_mean") else y * 2)


@simple(REST)
def reads_its_scale(self, x):
    return self.tail(self.bn(self.conv(x)) * self.bn.weight.abs().mean())


@simple(REST)
def reads_its_statistics(self, x):
    return self.tail(self.bn(self.conv(x)) - self.bn.running_mean.mean())


@simple(REST)
def reads_its_state(self, x):
    return self.tail(self.bn(self.conv(x)) * len(self.bn.state_dict()))


@simple(REST)
def counts_parameters(self, x):
    return self.tail(self.bn(self.conv(x)) * len(list(self.bn.parameters())))


@simple(ALL)
def calls_it_by_keyword(self, x):
    return self.tail(self.bn(input=self.conv(x)))


@simple({"batch_norm": KEPT, "tail.2": FOLDED})
def calls_its_forward(self, x):
    return self.tail(self.bn.forward(self.conv(x)))


@simple({"batch_norm": KEPT, "tail.2": FOLDED})
def functional_norm(self, x):
    bn = self.bn
    y = functional.batch_norm(self.conv(x), bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.1, bn.eps)
    return self.tail(y)


@simple(ALL)
def looks_for_norms_in_another_module(self, x):
    norms = [m for m in self.tail.modules() if isinstance(m, nn.Conv2d)]
    return self.tail(self.bn(self.conv(x))) * len(norms)


@odd({"layers.1": KEPT})
def list_of_norms_counted() -> nn.Module:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x * sum(isinstance(layer, nn.BatchNorm2d) for layer in self.layers)

    return Counts()


# What is no module of the tree, or hidden in it -------------------------------------------------------------------


@odd({"<BatchNorm2d>": KEPT, "tail.1": FOLDED})
def layers_in_a_plain_list() -> nn.Module:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [live(nn.Conv2d(4, 4, 1)), live(nn.BatchNorm2d(4))]
            self.tail = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.tail(x)

    return Plain()


@odd({"bn": KEPT, "tail.1": FOLDED})
def norm_in_a_plain_dict_too() -> nn.Module:
    class Known(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.tail = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
            self.by_name = {"bn": self.bn}

        def forward(self, x):
            return self.tail(self.by_name["bn"](self.conv(x)))

    return Known()


@odd({"tail.1": FOLDED})
def buffers_as_a_norm() -> nn.Module:
    class Buffers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)
            self.register_buffer("scale", torch.rand(4, 1, 1) + 0.5)
            self.register_buffer("shift", torch.rand(4, 1, 1))
            self.tail = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x):
            return self.tail(self.conv(x) * self.scale + self.shift)

    return Buffers()


@odd({"1": FOLDED})
def frozen_norm_by_buffers() -> nn.Module:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.rand(4, 1, 1) + 0.5)
            self.register_buffer("shift", torch.rand(4, 1, 1))

        def forward(self, x):
            return x * self.scale + self.shift

    return nn.Sequential(nn.Conv2d(4, 4, 1), Frozen())


@simple({"bn": KEPT, "bn@2": KEPT, "tail.2": FOLDED})
def norm_called_twice(self, x):
    return self.tail(self.bn(torch.relu(self.bn(self.conv(x)))))


@simple(REST)
def convolution_called_twice(self, x):
    return self.tail(self.bn(self.conv(torch.relu(self.conv(x)))))


@simple({"bn": KEPT, "bn@2": KEPT, "tail.2": FOLDED})
def pair_called_twice(self, x):
    return self.tail(self.bn(self.conv(x)) + self.bn(self.conv(-x)))


@odd({"0.1": KEPT, "0.1@2": KEPT})
def shared_block() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    return nn.Sequential(block, nn.ReLU(), block)


@odd({"bn": FOLDED})
def two_names_for_one_norm() -> nn.Module:
    class Names(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.norm = self.bn

        def forward(self, x):
            return self.norm(self.conv(x))

    return Names()


# What forwards return and take ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


@simple(ALL)
def returns_a_dict(self, x):
    return {"y": self.tail(self.bn(self.conv(x)).relu()), "n": None}


@simple(ALL)
def returns_a_dataclass(self, x):
    return Answer(self.tail(self.bn(self.conv(x)).relu()))


@simple(REST)
def returns_what_lies_between(self, x):
    y = self.conv(x)
    return self.tail(self.bn(y)), y


@simple(REST)
def returns_a_list_in_a_dict_of_what_lies_between(self, x):
    y = self.conv(x)
    return {"out": self.tail(self.bn(y)), "all": [[y]]}


@simple(REST)
def returns_a_dataclass_of_what_lies_between(self, x):
    y = self.conv(x)
    return Answer(self.tail(self.bn(y)), y)


@simple("unverified")
def returns_none(self, x):
    self.tail(self.bn(self.conv(x)))


@simple({"bn": KEPT, "tail.2": KEPT})
def returns_a_number(self, x):
    return float(self.tail(self.bn(self.conv(x))).sum())


@simple(ALL)
def is_a_generator_inside(self, x):
    def steps():
        y = self.conv(x)
        yield y
        yield self.bn(y)

    *_, y = steps()
    return self.tail(y.relu())


@simple(REST)
def takes_a_view_in_place(self, x):
    y = self.conv(x)
    z = self.bn(y)
    y[:, 0] += 1
    return self.tail(z + y)


@simple(ALL)
def changes_the_norms_result_in_place(self, x):
    y = self.bn(self.conv(x))
    y[:, 0].mul_(2)
    return self.tail(y)


@simple(REST)
def changes_the_norms_input_in_place(self, x):
    y = self.conv(x)
    z = self.bn(y)
    y.zero_()
    return self.tail(z) + y


@simple(ALL)
def adds_in_place(self, x):
    y = self.bn(self.conv(x))
    y += x
    return self.tail(y.relu_())


# Python around the operations -------------------------------------------------------------------------------------


@simple(REST)
def round_trip_through_numpy_between(self, x):
    y = torch.from_numpy(np.tanh(self.conv(x).detach().numpy()))
    return self.tail(self.bn(y))


CASES["round_trip_through_numpy_before"] = (
    lambda: Forward(
        lambda self, x: self.inner(torch.from_numpy(np.tanh(x.detach().numpy()))),
        inner=nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
    ),
    {"inner.1": FOLDED},
)


@simple(REST)
def scales_by_a_read_number(self, x):
    y = self.bn(self.conv(x))
    return self.tail(y / float(y.abs().max()))


@simple(REST)
def loops_as_often_as_the_values_say(self, x):
    y = self.bn(self.conv(x))
    for _ in range(int(x.abs().sum()) % 3):
        y = self.bn(self.conv(y))
    return self.tail(y)


@simple(ALL)
def checks_for_numbers(self, x):
    y = self.bn(self.conv(x))
    assert not torch.isnan(y).any()
    return self.tail(y.relu())


@simple(ALL)
def is_checkpointed(self, x):
    y = checkpoint.checkpoint(lambda z: self.bn(self.conv(z)), x, use_reentrant=False)
    return self.tail(y.relu())


@simple(ALL)
def is_checkpointed_with_reentry(self, x):
    y = checkpoint.checkpoint(lambda z: self.bn(self.conv(z)), x, use_reentrant=True)
    return self.tail(y.relu())


@simple(ALL)
def asks_whether_it_is_scripted(self, x):
    y = self.bn(self.conv(x))
    if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return y
    return self.tail(y.relu())


@simple(ALL)
def asks_for_the_shape(self, x):
    y = self.bn(self.conv(x))
    return self.tail(y.relu() if y.shape[1] == 4 and y.ndim == 4 and y.dtype.is_floating_point else y)


@simple(ALL)
def sets_requires_grad(self, x):
    self.conv.weight.requires_grad_(False)
    return self.tail(self.bn(self.conv(x)).relu())


@simple(ALL)
def turns_gradients_on_and_off(self, x):
    with torch.enable_grad():
        y = self.bn(self.conv(x))
    with torch.no_grad():
        return self.tail(y.relu())


@simple(ALL)
def sets_the_generator(self, x):
    torch.manual_seed(3)
    return self.tail(self.bn(self.conv(x)).relu() + torch.rand(1, dtype=x.dtype))


@simple(REST)
def keeps_the_last_value(self, x):
    self.last = self.conv(x)
    return self.tail(self.bn(self.last))


@simple(REST)
def keeps_the_last_value_in_a_cycle(self, x):
    box = {"value": self.conv(x)}
    box["self"] = box
    self.__dict__["box"] = box
    return self.tail(self.bn(box["value"]))


@simple(ALL)
def caches_a_table(self, x):
    if getattr(self, "table", None) is None:
        self.table = torch.arange(6.0, dtype=x.dtype)
    return self.tail(self.bn(self.conv(x + self.table)).relu())


@simple(ALL)
def catches_an_error(self, x):
    try:
        x.reshape(7, 7, 7)
    except RuntimeError:
        x = x * 2
    return self.tail(self.bn(self.conv(x)).relu())


@simple(REST)
def batch_of_one_is_another_way(self, x):
    y = self.conv(x)
    return self.tail(y if x.shape[0] == 1 else self.bn(y))


@simple(ALL)
def a_batch_in_parts(self, x):
    return torch.cat([self.tail(part) for part in self.bn(self.conv(x)).relu().split(x.shape[0])])


@simple(REST)
def training_flag(self, x):
    y = self.bn(self.conv(x))
    return self.tail(y * 2 if self.bn.training else y)


@simple(ALL)
def weight_is_read_for_its_type(self, x):
    return self.tail(self.bn(self.conv(x.to(self.conv.weight.dtype))).relu())


@simple(REST)
def weight_of_the_convolution_is_read(self, x):
    return self.tail(self.bn(self.conv(x)) + self.conv.weight.mean())


@simple(ALL)
def bias_of_the_convolution_is_asked_for(self, x):
    y = self.bn(self.conv(x))
    return self.tail(y if self.conv.bias is None else y * 2)


def _without_bias() -> nn.Module:
    make, _ = CASES["bias_of_the_convolution_is_asked_for"]
    net = make()
    net.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    return net


CASES["bias_of_a_convolution_without_one_is_asked_for"] = (_without_bias, REST)


# Wrappers and other kinds of modules ------------------------------------------------------------------------------


@odd({"module.bn": FOLDED})
def data_parallel() -> nn.Module:
    return nn.DataParallel(ConvNorm())


@odd("bad-input")
def compiled() -> nn.Module:
    return torch.compile(ConvNorm(), backend="eager")


@odd("bad-input")
def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))


@odd("bad-input")
def traced_by_jit() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    return nn.Sequential(torch.jit.trace(net, torch.rand(1, 4, 6, 6)), nn.ReLU())


@odd({"1": FOLDED})
def parametrized_by_weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4))


@odd({"1": FOLDED})
def parametrized_by_spectral_norm() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4))


@odd({"1": KEPT})
def hook_that_changes_the_result() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net[1].register_forward_hook(lambda _module, _args, out: out * 2)
    return net


@odd({"1": KEPT})
def hook_on_the_convolution() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net[0].register_forward_hook(lambda _module, _args, out: out + 1)
    return net


@odd({"0.1": FOLDED})
def hook_on_the_whole() -> nn.Module:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), nn.ReLU())
    net.register_forward_hook(lambda _module, _args, out: out * 2)
    return net


@odd({"1": KEPT})
def own_call() -> nn.Module:
    class Doubled(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    return nn.Sequential(nn.Conv2d(4, 4, 1), Doubled(4))


@odd({"1": FOLDED})
def subclass_of_a_norm() -> nn.Module:
    class Named(nn.BatchNorm2d):
        pass

    return nn.Sequential(nn.Conv2d(4, 4, 1), Named(4))


@odd({"1": KEPT})
def forward_replaced_on_the_instance() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    first = net[0]
    first.forward = lambda x: nn.Conv2d.forward(first, x)
    return net


@odd({"1": KEPT})
def norm_that_tracks_nothing() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))


@odd({"1": KEPT})
def norm_in_training() -> nn.Module:
    class Training(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(True)

    return nn.Sequential(nn.Conv2d(4, 4, 1), Training(4))


@odd({"1.inner": FOLDED})
def attributes_by_getattr() -> nn.Module:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

        def forward(self, x):
            return self.inner(x)

    return nn.Sequential(nn.Conv2d(4, 4, 1), Wrapper(nn.BatchNorm2d(4)))


@odd({"parts.bn": FOLDED})
def slots_and_properties() -> nn.Module:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1), "bn": nn.BatchNorm2d(4)})

        @property
        def norm(self):
            return self.parts["bn"]

        def forward(self, x):
            return self.norm(self.parts["conv"](x))

    return Lazy()


def picture(batch: int, sign: int = 0) -> torch.Tensor:
    x = torch.randn(batch, 4, 6, 6, dtype=torch.float64)
    return x.abs() * sign if sign else x


def answer(net: nn.Module, x: torch.Tensor) -> Any:
    """What ``net`` returns, or that it raises, as plain containers."""
    with torch.no_grad():
        try:
            result = net(x.clone())
        except RuntimeError as error:
            return type(error).__name__
    if dataclasses.is_dataclass(result):
        result = {one.name: getattr(result, one.name) for one in dataclasses.fields(result)}
    return {name: value for name, value in result.items() if value is not None} if isinstance(result, dict) else result


def agree(net: nn.Module, result: nn.Module) -> None:
    for x in (picture(3), picture(1), picture(5), picture(2, 1), picture(2, -1)):
        wanted, got = answer(net, x), answer(result, x)
        if isinstance(wanted, str):
            assert got == wanted
        else:
            torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_odd_modules(name: str) -> None:
    torch.manual_seed(7)
    make, expected = CASES[name]
    net = make() if name in ("scripted", "compiled", "traced_by_jit") else live(make())
    if isinstance(expected, str):
        with pytest.raises(normfold.NormfoldError) as error:
            normfold.fold(net, (picture(3),))
        assert error.value.code == expected
        return
    result = normfold.fold(net, (picture(3),))
    assert outcomes(result) == expected
    for decision in result.decisions:
        assert bool(decision.refused_by) == (decision.outcome != "folded"), decision
        assert all(refusal.premise in PREMISES for refusal in decision.refused_by)
    agree(net, result.model)


def test_there_are_sixty_of_them() -> None:
    assert len(CASES) >= 60


def test_a_norm_that_is_looked_at_stays_for_that() -> None:
    for name in ("asks_for_the_class", "asks_for_the_size", "reads_epsilon", "training_flag", "counts_parameters"):
        result = normfold.fold(live(CASES[name][0]()), (picture(2),))
        (decision,) = (one for one in result.decisions if one.site == "bn")
        assert "not-looked-at" in {refusal.premise for refusal in decision.refused_by}, name


def test_many_norms_that_are_looked_at_are_told_apart_from_the_others() -> None:
    def forward(self, x):
        for k, block in enumerate(self.blocks):
            x = block(x) * (block.bn.eps + 1 if k in (2, 5) else 1)
        return x

    def block() -> nn.Module:
        return Forward(lambda self, x: self.bn(self.conv(x)).relu(), conv=nn.Conv2d(4, 4, 1), bn=nn.BatchNorm2d(4))

    net = live(Forward(forward, blocks=nn.ModuleList(block() for _ in range(7))))
    result = normfold.fold(net, (picture(2),))
    assert {site for site, outcome in outcomes(result).items() if outcome == KEPT} == {"blocks.2.bn", "blocks.5.bn"}
    agree(net, result.model)


class Named(torch.Tensor):
    """A tensor whose class gives its own name to whatever is made of it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
        return made.as_subclass(Named) if isinstance(made, torch.Tensor) else made

    def __deepcopy__(self, memo: dict) -> Named:
        return self.detach().clone().as_subclass(Named)


def test_a_class_of_tensors_that_computes_by_itself_hides_no_norm() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    net[0].weight = nn.Parameter(net[0].weight.detach().as_subclass(Named), requires_grad=False)
    result = normfold.fold(net, (picture(2).float(),))
    assert outcomes(result) == {"1": "kept"}
    assert premises(result, "1")


def wrapped(where: int) -> nn.Module:
    """A network of which the weight of one module is a tensor that wraps two others."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    held = net[where].weight.detach()
    net[where].weight = nn.Parameter(TwoTensor(held, held), requires_grad=False)
    return net


def test_an_output_that_wraps_others_cannot_be_compared() -> None:
    with pytest.raises(normfold.NormfoldError, match="returns a TwoTensor, whose values cannot be read") as caught:
        normfold.fold(wrapped(0), (picture(2).float(),))
    assert caught.value.code == "unverified"


def test_a_norm_whose_scale_wraps_others_stays() -> None:
    result = normfold.fold(wrapped(1), (picture(2).float(),))
    assert outcomes(result) == {"1": "kept"}
    assert premises(result, "1") == {"constant"}
