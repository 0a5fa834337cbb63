"""Convert the BatchNorms of a network so that it can be trained two pictures at a time, and show what that saves.

The statistics of two pictures say little about a BatchNorm's; a GroupNorm needs no others than a picture's own. Needs
torch. The network is the one inside the package, half of whose pictures are trained on; the other half says what was
lost.

python examples/train_in_small_batches.py
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

import normfold
from normfold.verbs.demo.network import network, pictures

BATCH = 2
RATE = 1e-3
SEEDS = (0, 1, 2)


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and its BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Digits(nn.Module):
    """The demo network: float32 [N, 1, 8, 8] to [N, 10] scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(1, 16)
        self.residual1, self.residual2 = conv_norm(16, 16), conv_norm(16, 16)
        self.depthwise = conv_norm(16, 16, stride=2, groups=16)
        self.pointwise = conv_norm(16, 32, kernel=1)
        self.late, self.late_norm = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.narrow, self.narrow_norm = nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32)
        self.up, self.up_norm = nn.ConvTranspose2d(32, 32, 2, stride=2, bias=False), nn.BatchNorm2d(32)
        self.merge_norm = nn.BatchNorm2d(32)
        self.hidden, self.hidden_norm, self.scores = nn.Linear(128, 64), nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The scores of a batch of pictures."""
        x = functional.relu(self.stem(x))
        x = functional.relu(x + self.residual2(functional.relu(self.residual1(x))))
        wide = self.pointwise(functional.relu(self.depthwise(x)))
        deep = self.narrow(self.late_norm(functional.relu(self.late(wide))))
        deep = functional.relu(self.narrow_norm(deep))
        x = functional.relu(self.merge_norm(wide + self.up_norm(self.up(deep))))
        x = functional.max_pool2d(x, 2).flatten(1)
        return self.scores(functional.relu(self.hidden_norm(self.hidden(x))))


def trained_network() -> Digits:
    """The network inside the package, as a module."""
    with network() as path:
        stored = onnx.load(path).graph.initializer
    module = Digits()
    state = {one.name: torch.from_numpy(np.array(numpy_helper.to_array(one))) for one in stored}
    module.load_state_dict(state, strict=False)  # an ONNX file does not count batches
    return module.eval()


def trained(module: nn.Module, x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """A copy of ``module``, trained for one epoch, ``BATCH`` pictures at a time."""
    torch.manual_seed(seed)
    result = copy.deepcopy(module).train()
    optimiser = torch.optim.SGD(result.parameters(), RATE)
    for chosen in torch.randperm(len(x) - len(x) % BATCH).split(BATCH):
        optimiser.zero_grad()
        functional.cross_entropy(result(x[chosen]), y[chosen]).backward()
        optimiser.step()
    return result.eval()


def right(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of pictures that ``module`` gets right, in per cent."""
    with torch.no_grad():
        return 100 * float((module(x).argmax(1) == y).float().mean())


def main() -> None:
    """Convert, train both, and print what each has lost."""
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(one) for one in pictures())
    half = len(x) // 2
    source = trained_network()
    # With an offset the new norms would be faithful, and would hardly normalise: at 0 they are live.
    result = normfold.convert(source, (x[:2],), to="group", calibrate=x[:half].numpy(), max_offset=0.0)
    print(
        f"{sum(one.outcome == 'converted' for one in result.decisions)} norms converted, {result.verification.because}"
    )
    for name, module in (("BatchNorm", source), ("GroupNorm", result.model)):
        before = right(module, x[half:], y[half:])
        after = [right(trained(module, x[:half], y[:half], seed), x[half:], y[half:]) for seed in SEEDS]
        print(f"{name}: {before:.1f} % right, after training {', '.join(f'{one:.1f}' for one in after)}")


if __name__ == "__main__":
    main()
