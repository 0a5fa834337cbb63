"""The verbs that time models, as programs call them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import normfold
import timed
from normfold.errors import FindingError, UsageError
from normfold.verbs.compare import CompareResult

BRIEF = normfold.Effort(first=2, most=2, per_process=0.02, warm_up=0.0, details=False)


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    model = onnx.load(timed.products(tmp_path, 3))
    result = normfold.bench(model, model, effort=BRIEF, batch=(1, 2))
    assert len({figure.name for figure in result.figures}) == 2
    assert [cell.conditions.batch for cell in result.cells] == [1, 2]


def test_models_beside_one_another(tmp_path: Path) -> None:
    short, long = timed.products(tmp_path, 5), timed.products(tmp_path, 80)
    effort = normfold.Effort(first=2, most=2, per_process=0.1)
    result = normfold.compare(short, long, effort=effort)
    assert result.slower
    assert (result.document()["a"], result.document()["b"]) == (str(short), str(long))
    assert result.document()["comparisons"][0]["verdict"] == "slower"
    assert "products80 takes" in repr(result)


def test_models_whose_outputs_differ_do_not_compare(tmp_path: Path) -> None:
    model = onnx.load(timed.products(tmp_path, 5))
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.node[0].op_type = "Add"
    del other.graph.initializer[:]
    zeros = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(model.graph.initializer[0])[:1], "w")
    other.graph.initializer.append(zeros)
    del other.graph.node[1:]
    other.graph.node[0].output[0] = "y"
    with pytest.raises(FindingError) as caught:
        normfold.compare(model, other, effort=BRIEF)
    refused = CompareResult("a", "b", refused=caught.value)
    assert refused.document()["refused"]["code"] == "outputs-differ"
    assert not refused.slower
    assert "outputs-differ" in repr(refused)


def test_a_module_is_exported_to_be_timed() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval()
    with pytest.raises(UsageError, match="example_inputs"):
        normfold.bench(module, effort=BRIEF)
    (figure,) = normfold.bench(module, example_inputs=(torch.ones(1, 4),), effort=BRIEF).figures
    assert figure.name == "Sequential"
    assert figure.latency.value > 0


@pytest.mark.parametrize(
    ("models", "options"),
    [
        ((), {}),
        (("m.onnx",), {"example_inputs": (1,)}),
        (("m.onnx",), {"ep": "abacus"}),
        (("m.onnx",), {"cpus": (100_000,)}),
        (("m.onnx",), {"inputs": {"x": (1, 64)}}),
    ],
)
def test_usage(tmp_path: Path, models: tuple[str, ...], options: dict) -> None:
    timed.products(tmp_path, 2, "m")
    with pytest.raises(UsageError) as caught:
        normfold.bench(*(tmp_path / name for name in models), effort=BRIEF, **options)
    assert caught.value.code == "usage"


def test_the_environment() -> None:
    found = normfold.env()
    assert found.document()["normfold"] == normfold.__version__
    assert normfold.__version__ in repr(found)
