"""The shipped network is what its README says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from normfold.verbs import demo as package
from normfold.verbs.demo import network as demo

README = Path(package.__file__).with_name("README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    with demo.network() as path:
        return onnx.load(path)


def test_the_network_is_valid_and_small(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert len(model.SerializeToString()) < 300_000


def test_every_norm_is_in_place_in_inference_mode(model: onnx.ModelProto) -> None:
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == 10
    assert all(len(node.output) == 1 for node in norms)
    assert not any(attribute.i for node in norms for attribute in node.attribute if attribute.name == "training_mode")


def test_its_inputs_and_outputs(model: onnx.ModelProto) -> None:
    ends = [(end.name, end.type.tensor_type) for end in (*model.graph.input, *model.graph.output)]
    shapes = {name: [d.dim_param or d.dim_value for d in kind.shape.dim] for name, kind in ends}
    assert shapes == {demo.INPUT: ["N", 1, 8, 8], demo.OUTPUT: ["N", 10]}


def test_the_pictures_are_as_described() -> None:
    pictures, labels = demo.pictures()
    assert pictures.shape == (450, 1, 8, 8)
    assert pictures.dtype == np.float32
    assert (pictures.min(), pictures.max()) == (0, 1)
    assert np.array_equal(np.unique(labels), np.arange(10))


def test_accuracy_is_what_the_readme_says(model: onnx.ModelProto) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pictures, labels = demo.pictures()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run([demo.OUTPUT], {demo.INPUT: pictures})
    said = re.search(r"(\d+) of the (\d+) held-out pictures", README)
    assert said
    assert (int((scores.argmax(axis=1) == labels).sum()), len(labels)) == tuple(map(int, said.groups()))


def test_the_pictures_come_from_where_the_readme_says() -> None:
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    known = {(image.tobytes(), int(digit)) for image, digit in zip(bundled.images, bundled.target, strict=True)}
    pictures, labels = demo.pictures()
    whole = (pictures[:, 0] * demo.GREY_LEVELS).astype(np.float64)
    assert all((image.tobytes(), int(digit)) in known for image, digit in zip(whole, labels, strict=True))


@pytest.mark.slow
def test_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "EFFORT", replace(package.EFFORT, first=2, most=2, per_process=0.05))
    result = package.demo()
    assert result.optimized.output is None
    assert result.accuracy["before"] - result.accuracy["after"] <= package.MAX_DROP / 100
    low, high = result.speed["interval"]
    assert 0 < low <= result.speed["ratio"] <= high
    assert result.speed["verdict"] != "slower"
    assert result.document()["speed"] == result.speed
    assert f"{result.accuracy['changed_answers']} of 450 answers changed" in str(result)
    assert "-o DIR" in str(result)
