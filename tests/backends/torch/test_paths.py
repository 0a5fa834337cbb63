"""Ways that a run may take: what depends on them stays, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

import normfold
from normfold.backends.torch import explore
from torch_nets import ConvNorm, Forward, decisions, define_vision_operators, folded, live, outcomes, picture, premises


def parts(**more: nn.Module) -> dict[str, nn.Module]:
    return {"conv": nn.Conv2d(4, 4, 3, padding=1), "bn": nn.BatchNorm2d(4), **more}


def agree(net: nn.Module, result: nn.Module, *inputs: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(result(*inputs), net(*inputs), rtol=1e-9, atol=1e-9)


def both(net: nn.Module, *inputs: torch.Tensor) -> dict[str, str]:
    """Fold with inputs that lead one way, and compare on others that lead the other way."""
    first = folded(net, inputs[0])
    second = folded(net, inputs[1])
    for result in (first, second):
        for x in inputs:
            agree(net, result.model, x)
    assert outcomes(first) == outcomes(second)
    return outcomes(first)


def test_a_mask_that_is_looked_at_keeps_no_norm() -> None:
    def forward(self, x, mask):
        y = torch.relu(self.bn(self.conv(x)))
        return y if mask.all() else y * mask

    net = live(Forward(forward, **parts()))
    for mask in (torch.ones(2, 1, 1, 1, dtype=torch.bool), torch.tensor([True, False]).reshape(2, 1, 1, 1)):
        assert outcomes(folded(net, picture(), mask)) == {"bn": "folded"}


def test_two_ways_with_the_same_norm() -> None:
    def forward(self, x):
        y = self.bn(self.conv(x))
        return functional.relu(y) if x.sum() > 0 else functional.elu(y)

    assert both(live(Forward(forward, **parts())), picture().abs(), -picture().abs()) == {"bn": "folded"}


def test_two_ways_of_which_one_has_no_norm() -> None:
    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) if x.sum() > 0 else y

    net = live(Forward(forward, **parts()))
    result = folded(net, picture().abs())
    assert "fixed-path" in premises(result, "bn")
    agree(net, result.model, -picture().abs())


def test_two_ways_of_which_one_has_another_norm() -> None:
    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) if x.sum() > 0 else self.other(y)

    net = live(Forward(forward, **parts(other=nn.BatchNorm2d(4))))
    result = folded(net, picture().abs())
    assert "fixed-path" in premises(result, "bn")
    agree(net, result.model, -picture().abs())


def test_two_ways_with_one_convolution_in_two_places() -> None:
    def forward(self, x):
        if x.sum() > 0:
            return self.bn(self.conv(x))
        return self.conv(functional.relu(x))

    net = live(Forward(forward, **parts()))
    result = folded(net, picture().abs())
    assert outcomes(result) == {"bn": "kept"}
    agree(net, result.model, -picture().abs())


def test_two_ways_with_two_weights_for_one_operation() -> None:
    def forward(self, x):
        weight = self.conv.weight if x.sum() > 0 else self.other.weight
        return self.bn(functional.conv2d(x, weight))

    net = live(Forward(forward, **parts(other=nn.Conv2d(4, 4, 3))))
    result = folded(net, picture().abs())
    assert premises(result, "bn") >= {"fixed-path"}
    agree(net, result.model, -picture().abs())


def test_a_branch_of_its_own_folds() -> None:
    """Neither the convolution nor the norm runs on the other way."""

    def forward(self, x):
        return self.bn(self.conv(x)) if x.sum() > 0 else x * 2

    net = live(Forward(forward, **parts()))
    result = folded(net, picture().abs())
    assert outcomes(result) == {"bn": "folded"}
    agree(net, result.model, -picture().abs())


def test_ways_within_ways() -> None:
    def forward(self, x):
        y = self.conv(x)
        if x.sum() > 0 or x.max() > 1e9:
            return self.bn(y)
        return y

    net = live(Forward(forward, **parts()))
    result = folded(net, picture().abs())
    assert "fixed-path" in premises(result, "bn")
    agree(net, result.model, -picture().abs())


def test_a_norm_on_which_the_way_depends_stays_and_no_other() -> None:
    def forward(self, x):
        y = self.first(x)
        y = functional.relu(y) if (y > 0).any() else functional.elu(y)
        return self.second(y)

    net = live(Forward(forward, first=ConvNorm(), second=nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))))
    result = folded(net, picture())
    assert outcomes(result) == {"first.bn": "kept", "second.1": "folded"}
    assert "fixed-path" in premises(result, "first.bn")


def test_an_answer_that_changes_nothing_keeps_nothing() -> None:
    def forward(self, x):
        y = self.bn(self.conv(x))
        if torch.isnan(y).any():
            raise ValueError("not a number")
        return y.relu()

    assert outcomes(folded(live(Forward(forward, **parts())), picture())) == {"bn": "folded"}


@pytest.mark.parametrize(
    "read",
    [
        lambda y: float(y.abs().max()),
        lambda y: y.abs().amax().detach().numpy().item(),
        lambda y: len(torch.nonzero(y)) + 1,
        lambda y: y[y > 0].numel() + 1,
        lambda y: y.abs().flatten().tolist()[0],
    ],
)
def test_what_python_may_take_anywhere_stays_and_no_more(read) -> None:
    def forward(self, x):
        y = self.bn(self.conv(x))
        return self.tail(y / read(y))

    tail = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    result = folded(live(Forward(forward, **parts(tail=tail))), picture())
    assert outcomes(result) == {"bn": "kept", "tail.1": "folded"}
    assert "fixed-path" in premises(result, "bn")


def test_a_module_that_is_given_a_number_may_take_any_way() -> None:
    class Switch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor, *, norm: int) -> torch.Tensor:
            y = self.conv(x)
            return self.bn(y) if norm else y

    net = live(Forward(lambda self, x: self.inner(x, norm=int(x.sum() > 0)), inner=Switch()))
    result = folded(net, picture().abs())
    assert premises(result, "inner.bn") >= {"fixed-path"}
    agree(net, result.model, -picture().abs())


def test_what_is_made_of_a_value_that_was_read_is_no_constant() -> None:
    class Scale(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.from_numpy(x.detach().abs().amax((0, 2, 3), keepdim=True).numpy())

    net = live(nn.Sequential(nn.Conv2d(4, 4, 1), Scale(), nn.Conv2d(4, 4, 1)))
    result = folded(net, picture())
    agree(net, result.model, 3 * picture())


@pytest.mark.parametrize(("first", "others"), [(1, (2, 3)), (2, (1, 3)), (4, (1, 2))])
def test_a_way_that_depends_on_the_batch(first: int, others: tuple[int, ...]) -> None:
    def forward(self, x):
        y = self.conv(x)
        return self.tail(self.bn(y) if x.shape[0] > 1 else self.other(y))

    tail = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net = live(Forward(forward, **parts(other=nn.BatchNorm2d(4), tail=tail)))
    result = folded(net, torch.cat([picture()] * 2)[:first])
    assert "fixed-path" in premises(result, "other" if first == 1 else "bn")
    assert decisions(result)["tail.2"].outcome == "folded"
    for size in others:
        agree(net, result.model, torch.cat([picture()] * 2)[:size])


def test_an_endless_way_is_given_up() -> None:
    def forward(self, x):
        y = self.conv(x)
        while (y.abs() > 1e3).any():
            y = self.bn(y) / 10
        return self.tail(y)

    net = live(Forward(forward, **parts(tail=ConvNorm())))
    assert outcomes(folded(net, picture())) == {"tail.bn": "folded"}


class Plain(ConvNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        return functional.dropout(x) if self.training else x


class Pair(fx.GraphModule):
    """A graph for training and one for evaluation, as torchvision's feature extractors are; its copies forget which."""

    def __init__(self, root: nn.Module, training: fx.Graph, evaluation: fx.Graph) -> None:
        super().__init__(root, training)
        self.training_graph, self.evaluation_graph = training, evaluation
        self.train()

    def train(self, mode: bool = True) -> Pair:
        self.graph = self.training_graph if mode else self.evaluation_graph
        return super().train(mode)

    def __deepcopy__(self, memo: dict) -> Pair:
        parts = copy.deepcopy(nn.ModuleDict(self.named_children()), memo)
        return Pair(parts, copy.deepcopy(self.training_graph), copy.deepcopy(self.evaluation_graph))


def test_a_pair_of_graphs_is_looked_at_in_its_mode() -> None:
    root = live(Plain())
    graphs = [fx.symbolic_trace(root.train(mode)).graph for mode in (True, False)]
    net = Pair(root, *graphs).eval()
    result = folded(net, picture())
    assert outcomes(result) == {"bn": "folded"}
    agree(net, result.model, picture())


def test_the_extractors_of_torchvision_keep_no_norm() -> None:
    define_vision_operators()
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="torchvision is not installed")
    torch.manual_seed(0)
    net = extraction.create_feature_extractor(models.resnet18(weights=None).eval(), {"layer4": "x"})
    result = normfold.fold(net, torch.randn(2, 3, 64, 64))
    assert len(result.decisions) == 20
    assert set(outcomes(result).values()) == {"folded"}


def test_a_module_that_raises_and_is_caught() -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("not today")

    def forward(self, x):
        try:
            x = self.picky(x)
        except ValueError:
            x = self.inner(x)
        return x

    result = folded(live(Forward(forward, picky=Picky(), inner=ConvNorm())), picture())
    assert outcomes(result) == {"inner.bn": "folded"}


def test_a_run_says_where_it_looked() -> None:
    run = explore(Forward(lambda _, x: x * float(x.max())), (torch.ones(2, 3),), {})
    assert [str(read) for read in run.reads] == ["item in 'the module'"]
    assert not run.reads[0].binary
    assert run.reads[0].place[0] == __file__


@torch.jit.script
def _scaled_size(x: torch.Tensor, factor: int) -> torch.Tensor:
    return torch.sqrt(torch.tensor(x.size(-1) * factor + x.dim(), dtype=torch.double))


def test_a_scripted_function_that_asks_for_sizes_reads_no_value() -> None:
    """As DeBERTa's attention does."""

    def forward(self, x):
        y = self.norm(self.first(x))
        return self.second(y) / _scaled_size(y, 3)

    model = Forward(forward, first=nn.Linear(5, 6), norm=nn.LayerNorm(6), second=nn.Linear(6, 4))
    result = folded(live(model), torch.randn(3, 5, dtype=torch.float64))
    assert outcomes(result) == {"norm": "part-folded"}
