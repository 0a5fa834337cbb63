"""Small networks, written once, that ask both backends about one rule each.

The outcomes are those of the norms in the order of the run, the same for the module and for the file that it is
exported to, but where ``tree`` is set: there the module tree has no place for the fold, and says so.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torch_nets import Forward, live

FOLDED, KEPT, PART = "folded", "kept", "part-folded"


@dataclass(frozen=True)
class Case:
    """A network, the shape of its input, and what is to become of its norms."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    outcomes: tuple[str, ...]
    premise: str = ""
    """What keeps a norm that stays, on both ways."""
    tree: tuple[str, ...] | None = None
    """Outcomes in the module tree, where they are others."""
    tree_premise: str = "needs-structure"
    """What keeps a norm in the tree then."""
    opset: int = 20
    insert: bool = False
    """Whether the file may get new operations even where they do not pay."""
    single: bool = False
    """Whether the file is run in float32, by ONNX Runtime: the reference evaluator cannot, or not correctly."""

    def network(self) -> nn.Module:
        """The network with live norms, in float64 and evaluation mode."""
        torch.manual_seed(0)
        return self.make()

    def input(self) -> torch.Tensor:
        """What it is called with."""
        return torch.randn(self.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Scale(nn.Module):
    """LayerScale along ``shape``."""

    def __init__(self, *shape: int, values: Any = None) -> None:
        super().__init__()
        gamma = torch.linspace(0.5, 2, shape[0]).reshape(shape) if values is None else torch.tensor(values)
        self.gamma = nn.Parameter(gamma.to(torch.get_default_dtype()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Order(nn.Module):
    """Holds an order of four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([3, 1, 0, 2]))


class Frozen(nn.Module):
    """FrozenBatchNorm2d as detection models write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w, b, m, v = (k.reshape(1, -1, 1, 1) for k in (self.weight, self.bias, self.running_mean, self.running_var))
        scale = w * (v + 1e-5).rsqrt()
        return x * scale + (b - m * scale)


class Written(nn.Module):
    """A LayerNorm written out."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred * centred).mean(-1, keepdim=True)
        return centred / torch.sqrt(spread + 1e-5) * self.weight + self.bias


def row(*modules: nn.Module) -> Callable[[], nn.Module]:
    """One module after another; each is made anew by its own reset."""
    return lambda: live(nn.Sequential(*modules))


def net(forward: Callable[..., Any], **modules: nn.Module) -> Callable[[], nn.Module]:
    """A network whose forward is ``forward``."""
    return lambda: live(Forward(forward, **modules))


def plain(
    make: Callable[[], nn.Module], *, shift: bool = False, uniform: bool = False, but: str = ""
) -> Callable[[], nn.Module]:
    """The network of ``make``, all its norms ``but`` one with positive scales and, without ``shift``, nothing else."""

    def build() -> nn.Module:
        module = make()
        with torch.no_grad():
            for name, norm in module.named_modules():
                if isinstance(norm, nn.modules.batchnorm._BatchNorm) and name != but:
                    norm.weight.abs_()
                    if not shift:
                        norm.bias.zero_()
                        norm.running_mean.zero_()
                    if uniform:
                        norm.weight.fill_(2)
                        norm.running_var.fill_(1)
        return module

    return build


CONV, POINT, BN = nn.Conv2d, lambda i=4, o=4, **k: nn.Conv2d(i, o, 1, **k), nn.BatchNorm2d
IMAGE, ROW, TOKENS = (2, 4, 6, 6), (2, 4, 9), (2, 5, 4)


def two(join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], **modules: nn.Module) -> Callable[[], nn.Module]:
    """Two convolutions of one input, joined, then a norm and an activation."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.bn(join(self.left(x), self.right(x))))

    given = {"left": POINT(), "right": POINT(), "bn": BN(4), **modules}
    return net(forward, **given)


PRODUCERS: Mapping[str, Case] = {
    "conv1d-bn": Case(row(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), ROW, (FOLDED,)),
    "conv2d-bn": Case(row(CONV(4, 6, 3, padding=1), BN(6)), IMAGE, (FOLDED,)),
    "conv3d-bn": Case(row(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6)), (2, 4, 3, 3, 3), (FOLDED,)),
    "conv-bn-no-bias": Case(row(CONV(4, 6, 3, bias=False), BN(6)), IMAGE, (FOLDED,)),
    "conv-bn-grouped": Case(row(CONV(4, 6, 3, groups=2), BN(6)), IMAGE, (FOLDED,)),
    "conv-bn-depthwise": Case(row(CONV(4, 8, 3, groups=4), BN(8)), IMAGE, (FOLDED,)),
    "conv-bn-same": Case(row(CONV(4, 6, 3, padding="same"), BN(6)), IMAGE, (FOLDED,)),
    "conv-bn-reflect": Case(row(CONV(4, 6, 3, padding=1, padding_mode="reflect"), BN(6)), IMAGE, (FOLDED,)),
    "conv-bn-not-affine": Case(row(CONV(4, 6, 3), BN(6, affine=False)), IMAGE, (FOLDED,)),
    "conv-frozen-bn": Case(row(POINT(), Frozen(4)), IMAGE, (FOLDED,)),
    "conv-layerscale": Case(row(POINT(), Scale(4, 1, 1)), IMAGE, (FOLDED,)),
    "transposed-bn": Case(row(nn.ConvTranspose2d(4, 6, 3, 2, 1), BN(6)), IMAGE, (FOLDED,)),
    "transposed-bn-grouped": Case(row(nn.ConvTranspose2d(4, 6, 3, 2, groups=2), BN(6)), IMAGE, (FOLDED,), single=True),
    "linear-bn": Case(row(nn.Linear(4, 6), nn.BatchNorm1d(6)), (3, 4), (FOLDED,)),
    "linear-bn-no-bias": Case(row(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)), (3, 4), (FOLDED,)),
    "linear-layerscale": Case(row(nn.Linear(4, 6), Scale(6)), TOKENS, (FOLDED,)),
}
CONSUMERS: Mapping[str, Case] = {
    "bn-conv": Case(row(nn.Sigmoid(), BN(4), CONV(4, 6, 3)), IMAGE, (FOLDED,)),
    "bn-conv-no-bias": Case(row(nn.Sigmoid(), BN(4), CONV(4, 6, 3, bias=False)), IMAGE, (FOLDED,)),
    "bn-conv-grouped": Case(row(nn.Sigmoid(), BN(4), CONV(4, 6, 3, groups=2)), IMAGE, (FOLDED,)),
    "bn-conv-depthwise": Case(row(nn.Sigmoid(), BN(4), CONV(4, 8, 3, groups=4)), IMAGE, (FOLDED,)),
    "bn-transposed": Case(row(nn.Sigmoid(), BN(4), nn.ConvTranspose2d(4, 6, 3, padding=2)), IMAGE, (FOLDED,)),
    "bn-linear": Case(row(nn.Sigmoid(), nn.BatchNorm1d(4), nn.Linear(4, 6)), (3, 4), (FOLDED,)),
    "bn-two-consumers": Case(
        net(
            lambda self, x: (self.left(y := self.bn(x.sigmoid())), self.right(y)), bn=BN(4), left=POINT(), right=POINT()
        ),
        IMAGE,
        (FOLDED,),
    ),
    "layerscale-linear": Case(row(nn.Sigmoid(), Scale(4), nn.Linear(4, 6)), TOKENS, (FOLDED,)),
    "layernorm-linear": Case(row(nn.Sigmoid(), nn.LayerNorm(4), nn.Linear(4, 6)), TOKENS, (PART,)),
    "layernorm-linear-no-bias": Case(
        row(nn.Sigmoid(), nn.LayerNorm(4), nn.Linear(4, 6, bias=False)),
        TOKENS,
        (KEPT,),
        "does-not-pay",
        tree=(PART,),
        tree_premise="fixed-statistics",
    ),
    "groupnorm-conv": Case(row(nn.Sigmoid(), nn.GroupNorm(2, 4), POINT()), IMAGE, (PART,)),
    "instancenorm-conv": Case(row(nn.Sigmoid(), nn.InstanceNorm2d(4, affine=True), POINT()), IMAGE, (PART,)),
    "rmsnorm-linear": Case(row(nn.Sigmoid(), nn.RMSNorm(4, eps=1e-5), nn.Linear(4, 6)), TOKENS, (PART,), opset=23),
    "bn-padded-conv": Case(
        row(nn.Sigmoid(), BN(4), CONV(4, 6, 3, padding=1)), IMAGE, (FOLDED,), tree=(KEPT,), insert=True
    ),
    "bn-without-shift-padded-conv": Case(plain(row(nn.Sigmoid(), BN(4), CONV(4, 6, 3, padding=1))), IMAGE, (FOLDED,)),
}
COMPOSED: Mapping[str, Case] = {
    "bn-bn": Case(row(nn.Sigmoid(), BN(4), BN(4), nn.Sigmoid()), IMAGE, (FOLDED, KEPT), "linear-producer"),
    "bn-relu-bn": Case(
        plain(row(nn.Tanh(), BN(4), nn.ReLU(), BN(4), nn.Sigmoid()), but="1"), IMAGE, (KEPT, FOLDED), "linear-producer"
    ),
    "layerscale-bn": Case(
        net(
            lambda self, x: (self.fc(y := self.bn(self.scale(x.sigmoid()))), y.tanh()),
            scale=Scale(4),
            bn=nn.BatchNorm1d(4),
            fc=nn.Linear(4, 6),
        ),
        (3, 4),
        (FOLDED, KEPT),
        "linear-consumer",
    ),
    "instancenorm-bn": Case(
        row(nn.Sigmoid(), nn.InstanceNorm2d(4, affine=True), BN(4), nn.Sigmoid()),
        IMAGE,
        (PART, FOLDED),
        "fixed-statistics",
    ),
    "layernorm-layerscale": Case(
        net(
            lambda self, x: (self.fc(y := self.scale(self.norm(x))), y.tanh()),
            norm=nn.LayerNorm(4),
            scale=Scale(4),
            fc=nn.Linear(4, 6),
        ),
        TOKENS,
        (KEPT, FOLDED),
        "fixed-statistics",
    ),
}
CARRIED: Mapping[str, Case] = {
    "linear-transpose-bn": Case(
        net(lambda self, x: self.bn(self.fc(x).transpose(1, 2)), fc=nn.Linear(4, 6), bn=nn.BatchNorm1d(6)),
        TOKENS,
        (FOLDED,),
    ),
    "conv-flatten-bn": Case(row(POINT(), nn.Flatten(2), nn.BatchNorm1d(4)), IMAGE, (FOLDED,)),
    "conv-dropout-bn": Case(row(POINT(), nn.Dropout(), BN(4)), IMAGE, (FOLDED,)),
    "bn-flatten-linear": Case(row(nn.Sigmoid(), BN(4), nn.Flatten(), nn.Linear(144, 3)), IMAGE, (FOLDED,)),
    "bn-chunk-conv": Case(
        net(
            lambda self, x: [self.left((y := self.bn(x.sigmoid()).chunk(2, 1))[0]), self.right(y[1])],
            bn=BN(4),
            left=POINT(2),
            right=POINT(2),
        ),
        IMAGE,
        (FOLDED,),
    ),
    "conv-avgpool-bn": Case(row(POINT(), nn.AvgPool2d(2), BN(4), nn.Sigmoid()), IMAGE, (FOLDED,)),
    "bn-avgpool-conv": Case(row(nn.Sigmoid(), BN(4), nn.AvgPool2d(2), POINT()), IMAGE, (FOLDED,)),
    "bn-global-pool-linear": Case(
        row(nn.Sigmoid(), BN(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), IMAGE, (FOLDED,)
    ),
    "bn-mean-linear": Case(
        net(lambda self, x: self.fc(self.bn(x.sigmoid()).mean((2, 3))), bn=BN(4), fc=nn.Linear(4, 3)), IMAGE, (FOLDED,)
    ),
    "bn-upsample-conv": Case(row(nn.Sigmoid(), BN(4), nn.Upsample(scale_factor=2), POINT()), IMAGE, (FOLDED,)),
    "bn-maxpool-conv": Case(plain(row(nn.Sigmoid(), BN(4), nn.MaxPool2d(2), POINT())), IMAGE, (FOLDED,)),
    "bn-maxpool-negative": Case(
        row(nn.Sigmoid(), BN(4), nn.MaxPool2d(2), POINT()), IMAGE, (KEPT,), "non-negative-scale"
    ),
    "bn-reflect-pad-conv": Case(row(nn.Sigmoid(), BN(4), nn.ReflectionPad2d(1), CONV(4, 6, 3)), IMAGE, (FOLDED,)),
    "bn-zero-pad-conv": Case(
        row(nn.Sigmoid(), BN(4), nn.ZeroPad2d(1), CONV(4, 6, 3)), IMAGE, (KEPT,), "uniform-padding"
    ),
    "convs-concat-bn": Case(two(lambda a, b: torch.cat([a, b], 1), bn=BN(8)), IMAGE, (FOLDED,)),
    "bns-concat-conv": Case(
        net(
            lambda self, x: self.conv(torch.cat([self.one(x.sigmoid()), self.two(x.tanh())], 1)),
            one=BN(4),
            two=BN(4),
            conv=POINT(8),
        ),
        IMAGE,
        (FOLDED, FOLDED),
    ),
    "convs-add-bn": Case(two(lambda a, b: a + b), IMAGE, (FOLDED,)),
    "convs-sub-bn": Case(two(lambda a, b: a - b), IMAGE, (FOLDED,)),
    "residual-bn": Case(
        net(lambda self, x: self.bn(x + self.conv(x.sigmoid())).tanh(), conv=POINT(), bn=BN(4)),
        IMAGE,
        (KEPT,),
        "linear-producer",
    ),
    "shortcut-bn": Case(
        net(lambda self, x: self.bn(x + self.conv(x)).sigmoid(), conv=CONV(4, 4, 3, padding=1), bn=BN(4)),
        IMAGE,
        (FOLDED,),
        tree=(KEPT,),
        tree_premise="linear-producer",
    ),
    "bn-in-residual": Case(
        net(lambda self, x: x + self.bn(self.conv(x)), conv=CONV(4, 4, 3, padding=1), bn=BN(4)), IMAGE, (FOLDED,)
    ),
    "bn-relu6-conv": Case(row(nn.Sigmoid(), BN(4), nn.ReLU6(), POINT()), IMAGE, (KEPT,), "uniform-bounds"),
    "conv-clamp-bn": Case(
        plain(
            net(lambda self, x: self.bn(self.conv(x).clamp(min=0)).sigmoid(), conv=POINT(), bn=BN(4)),
        ),
        IMAGE,
        (FOLDED,),
    ),
    "conv-relu6-bn": Case(
        plain(row(POINT(), nn.ReLU6(), BN(4), nn.Sigmoid()), uniform=True), IMAGE, (FOLDED,), tree=(KEPT,)
    ),
    "bn-relu-conv": Case(plain(row(nn.Sigmoid(), BN(4), nn.ReLU(), POINT())), IMAGE, (FOLDED,)),
    "conv-relu-bn": Case(plain(row(POINT(), nn.ReLU(), BN(4), nn.Sigmoid())), IMAGE, (FOLDED,)),
    "conv-leaky-bn": Case(plain(row(POINT(), nn.LeakyReLU(0.125), BN(4), nn.Sigmoid())), IMAGE, (FOLDED,)),
    "conv-prelu-bn": Case(plain(row(POINT(), nn.PReLU(4), BN(4), nn.Sigmoid())), IMAGE, (FOLDED,)),
    "bn-relu-conv-shift": Case(
        plain(row(nn.Tanh(), BN(4), nn.ReLU(), POINT()), shift=True), IMAGE, (KEPT,), "no-shift"
    ),
    "bn-relu-conv-negative": Case(row(nn.Tanh(), BN(4), nn.ReLU(), POINT()), IMAGE, (KEPT,), "non-negative-scale"),
    "relu-bn-conv": Case(row(POINT(), nn.ReLU(), BN(4), CONV(4, 6, 3)), IMAGE, (FOLDED,)),
    "gate-bn": Case(
        plain(
            net(
                lambda self, x: self.bn(self.conv(x) * torch.sigmoid(self.gate(x))).tanh(),
                conv=POINT(),
                gate=POINT(),
                bn=BN(4),
            )
        ),
        IMAGE,
        (FOLDED,),
    ),
    "scores-scale": Case(
        net(
            lambda self, x: self.scale(self.query(x) @ self.key(x).mT).softmax(-1),
            query=nn.Linear(4, 4),
            key=nn.Linear(4, 4, bias=False),
            scale=Scale(1, values=[0.5]),
        ),
        TOKENS,
        (FOLDED,),
    ),
    "scores-bn": Case(
        net(
            lambda self, x: self.bn(self.query(x) @ self.key(x).mT).softmax(-1),
            query=nn.Linear(4, 4),
            key=nn.Linear(4, 4),
            bn=nn.BatchNorm1d(5),
        ),
        TOKENS,
        (KEPT,),
        "no-shift",
    ),
    "conv-relu-scale": Case(row(CONV(4, 4, 3), nn.ReLU(), Scale(1, values=[0.5]), nn.Sigmoid()), IMAGE, (FOLDED,)),
    "bn-gate": Case(
        net(lambda self, x: (self.bn(x.tanh()) * torch.sigmoid(self.gate(x))).tanh(), gate=POINT(), bn=BN(4)),
        IMAGE,
        (KEPT,),
        "no-shift",
    ),
}
REWRITTEN: Mapping[str, Case] = {
    "bias-before-instancenorm": Case(
        row(POINT(), nn.InstanceNorm2d(4, affine=True), nn.Sigmoid()), IMAGE, (KEPT,), "fixed-statistics"
    ),
    "layerscale-of-ones": Case(
        net(
            lambda self, x: (self.fc(y := self.scale(x.sigmoid())), y.tanh()),
            scale=Scale(4, values=[1.0] * 4),
            fc=nn.Linear(4, 6),
        ),
        TOKENS,
        (FOLDED,),
    ),
    "layernorm-written-out": Case(row(nn.Sigmoid(), Written(4), nn.Linear(4, 6)), TOKENS, (PART,), single=True),
    "weight-norm": Case(row(nn.utils.parametrizations.weight_norm(POINT()), BN(4)), IMAGE, (FOLDED,)),
    "conv-shift-alone": Case(
        net(lambda self, x: (self.conv(x) + self.shift.gamma).tanh(), conv=POINT(), shift=Scale(4, 1, 1)), IMAGE, ()
    ),
    "pointwise-then-conv": Case(row(POINT(4, 8), CONV(8, 4, 3), nn.Tanh()), IMAGE, ()),
    "reshape-to-itself": Case(net(lambda self, x: self.conv(x).reshape(2, 4, 6, 6).tanh(), conv=POINT()), IMAGE, ()),
    "conv-shift": Case(
        net(lambda self, x: self.bn(self.conv(x) + self.shift.gamma), conv=POINT(), shift=Scale(4, 1, 1), bn=BN(4)),
        IMAGE,
        (FOLDED,),
    ),
    "swapped-channels": Case(
        net(
            lambda self, x: self.conv(self.bn(x.sigmoid()).index_select(1, self.order.order)),
            bn=BN(4),
            order=Order(),
            conv=POINT(),
        ),
        IMAGE,
        (FOLDED,),
        tree=(KEPT,),
        tree_premise="linear-consumer",
    ),
    "repvgg": Case(
        net(
            lambda self, x: (self.bn(x) + self.one(self.small(x)) + self.two(self.large(x))).relu(),
            bn=BN(4),
            small=POINT(bias=False),
            one=BN(4),
            large=CONV(4, 4, 3, padding=1, bias=False),
            two=BN(4),
        ),
        IMAGE,
        (FOLDED, FOLDED, FOLDED),
        tree=(KEPT, FOLDED, FOLDED),
    ),
    "bn-before-maxpool": Case(
        plain(row(nn.Sigmoid(), BN(4), nn.MaxPool2d(2), nn.Sigmoid())), IMAGE, ("lowered",), tree=(KEPT,)
    ),
}
REFUSED: Mapping[str, Case] = {
    "bn-alone": Case(row(nn.Sigmoid(), BN(4)), IMAGE, (KEPT,), "linear-producer"),
    "bn-two-readers": Case(
        net(lambda self, x: (self.conv(y := self.bn(x.sigmoid())), y.tanh()), bn=BN(4), conv=POINT()),
        IMAGE,
        (KEPT,),
        "linear-consumer",
    ),
    "conv-two-readers": Case(
        net(lambda self, x: (self.bn(y := self.conv(x)), y.tanh()), bn=BN(4), conv=POINT()),
        IMAGE,
        (KEPT,),
        "single-use",
    ),
    "conv-is-an-output": Case(
        net(lambda self, x: (self.bn(y := self.conv(x)), y), bn=BN(4), conv=POINT()), IMAGE, (KEPT,), "not-output"
    ),
    "conv-called-twice": Case(
        net(lambda self, x: self.bn(self.conv(self.conv(x).relu())), bn=BN(4), conv=POINT()),
        IMAGE,
        (FOLDED,),
        tree=(KEPT,),
        tree_premise="called-once",
    ),
    "linear-bn-on-tokens": Case(
        row(nn.Linear(4, 4), nn.BatchNorm1d(5), nn.Sigmoid()), TOKENS, (KEPT,), "per-output-channel"
    ),
    "scale-along-the-width": Case(row(POINT(), Scale(6), nn.Sigmoid()), IMAGE, (KEPT,), "per-output-channel"),
}


def beside_their_rules() -> Iterator[tuple[str, Case]]:
    """The networks that stand with the other cases of a rule, in a function ``networks`` of its file of tests."""
    for path in sorted((Path(__file__).parent / "core" / "rules").glob("test_*.py")):
        if "\ndef networks()" in path.read_text(encoding="utf-8"):
            yield from runpy.run_path(str(path))["networks"]().items()


CASES: Mapping[str, Case] = {
    **PRODUCERS,
    **CONSUMERS,
    **COMPOSED,
    **CARRIED,
    **REWRITTEN,
    **REFUSED,
    **dict(beside_their_rules()),
}
