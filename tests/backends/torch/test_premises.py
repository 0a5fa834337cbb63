"""Each native premise broken alone: the norm stays, and its decision says why."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import normfold
from torch_nets import ConvNorm, Forward, decisions, folded, live, outcomes, picture, premises


def parts(**more: nn.Module) -> dict[str, nn.Module]:
    return {"conv": nn.Conv2d(4, 4, 3, padding=1), "bn": nn.BatchNorm2d(4), **more}


def test_eval_mode() -> None:
    net = live(ConvNorm())
    net.bn.train()
    result = normfold.fold(net, (picture(),))
    assert "eval-mode" in premises(result, "bn")
    assert net.bn.running_mean.abs().min() >= 0.5


def test_running_statistics() -> None:
    net = live(nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)))
    assert "running-statistics" in premises(folded(net, picture()), "1")


def test_finite() -> None:
    net = live(nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, eps=0.0)))
    net[1].running_var[2] = 0
    assert "finite" in premises(normfold.fold(net, (picture(),), verify=False), "1")


def test_without_affine() -> None:
    net = live(nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6, affine=False)))
    assert outcomes(folded(net, picture())) == {"1": "folded"}


def test_called_once_a_norm() -> None:
    net = live(
        Forward(
            lambda self, x: self.bn(self.second(functional.relu(self.bn(self.conv(x))))),
            **parts(second=nn.Conv2d(4, 4, 1)),
        )
    )
    result = folded(net, picture())
    assert outcomes(result) == {"bn": "kept", "bn@2": "kept"}
    assert "called-once" in premises(result, "bn")


def test_called_once_a_convolution() -> None:
    """torch.fx's ``fuse`` folds the norm into both calls."""
    net = live(Forward(lambda self, x: self.bn(self.conv(functional.relu(self.conv(x)))), **parts()))
    assert "called-once" in premises(folded(net, picture()), "bn")


class InTurns(nn.Conv2d):
    """Works at every second call only."""

    works = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.works = not self.works
        return super().forward(x) if self.works else x


def test_called_once_a_convolution_that_reads_its_weight_at_either_call() -> None:
    """Which of the calls reads the weight is up to a state that no run shows."""
    net = live(
        Forward(lambda self, x: self.bn(self.conv(functional.relu(self.conv(x)))), **parts(conv=InTurns(4, 4, 1)))
    )
    result = normfold.fold(net, (picture(),), verify=False)
    assert "called-once" in premises(result, "bn")


def test_called_once_a_weight_read_elsewhere() -> None:
    net = live(Forward(lambda self, x: (self.bn(self.conv(x)), self.conv.weight.sum()), **parts()))
    assert "called-once" in premises(folded(net, picture()), "bn")


def test_parameter_untied() -> None:
    net = live(Forward(lambda self, x: self.other(self.bn(self.conv(x)).relu()), **parts(other=nn.Conv2d(4, 4, 3))))
    net.other.weight = net.conv.weight
    assert "parameter-untied" in premises(folded(net, picture()), "bn")


def test_parameter_untied_a_head_that_reads_the_embedding() -> None:
    """As in most small language models: the reason names the other one, whichever was stored first."""

    def forward(self, x):
        return self.head(self.norm(self.inner(self.embedding(x))))

    layers = {"embedding": nn.Embedding(9, 4), "inner": nn.Linear(4, 4), "norm": nn.RMSNorm(4)}
    net = live(Forward(forward, **layers, head=nn.Linear(4, 9, bias=False)))
    net.head.weight = net.embedding.weight
    result = folded(net, torch.tensor([[1, 2, 8]]))
    reason = next(one.because for one in decisions(result)["norm"].refused_by if one.premise == "parameter-untied")
    assert "'embedding.weight'" in reason
    net.head.weight = nn.Parameter(net.embedding.weight.detach().clone())
    assert decisions(folded(net, torch.tensor([[1, 2, 8]])))["norm"].outcome == "part-folded"


def test_parameter_untied_in_a_module_that_does_not_run() -> None:
    net = live(Forward(lambda self, x: self.bn(self.conv(x)), **parts(other=nn.Conv2d(4, 4, 3))))
    net.other.weight = net.conv.weight
    assert "parameter-untied" in premises(folded(net, picture()), "bn")


def test_parameter_untied_in_memory() -> None:
    net = live(Forward(lambda self, x: self.bn(self.conv(x)), **parts(other=nn.Conv2d(4, 4, 3))))
    net.other.weight = nn.Parameter(net.conv.weight.detach())
    assert "parameter-untied" in premises(folded(net, picture()), "bn")


def test_parameter_untied_a_norm_whose_constants_are_read_elsewhere() -> None:
    net = live(Forward(lambda self, x: self.bn(self.conv(x)) * self.bn.weight.sum(), **parts()))
    assert "parameter-untied" in premises(folded(net, picture()), "bn")


@pytest.mark.parametrize("at", ["conv", "bn"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_no_hooks(at: str, kind: str) -> None:
    net = live(ConvNorm())
    getattr(net.get_submodule(at), kind)(lambda *_: None)
    result = folded(net, picture())
    assert "no-hooks" in premises(result, "bn")


def test_a_hook_of_a_container_sees_the_value() -> None:
    net = live(nn.Sequential(nn.Sequential(nn.Conv2d(4, 6, 1)), nn.BatchNorm2d(6)))
    net[0].register_forward_hook(lambda *_: None)
    result = folded(net, picture())
    assert "not-output" in premises(result, "1")
    assert "hook of '0'" in " ".join(refusal.because for refusal in decisions(result)["1"].refused_by)


def test_hooks_elsewhere_stay() -> None:
    seen: list[tuple[int, ...]] = []
    net = live(nn.Sequential(ConvNorm(), nn.GELU()))
    net[1].register_forward_hook(lambda _module, _args, out: seen.append(tuple(out.shape)))
    result = folded(net, picture())
    assert outcomes(result) == {"0.bn": "folded"}
    seen.clear()
    result.model(picture())
    assert seen == [(2, 6, 6, 6)]


def test_a_value_kept_after_the_call_is_not_changed() -> None:
    def forward(self, x):
        self.features = self.conv(x)
        return self.bn(self.features)

    assert "not-output" in premises(folded(live(Forward(forward, **parts())), picture()), "bn")


@pytest.mark.parametrize(
    "look", [lambda y: bool(y.sum() > 0), lambda y: y.sum().item() > 0, lambda y: y.numpy().sum() > 0]
)
def test_fixed_path(look) -> None:
    net = live(Forward(lambda self, x: self.bn(self.conv(x)) if look(x) else self.conv(x), **parts()))
    assert "fixed-path" in premises(folded(net, picture().abs()), "bn")


def test_plain_norm() -> None:
    class Odd(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + x

    net = live(nn.Sequential(nn.Conv2d(4, 6, 1), Odd(6)))
    assert "plain-norm" in premises(folded(net, picture()), "1")


def test_needs_structure_for_a_norm_without_a_module() -> None:
    def forward(self, x):
        y, bn = self.conv(x), self.bn
        return functional.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    net = live(Forward(forward, **parts()))
    (decision,) = folded(net, picture()).decisions
    assert {refusal.premise for refusal in decision.refused_by} == {"needs-structure"}


def test_needs_structure_for_what_would_be_put_in() -> None:
    net = live(nn.Sequential(nn.GELU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)))
    assert "needs-structure" in premises(folded(net, picture()), "1")


def test_needs_structure_for_branches_that_would_be_merged() -> None:
    net = live(Forward(lambda self, x: functional.relu(self.conv(x) + self.bn(x)), **parts()))
    assert "needs-structure" in premises(folded(net, picture().abs()), "bn")


def test_a_parametrised_weight_is_not_constant() -> None:
    class Halves(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight / 2

    net = live(ConvNorm())
    nn.utils.parametrize.register_parametrization(net.conv, "weight", Halves())
    assert "constant" in premises(folded(net, picture()), "bn")
    nn.utils.parametrize.remove_parametrizations(net.conv, "weight")
    assert outcomes(folded(net, picture())) == {"bn": "folded"}


def test_a_weight_that_is_changed_during_the_call_is_not_constant() -> None:
    def forward(self, x):
        y = self.bn(self.conv(x))
        self.conv.weight.mul_(1.0)
        return y

    assert "constant" in premises(folded(live(Forward(forward, **parts())), picture()), "bn")


def test_not_overwritten() -> None:
    """An identity norm makes a copy; without it, the activation would change what the addition reads."""

    def forward(self, x):
        y = self.conv(x)
        return functional.relu_(self.bn(y)) + y

    net = Forward(forward, **parts()).double().eval()
    net.bn.eps = 0.0
    result = folded(net, picture())
    assert premises(result, "bn") >= {"not-overwritten"}


def test_not_overwritten_an_input() -> None:
    net = Forward(lambda self, x: self.conv(functional.relu_(self.bn(x))), **parts()).double().eval()
    net.bn.eps = 0.0
    result = folded(net, picture())
    assert "not-overwritten" in premises(result, "bn")


def test_changes_in_place_along_one_way_are_fine() -> None:
    net = live(
        Forward(
            lambda self, x: self.conv(x).mul_(1.0) if x is None else functional.relu_(self.bn(self.conv(x))), **parts()
        )
    )
    assert outcomes(folded(net, picture())) == {"bn": "folded"}


def test_a_view_that_is_changed_in_place() -> None:
    def forward(self, x):
        y = self.conv(x)
        z = self.bn(y)
        y[:, :1].zero_()
        return z, y

    assert "single-use" in premises(folded(live(Forward(forward, **parts())), picture()), "bn")


@pytest.mark.parametrize("uses", [True, False])
def test_a_bias_is_added_only_where_the_module_would_use_it(uses: bool) -> None:
    class Own(nn.Conv2d):
        def forward(self, x):
            return functional.conv2d(functional.pad(x, (1, 1)), self.weight, self.bias if uses else None)

    net = live(nn.Sequential(Own(4, 6, 1, bias=False), nn.BatchNorm2d(6)))
    result = folded(net, picture())
    assert outcomes(result) == {"1": "folded" if uses else "kept"}
    assert uses or "needs-structure" in premises(result, "1")
    assert net[0].bias is None
