"""The loop of proof on real sources: a file, a module and a program with a fold that does not work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

import nets
import normfold
from normfold.core import driver
from normfold.core.premises import VERIFICATION_FAILED
from normfold.passes import clean
from normfold.passes.fold import onnx_model
from normfold.proof.comparison import Comparison
from normfold.runtime import Failed
from normfold.verbs.fold_result import FoldResult

torch = pytest.importorskip("torch", reason="torch is an extra")
nn = torch.nn
program = pytest.importorskip("normfold.passes.fold.program")


def outcomes(result: FoldResult) -> dict[str, str]:
    return {decision.site: decision.outcome for decision in result.decisions}


def failed(result: FoldResult) -> list[str]:
    """Sites that are kept because the result did not hold with them."""
    return [one.site for one in result.decisions for no in one.refused_by if no.premise == VERIFICATION_FAILED]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda weight: np.zeros((1, 1, 1, 1), np.float32),
        lambda weight: weight.astype(np.float64),
        lambda weight: weight * 2,
    ],
    ids=["another shape", "another type", "other values"],
)
def test_a_fold_into_a_file_that_does_not_run_is_dropped(
    spoil: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = driver.fold

    def wrong(graph, *, exclude, **options):
        folding = right(graph, exclude=exclude, **options)
        if "bn2" not in exclude:
            weight = next(node for node in graph.model.graph if node.name == "conv2").inputs[1]
            weight.const_value = onnx_ir.tensor(spoil(weight.const_value.numpy()), name=weight.name)
        return folding

    monkeypatch.setattr(driver, "fold", wrong)
    result = normfold.fold(nets.conv_bn(), output=tmp_path / "out.onnx")
    assert outcomes(result) == {"bn1": "folded", "bn2": "kept"}
    assert failed(result) == ["bn2"]
    monkeypatch.undo()
    assert normfold.verify(nets.conv_bn(), tmp_path / "out.onnx").verification.status == "equivalent"
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]


def test_an_unchanged_file_is_handed_over_without_running_it(tmp_path: Path) -> None:
    """Nothing here can run the custom operator, and nothing has to."""
    source = nets.no_norm()
    source.graph.node[0].domain, source.graph.node[0].op_type = "custom.domain", "Mystery"
    del source.graph.node[0].attribute[:]
    source.opset_import.append(onnx.helper.make_opsetid("custom.domain", 1))
    result = normfold.fold(source, output=tmp_path / "out.onnx")
    assert (result.verification.status, result.verification.because) == ("equivalent", "nothing was changed")
    assert result.model.graph == source.graph
    assert onnx.load(tmp_path / "out.onnx").graph.node == source.graph.node


def with_a_constant(source: onnx.ModelProto) -> onnx.ModelProto:
    """``source`` with its first initializer as a node, and a dead node."""
    tensor = source.graph.initializer[0]
    source.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    source.graph.node.append(onnx.helper.make_node("Neg", ["x"], ["dead"]))
    del source.graph.initializer[0]
    return source


def test_what_computes_nothing_goes_and_the_result_is_proven() -> None:
    source = with_a_constant(nets.conv_bn())
    result = normfold.fold(source)
    assert result.verification.status == "equivalent"
    assert result.verification.because != "nothing was changed"
    assert {"Constant", "Neg"}.isdisjoint(node.op_type for node in result.model.graph.node)
    assert result.document()["cleaning"]["removed"]["Neg"] == 1
    kept = normfold.fold(source, clean=False)
    assert "Neg" in {node.op_type for node in kept.model.graph.node}
    assert "cleaning" not in kept.document()


def test_what_is_dead_goes_where_the_rest_cannot_be_run() -> None:
    source = with_a_custom_operator(onnx.helper.make_node("Neg", ["x"], ["dead"]))
    result = normfold.fold(source)
    assert result.verification.status == "equivalent"
    assert [node.op_type for node in result.model.graph.node] == ["Mystery"]


def test_what_cannot_be_compared_is_not_cleaned() -> None:
    """Without a fold there is nothing to prove then: it is handed over as it came."""
    source = with_a_custom_operator(onnx.helper.make_node("Mystery", ["first"], ["y"], domain="custom.domain"))
    source.graph.node[0].output[0] = "first"
    source.graph.node[0].input[0] = "same"
    source.graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["same"], to=onnx.TensorProto.FLOAT))
    result = normfold.fold(source)
    assert (result.verification.because, result.cleaning) == ("nothing was changed", None)
    assert result.model.graph == source.graph


@pytest.mark.parametrize(("kind", "times"), [("memory", 1), ("time", 1), ("run", 2)])
def test_a_source_that_is_too_much_is_not_tried_again(kind: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def rewritten(*arguments: object) -> object:
        attempts.append(arguments)
        return right(*arguments)

    right = onnx_model.rewrite
    monkeypatch.setattr(onnx_model, "rewrite", rewritten)
    monkeypatch.setattr(Comparison, "_explore", lambda *_: Failed(kind, "too much"))
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.fold(with_a_constant(nets.conv_bn()))
    assert (caught.value.code, len(attempts)) == ("unverified", times)


def test_a_clean_that_brings_a_wrong_declaration_to_light_is_left_out(tmp_path: Path) -> None:
    """The branch that is taken makes three samples, and the model says that there is one."""
    parsed = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
m (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) <bool yes = {1}, int64[3] order = {0, 0, 0}> {
  p = If (yes) <then_branch = a () => (u) { u = Gather (x, order) },
                else_branch = b () => (v) { v = Gather <axis = 1> (x, order) }>
  y = Relu(p)
}""")
    onnx.checker.check_model(parsed, full_check=True)
    result = normfold.fold(parsed, verify=False, output=tmp_path / "o.onnx")
    assert result.cleaning is None
    assert [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node] == ["If", "Relu"]


def with_a_custom_operator(last: onnx.NodeProto) -> onnx.ModelProto:
    """A model that nothing here can run, with a node at its end."""
    source = nets.no_norm()
    source.graph.node[0].domain, source.graph.node[0].op_type = "custom.domain", "Mystery"
    del source.graph.node[0].attribute[:]
    source.opset_import.append(onnx.helper.make_opsetid("custom.domain", 1))
    source.graph.node.append(last)
    return source


def test_a_clean_that_spoils_the_result_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = clean.remove_dead_weight

    def wrong(model: onnx_ir.Model, inference: object) -> object:
        model.graph.outputs[0].producer().op_type = "Neg"
        return right(model, inference)

    monkeypatch.setattr(clean, "remove_dead_weight", wrong)
    result = normfold.fold(with_a_constant(nets.conv_bn()))
    assert outcomes(result) == {"bn1": "folded", "bn2": "folded"}
    assert (result.verification.status, result.cleaning) == ("equivalent", None)
    assert result.model.graph.node[-2].op_type == "Relu"


class Own(nn.BatchNorm2d):
    """One of another class: what looks at its module is not searched for."""


class Reads(nn.Module):
    """Reads something of a norm besides calling it, which nn.Identity does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm1, self.norm2, self.norm3 = nn.BatchNorm2d(4), Own(4), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.norm2(self.norm1(self.one(x)))
        return self.norm3(self.two(y)) if self.norm2.eps > 0 else y


def test_a_module_that_then_raises_keeps_that_norm() -> None:
    module = Reads().eval()
    result = normfold.fold(module, torch.randn(2, 3, 8, 8))
    assert outcomes(result) == {"norm1": "folded", "norm2": "kept", "norm3": "folded"}
    assert failed(result) == ["norm2"]
    assert result.verification.status == "equivalent"
    assert isinstance(result.model.norm3, nn.Identity)
    assert isinstance(module.norm3, nn.BatchNorm2d)


def test_an_unchanged_module_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from normfold.pipeline.fold_module import ModuleFold

    monkeypatch.setattr(ModuleFold, "compared", None)
    result = normfold.fold(nn.Sequential(nn.ReLU(), nn.Softmax(-1)).eval(), torch.randn(2, 3))
    assert result.verification.because == "nothing was changed"


def test_a_program_drops_the_fold_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the graph can fold, spoiled there: the norms that the tree folded stay folded."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.norm, self.last = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.last(self.head(self.norm(self.two(self.norm(self.one(x)).relu()).relu())))

    right = program.rewrite

    def wrong(graph, result) -> None:
        right(graph, result)
        if any(op.name.startswith("norm@2") for op in graph.removals):
            result.head.weight.data.mul_(2)

    module = Twice().eval()
    for norm in (module.norm, module.last):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    x = torch.randn(2, 3, 6, 6)
    assert set(outcomes(normfold.fold_program(module, x)).values()) == {"folded"}
    monkeypatch.setattr(program, "rewrite", wrong)
    result = normfold.fold_program(module, x)
    assert outcomes(result) == {"last": "folded", "norm": "folded", "norm@2": "kept"}
    assert failed(result) == ["norm@2"]
    torch.testing.assert_close(result.model(x), module(x), rtol=1e-4, atol=1e-4)
