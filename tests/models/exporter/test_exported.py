"""Programs of ``torch.export`` in, programs out; layouts that views need stay; what is no module is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

import normfold
from normfold.core.premises import VERIFICATION_FAILED
from normfold.passes.fold import program as program_pass
from torch_nets import live, outcomes


class Net(nn.Module):
    """A convolution with a norm, an option, another input, and a buffer that counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor, *, scale: float = 1.0, y: torch.Tensor) -> dict[str, torch.Tensor]:
        self.steps.add_(1)
        return {"out": self.head(self.bn(self.conv(x)).relu().mean((2, 3))) * scale * self.steps, "y": y}


X, Y = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 4).double()


def exported() -> ExportedProgram:
    batch = Dim("batch", min=1, max=64)
    dynamic = {"x": {0: batch, 2: Dim("h", min=4), 3: Dim("w", min=4)}, "scale": None, "y": {0: batch}}
    return torch.export.export(live(Net()), (X,), {"scale": 2.0, "y": Y}, dynamic_shapes=dynamic)


def test_a_program_comes_back_as_a_program(tmp_path: Path) -> None:
    program = exported()
    before = {name: tensor.clone() for name, tensor in program.state_dict.items()}
    result = normfold.fold_program(program)
    folded = result.model
    assert isinstance(folded, ExportedProgram)
    assert outcomes(result) == {"bn": "folded"}
    assert result.verification.status == "equivalent"
    assert not any("batch_norm" in str(node.target) for node in folded.graph.nodes)
    assert set(folded.state_dict) == {"conv.weight", "conv.bias", "head.weight", "head.bias", "steps"}
    assert all(name.startswith("bn.") for name in result.removed)
    assert folded.call_spec.in_spec == program.call_spec.in_spec
    assert folded.call_spec.out_spec == program.call_spec.out_spec
    assert sorted(map(str, folded.range_constraints.values())) == sorted(map(str, program.range_constraints.values()))
    assert float(folded.state_dict["steps"]) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in program.state_dict.items())
    for x, y in ((X, Y), (torch.randn(5, 3, 11, 9).double(), torch.randn(5, 4).double()), (X[:1], Y[:1])):
        one, two = folded.module(), program.module()
        for _ in range(2):
            torch.testing.assert_close(one(x, scale=2.0, y=y), two(x, scale=2.0, y=y), rtol=1e-9, atol=1e-9)
    result.save(tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(loaded(X, scale=2.0, y=Y), program.module()(X, scale=2.0, y=Y))


def test_a_convolution_without_a_bias_is_given_one(tmp_path: Path) -> None:
    net = live(
        nn.Sequential(
            *(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(294, 5, bias=False), nn.BatchNorm1d(5)),
        )
    )
    batch = Dim("batch", min=1, max=64)
    program = torch.export.export(net, (X,), dynamic_shapes=({0: batch},))
    result = normfold.fold_program(program)
    assert outcomes(result) == {"1": "folded", "4": "folded", "8": "folded"}
    assert [one.norm for one in result.decisions] == ["BatchNorm2d", "BatchNorm2d", "BatchNorm1d"]
    assert result.added == ("0.bias", "3.bias", "7.bias")
    signature, source = result.model.graph_signature, program.graph_signature
    assert set(signature.parameters) == {f"{k}.{own}" for k in (0, 3, 7) for own in ("weight", "bias")}
    assert signature.user_inputs == source.user_inputs
    assert not signature.buffers
    assert not any("batch_norm" in str(node.target) for node in result.model.graph.nodes)
    result.save(tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    x = torch.randn(5, 3, 8, 8).double()
    for model in (loaded, result.model.module()):
        torch.testing.assert_close(model(x), net(x), rtol=1e-9, atol=1e-9)


class Functional(nn.Module):
    """A product by a matrix of its own, parameter or buffer, and a bias that something else reads."""

    def __init__(self, *, learnt: bool) -> None:
        super().__init__()
        weight = torch.randn(4, 3, 1, 1)
        if learnt:
            self.kernel = nn.Parameter(weight, requires_grad=False)
        else:
            self.register_buffer("kernel", weight)
        self.bias = nn.Parameter(torch.randn(4, 1, 1))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(nn.functional.conv2d(x, self.kernel, stride=1)).relu() * self.bias


@pytest.mark.parametrize("learnt", [True, False])
@pytest.mark.parametrize("program", [True, False])
def test_a_new_bias_has_a_name_of_its_own(learnt: bool, program: bool) -> None:
    net = live(Functional(learnt=learnt))
    assert outcomes(normfold.fold(net, (X,))) == {"norm": "kept"}
    result = normfold.fold_program(torch.export.export(net, (X,)) if program else net, None if program else (X,))
    assert outcomes(result) == {"norm": "folded"}
    assert result.added == ("bias_1",)
    folded = result.model.module() if program else result.model
    kind = folded.get_parameter if learnt else folded.get_buffer
    assert not kind("bias_1").requires_grad
    torch.testing.assert_close(folded(X), net(X), rtol=1e-9, atol=1e-9)


def test_a_program_has_its_own_dynamic_axes() -> None:
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.fold_program(exported(), dynamic={"x": {0: "n"}})
    assert caught.value.code == "usage"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm, self.head = (
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.LayerNorm(8),
            nn.Linear(8, 4),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x + self.attention(x, x, x)[0]))


def test_what_a_view_needs_to_lie_in_a_row_stays_so() -> None:
    net, x = live(Attention()), torch.randn(2, 5, 8).double()
    result = normfold.fold_program(net, (x,))
    assert outcomes(result) == {"norm": "part-folded"}
    assert result.verification.status == "equivalent"
    torch.testing.assert_close(result.model(x), net(x), rtol=1e-9, atol=1e-9)


def test_a_program_that_does_not_run_drops_the_fold_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    net = live(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    right = program_pass.rewrite

    def wrong(graph, result) -> None:
        right(graph, result)
        if any("3" in str(op.name) or "4" in str(op.name) for op in graph.removals):
            result.get_submodule("3").weight.data = torch.zeros(1, 1, 1, 1).double()

    monkeypatch.setattr(program_pass, "rewrite", wrong)
    result = normfold.fold_program(torch.export.export(net, (X,)))
    assert outcomes(result) == {"1": "folded", "4": "kept"}
    assert [no.premise for one in result.decisions for no in one.refused_by] == [VERIFICATION_FAILED]


@pytest.mark.parametrize("verb", [normfold.fold, normfold.inspect, normfold.fold_program, normfold.export])
@pytest.mark.parametrize("what", ["function", "method", "number"])
def test_what_is_no_module_is_refused(verb: Callable, what: str) -> None:
    given = {"function": lambda x: x, "method": Net().forward, "number": 3}[what]
    with pytest.raises(normfold.NormfoldError) as caught:
        verb(given, (X,))
    assert caught.value.code == "usage"
    hints = {"function": "torch.nn.Module as its base", "method": "Net", "number": "nn.Module"}
    assert hints[what] in caught.value.hint
