"""Norms whose scale is computed from another input: AdaIN, FiLM, AdaLN, told from gates."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import normfold
from folding import array, model

CHANNELS = 8
HELD = {"g": array(CHANNELS), "w": array(CHANNELS, CHANNELS), "m": array(CHANNELS), "v": np.abs(array(CHANNELS)) + 1}
INPUTS = f"float[2,5,{CHANNELS}] x, float[2,1,{CHANNELS}] c"
NORM = "n = LayerNormalization(x, g)"


class Transformer(nn.Module):
    """A block of a DiT: scale and shift come out of one linear operation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(CHANNELS, 2 * CHANNELS))
        self.outer = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        shift, scale = self.modulation(c)[:, None].chunk(2, dim=-1)
        return x + self.outer(self.norm(x) * (1 + scale) + shift)


class Stylised(nn.Module):
    """A norm of an image between two convolutions, with a scale and a shift for each channel."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, CHANNELS, 3), nn.Conv2d(CHANNELS, 4, 1)
        self.norm, self.style = norm, nn.Linear(4, 2 * CHANNELS)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        scale, shift = self.style(c)[:, :, None, None].chunk(2, dim=1)
        return self.after(torch.relu(scale * self.norm(self.before(x)) + shift))


TOKENS = (torch.randn(2, 5, CHANNELS), torch.randn(2, CHANNELS))
PICTURES = (torch.randn(2, 3, 6, 6), torch.randn(2, 4))


def conditions(decision: normfold.Decision) -> list[str]:
    return [refusal.because for refusal in decision.refused_by if refusal.premise == "unconditioned"]


@pytest.mark.parametrize(
    ("module", "example", "to"),
    [(Transformer(), TOKENS, "rms"), (Stylised(nn.InstanceNorm2d(CHANNELS)), PICTURES, "static")],
)
def test_modules_say_what_the_scale_is_computed_from(
    module: nn.Module, example: tuple[torch.Tensor, ...], to: str
) -> None:
    inspected = normfold.inspect(module.eval(), example).decisions
    folded = normfold.fold(module.eval(), example).decisions
    converted = normfold.convert(module.eval(), example, to=to).decisions
    for (decision,) in (folded, converted, inspected):
        assert decision.outcome == "kept"
        (because,) = conditions(decision)
        assert "computed from 'input 1'" in because


def test_stored_statistics_fold_in_front_of_a_computed_scale() -> None:
    """FiLM: the BatchNorm goes into the convolution, and nothing of it stays."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(CHANNELS)
    norm.running_mean.data = torch.randn(CHANNELS)
    norm.running_var.data = torch.rand(CHANNELS) + 0.1
    module = Stylised(norm).eval()
    done = normfold.fold(module, PICTURES)
    assert [(one.outcome, one.refused_by) for one in done.decisions] == [("folded", ())]
    torch.testing.assert_close(done.model(*PICTURES), module(*PICTURES), rtol=1e-4, atol=1e-5)


def test_an_instance_norm_with_a_computed_scale_is_converted_exactly() -> None:
    """AdaIN: what is computed stays as it is around the norm."""
    module = Stylised(nn.InstanceNorm2d(CHANNELS)).eval()
    done = normfold.convert(module, PICTURES, to="group")
    assert [(one.outcome, one.label) for one in done.decisions] == [("converted", "exact")]
    torch.testing.assert_close(done.model(*PICTURES), module(*PICTURES))


def file(*lines: str, held: str = "g") -> onnx.ModelProto:
    return model(INPUTS, list(lines), {name: HELD[name] for name in held}, opset=17, ir_version=10)


@pytest.mark.parametrize(
    "lines",
    [
        [NORM, "y = Mul(n, c)"],
        [NORM, "s = Sin(c)", "y = Mul(s, n)"],
        [NORM, "f = Einsum<equation='bic,cd->bid'>(c, w)".replace("'", '"'), "y = Mul(n, f)"],
        ["[one] n = LayerNormalization(x, g)", "k = Neg(n)", "s = Sigmoid(c)", "t = Mul(k, s)", "y = Add(t, c)"],
    ],
)
def test_files_say_what_the_scale_is_computed_from(lines: list[str]) -> None:
    held = "gw" if any("w)" in line for line in lines) else "g"
    (decision,) = normfold.fold(file(*lines, held=held), verify=False).decisions
    (because,) = conditions(decision)
    assert "computed from 'c', as in" in because


@pytest.mark.parametrize(
    "lines",
    [
        [NORM, "s = Sigmoid(x)", "y = Mul(n, s)"],
        [NORM, "s = Sigmoid(n)", "y = Mul(n, s)"],
        [NORM, "s = Sigmoid(n)", "r = Mul(s, c)", "y = Mul(n, r)"],
        [NORM, "y = Add(n, c)"],
        [NORM, "z = Sin(n)", "y = Mul(z, c)"],
        [NORM, "z = Sin(n)", "t = Mul(n, c)", "y = Add(z, t)"],
        ["a = Mul(x, c)", "n = LayerNormalization(a, g)", "s = Sigmoid(a)", "y = Mul(n, s)"],
    ],
)
def test_gates_and_residuals_are_no_conditions(lines: list[str]) -> None:
    (decision,) = normfold.fold(file(*lines), verify=False).decisions
    assert conditions(decision) == []
