"""Small modules that the tests of the PyTorch backend share."""

from __future__ import annotations

import torch
from torch import library, nn
from torch.nn import functional

from normfold import fold
from normfold.core.premises import PREMISES
from normfold.records import Decision
from normfold.verbs.fold_result import FoldResult

STUBS = (
    "nms(Tensor a, Tensor b, float c) -> Tensor",
    "qnms(Tensor a, Tensor b, float c) -> Tensor",
    "qroi_align(Tensor a, Tensor b, float c, int d, int e, int f, bool g) -> Tensor",
)
LIBRARY = library.Library("torchvision", "FRAGMENT")


def define_vision_operators() -> None:
    """Declare the operators that torchvision's wheel compiles, and a CPU build of torch lacks."""
    for signature in STUBS:
        if not hasattr(torch.ops.torchvision, signature.partition("(")[0]):
            LIBRARY.define(signature)


def live(module: nn.Module, seed: int = 7) -> nn.Module:
    """``module`` in evaluation mode and float64, with live norms: some scales negative, no variance near zero."""
    rng = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for norm in module.modules():
            for name in ("weight", "bias", "running_mean"):
                tensor = getattr(norm, name, None)
                if isinstance(tensor, torch.Tensor) and tensor.ndim == 1:
                    signs = torch.randint(0, 2, tensor.shape, generator=rng) * 2 - 1
                    tensor.copy_((0.5 + torch.rand(tensor.shape, generator=rng)) * signs)
            if isinstance(getattr(norm, "running_var", None), torch.Tensor):
                norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=rng))
    return module.eval()


def picture(channels: int = 4, size: int = 6) -> torch.Tensor:
    return torch.randn(2, channels, size, size, dtype=torch.float64)


def folded(module: nn.Module, *inputs: torch.Tensor, **options) -> FoldResult:
    """Fold, and compare with the source on the inputs to the last few bits of float64."""
    with torch.no_grad():
        wanted = module(*[x.clone() for x in inputs])
    result = fold(module, inputs, **options)
    with torch.no_grad():
        torch.testing.assert_close(result.model(*[x.clone() for x in inputs]), wanted, rtol=1e-9, atol=1e-9)
    for decision in result.decisions:
        assert bool(decision.refused_by) == (decision.outcome != "folded"), decision
        assert all(refusal.premise in PREMISES for refusal in decision.refused_by)
    return result


def decisions(result: FoldResult) -> dict[str, Decision]:
    return {decision.site: decision for decision in result.decisions}


def outcomes(result: FoldResult) -> dict[str, str]:
    return {decision.site: decision.outcome for decision in result.decisions}


def premises(result: FoldResult, site: str) -> set[str]:
    return {refusal.premise for refusal in decisions(result)[site].refused_by}


class ConvNorm(nn.Module):
    """Conv -> BatchNorm2d -> ReLU."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 6, 3, padding=1, bias=bias), nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.bn(self.conv(x)))


class Forward(nn.Module):
    """A module whose forward is a function of itself and its input."""

    def __init__(self, forward, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self._forward = forward

    def forward(self, *inputs):
        return self._forward(self, *inputs)
