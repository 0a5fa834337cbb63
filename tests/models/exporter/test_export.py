"""From a module to ONNX: its names, its free sizes, its norms folded, and equal to the module at every size."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import normfold
from normfold.models.exporter import exporter
from normfold.models.onnxfile import writing
from normfold.pipeline import export as job
from torch_nets import ConvNorm, Forward, live, outcomes


def run(path: Path, *outputs: str, **inputs: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(list(outputs) or None, {name: tensor.numpy() for name, tensor in inputs.items()})


def net() -> nn.Module:
    return live(ConvNorm()).float()


def refused(module: nn.Module, *inputs: torch.Tensor, **options) -> normfold.NormfoldError:
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.export(module.eval(), inputs, **options)
    return caught.value


def test_a_module_becomes_a_clean_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module, x = net(), torch.randn(1, 4, 6, 6)
    state = copy.deepcopy(module.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = normfold.export(module, (x,), output=tmp_path / "net.onnx", dynamic={"x": {0: "batch", 2: "height"}})
    assert capfd.readouterr() == ("", "")
    assert outcomes(result) == {"bn": "folded"}
    assert result.verification.status == "equivalent"
    assert {probe.shape for probe in result.verification.inputs} == {(1, 4, 6, 6), (3, 4, 12, 6)}
    written = onnx.load(tmp_path / "net.onnx")
    assert [(node.name, node.op_type) for node in written.graph.node] == [("conv", "Conv"), ("Relu", "Relu")]
    assert {tensor.name for tensor in written.graph.initializer} >= {"conv.weight"}
    (taken,), (given,) = written.graph.input, written.graph.output
    assert (taken.name, given.name) == ("x", "output")
    assert [dim.dim_param or dim.dim_value for dim in taken.type.tensor_type.shape.dim] == ["batch", 4, "height", 6]
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"
    properties = {entry.key: entry.value for entry in written.metadata_props}
    assert properties["normfold.version"] == normfold.__version__
    assert properties["normfold.module"] == "torch_nets.ConvNorm"
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    for shape in ((1, 4, 6, 6), (5, 4, 9, 6)):
        x = torch.randn(shape)
        with torch.no_grad():
            np.testing.assert_allclose(run(tmp_path / "net.onnx", x=x)[0], module(x), rtol=1e-4, atol=1e-5)


def test_nothing_of_the_machine_is_in_the_file_and_it_is_reproducible(tmp_path: Path) -> None:
    module, x = net(), torch.randn(1, 4, 6, 6)
    for name in ("a", "b"):
        normfold.export(module, (x,), output=tmp_path / f"{name}.onnx", verify=False, fold=False)
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes()
    assert str(Path.home()).encode() not in content
    assert Path(__file__).name.encode() not in content


@dataclass
class Answer:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, torch.Tensor]
    loss: None = None


def test_structures_keep_their_names(tmp_path: Path) -> None:
    def forward(self, batch, pair, scale=1.0):
        y = self.conv(batch["picture"]) * scale
        return {"y": y, "rest": [y.mean((2, 3)), pair[0] - pair[1], 7, None]}

    class Nested(Forward):
        def forward(self, batch, pair, scale=1.0):
            return forward(self, batch, pair, scale)

    module = live(Nested(None, conv=nn.Conv2d(4, 6, 1))).float()
    x, left, right = torch.randn(2, 4, 3, 3), torch.randn(2, 5), torch.randn(2, 5)
    inputs = {"pair": (left, right), "batch": {"picture": x}, "scale": 3.0}
    dynamic = {name: {0: "n"} for name in ("batch_picture", "pair_0", "pair_1")}
    normfold.export(module, inputs, output=tmp_path / "net.onnx", dynamic=dynamic)
    names = onnx.load(tmp_path / "net.onnx").graph
    assert [value.name for value in names.input] == ["pair_0", "pair_1", "batch_picture"]
    assert [value.name for value in names.output] == ["y", "rest_0", "rest_1"]
    found = run(tmp_path / "net.onnx", "rest_1", "y", batch_picture=x[:1], pair_0=left[:1], pair_1=right[:1])
    np.testing.assert_array_equal(found[0], (left - right)[:1])
    with torch.no_grad():
        np.testing.assert_allclose(found[1], 3 * module.conv(x[:1]), rtol=1e-5, atol=1e-5)


def test_a_dataclass_out_and_names_that_are_given() -> None:
    module = Forward(lambda self, x: Answer(self.l(x), (x, x + 1)), l=nn.Linear(4, 3)).eval()
    result = normfold.export(module, torch.randn(2, 4), verify=False, fold=False)
    assert [value.name for value in result.model.graph.outputs] == ["logits", "hidden_0", "hidden_1"]
    assert [value.name for value in result.model.graph.inputs] == ["inputs_0"]
    named = normfold.export(module, torch.randn(2, 4), input_names=["hidden_1"], output_names=["a", "b", "linear"])
    assert [value.name for value in named.model.graph.outputs] == ["a", "b", "linear"]
    assert named.verification.status == "equivalent"
    for names in (["a"], ["a", "b", "b"], ["a", "b", "x"]):
        error = refused(module, torch.randn(2, 4), input_names=["x"], output_names=names)
        assert error.code == "usage"


def test_integers_stay_what_was_given(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Embedding(500, 8), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    ids = torch.randint(0, 500, (1, 7))
    result = normfold.export(
        module, {"input": ids}, output=tmp_path / "m.onnx", dynamic={"input": {0: "n", 1: "length"}}
    )
    assert {probe.shape for probe in result.verification.inputs} == {(1, 7), (3, 14)}
    longer = torch.randint(0, 500, (4, 30))
    with torch.no_grad():
        np.testing.assert_allclose(run(tmp_path / "m.onnx", input=longer)[0], module(longer), rtol=1e-4, atol=1e-5)


def test_a_learner_is_its_model() -> None:
    learner, x = SimpleNamespace(model=net(), dls=None), torch.randn(2, 4, 6, 6)
    assert outcomes(normfold.export(learner, (x,), verify=False)) == {"bn": "folded"}
    result = normfold.fold(learner, (x,))
    assert type(result.model) is ConvNorm
    assert [norm.site for norm in normfold.inspect(learner, (x,)).norms] == ["bn"]


@pytest.mark.parametrize("opset", [17, 21])
def test_the_opset(opset: int) -> None:
    result = normfold.export(net(), (torch.randn(1, 4, 6, 6),), opset=opset, verify=opset == 17)
    assert result.model.opset_imports[""] == opset
    assert outcomes(result) == {"bn": "folded"}


def test_without_a_fold_the_norms_stay() -> None:
    result = normfold.export(net(), (torch.randn(1, 4, 6, 6),), fold=False)
    assert [node.op_type for node in result.model.graph] == ["Conv", "BatchNormalization", "Relu"]
    assert result.decisions == ()
    assert result.verification.status == "equivalent"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    result = normfold.export(net().to(dtype), (torch.randn(2, 4, 6, 6).to(dtype),))
    assert result.model.graph.outputs[0].dtype.name == {torch.float16: "FLOAT16", torch.float64: "DOUBLE"}[dtype]
    assert result.verification.status == "equivalent"


def test_large_models_get_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "AUTO_LIMIT", 1000)
    module, x = nn.Sequential(nn.Linear(40, 40), nn.BatchNorm1d(40)).eval(), torch.randn(2, 40)
    normfold.export(module, (x,), output=tmp_path / "net.onnx")
    assert {file.suffix for file in tmp_path.iterdir()} == {".onnx", ".data"}
    assert (tmp_path / "net.onnx").stat().st_size < 6000
    with torch.no_grad():
        np.testing.assert_allclose(run(tmp_path / "net.onnx", input=x)[0], module(x), rtol=1e-4, atol=1e-5)


class Branches(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Lonely(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(2, 12)


class BySize(nn.Module):
    def forward(self, x):
        return x + 1 if x.shape[0] > 2 else x


def test_control_flow_on_numbers_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    error = refused(Branches(), torch.randn(2, 4))
    assert error.code == "not-exportable"
    assert "\n" not in error.message
    assert "data-dependent" in error.message
    assert "torch.where" in error.hint
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_onnx_lacks_is_named() -> None:
    error = refused(Lonely(), torch.randn(2, 4, 4))
    assert error.code == "not-exportable"
    assert "aten._linalg_svd" in error.message
    assert "ONNX has no such operator" in error.hint


def test_a_size_that_is_not_free_is_refused() -> None:
    error = refused(FixedBatch(), torch.randn(2, 3, 4), dynamic={"x": {0: "batch"}})
    assert error.code in ("bad-input", "not-exportable")
    assert "dynamic" in error.hint


def test_a_way_that_was_not_taken_is_found(tmp_path: Path) -> None:
    with pytest.raises(normfold.DiffersError) as caught:
        normfold.export(BySize().eval(), torch.randn(2, 4), output=tmp_path / "net.onnx", dynamic={"x": {0: "batch"}})
    assert caught.value.code == "export-differs"
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_an_exporter_that_lies_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = exporter.raw_model

    def wrong(module, what, opset):
        module = copy.deepcopy(module)
        module.conv.weight.data *= 1.01
        return right(module, what, opset)

    monkeypatch.setattr(job, "raw_model", wrong)
    with pytest.raises(normfold.DiffersError):
        normfold.export(net(), (torch.randn(2, 4, 6, 6),), output=tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dynamic", "words"),
    [
        ({"y": {0: "batch"}}, "no input 'y'"),
        ({"x": {4: "batch"}}, "no axis 4"),
        ({"x": {0: "the batch"}}, "not an identifier"),
        ({"x": {0: "n", 1: "n"}}, "is both"),
    ],
)
def test_free_sizes_that_do_not_fit(dynamic: dict, words: str) -> None:
    error = refused(net(), torch.randn(1, 4, 6, 6), dynamic=dynamic)
    assert (error.code, words in error.message) == ("bad-input", True)


def test_training_mode_is_refused() -> None:
    with pytest.raises(normfold.NormfoldError, match="training mode") as caught:
        normfold.export(net().train(), (torch.randn(1, 4, 6, 6),))
    assert caught.value.code == "not-exportable"


def test_what_does_not_run_or_gives_nothing_is_refused() -> None:
    assert refused(net(), torch.randn(1, 3, 6, 6)).code == "bad-input"
    assert refused(Forward(lambda self, x: 3), torch.randn(1)).code == "bad-input"
    assert refused(net().to("meta"), torch.randn(1, 4, 6, 6)).code == "meta-tensors"


def test_a_missing_exporter_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = refused(net(), torch.randn(1, 4, 6, 6))
    assert (error.code, error.exit_code) == ("missing-package", 3)
    assert "normfold[torch]" in error.hint


def test_an_output_that_is_an_input_or_a_weight(tmp_path: Path) -> None:
    module = Forward(lambda self, x: (x, self.l.weight, self.l(x), x), l=nn.Linear(4, 3)).eval()
    x = torch.randn(2, 4)
    normfold.export(module, x, output=tmp_path / "net.onnx")
    found = run(tmp_path / "net.onnx", inputs_0=x)
    np.testing.assert_array_equal(found[0], x)
    np.testing.assert_array_equal(found[1], module.l.weight.detach())
    np.testing.assert_array_equal(found[3], x)


def test_folding_and_exporting_commute() -> None:
    """The square: fold, then export; export, then fold. The same norms are left, and the same numbers come out."""
    module = live(
        nn.Sequential(ConvNorm(), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten())
    ).float()
    x = torch.randn(2, 4, 6, 6)
    one = normfold.export(normfold.fold(module, (x,)).model, (x,), fold=False).model
    other = normfold.export(module, (x,)).model
    assert [node.op_type for node in one.graph] == [node.op_type for node in other.graph]
    assert normfold.verify(one, other).verification.status == "equivalent"


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x + self.calls


def test_a_module_that_changes_itself_is_refused_and_left_alone() -> None:
    module = Counting()
    error = refused(module, torch.randn(2, 3))
    assert (error.code, "'calls'" in error.message) == ("not-exportable", True)
    assert module.calls == 0


def test_random_numbers_are_compared_within_their_own_difference() -> None:
    module = Forward(lambda self, x: x + torch.randn_like(x)).eval()
    assert "differs from itself" in normfold.export(module, torch.randn(2, 30)).verification.because


def test_what_is_no_module_or_is_compiled_is_refused() -> None:
    with pytest.raises(normfold.NormfoldError) as caught:
        normfold.export("model.onnx", torch.randn(2, 4))
    assert caught.value.code == "usage"
    assert refused(torch.compile(nn.Linear(4, 3)), torch.randn(2, 4)).code == "bad-input"
