"""The verbs as a program calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest

import nets
import normfold
from normfold.errors import NormfoldError
from normfold.models.onnxfile import from_proto
from normfold.passes.fold.selection import driver
from normfold.records import Refusal


def operators(model: onnx.ModelProto | onnx_ir.Model) -> list[str]:
    if isinstance(model, onnx.ModelProto):
        return [node.op_type for node in model.graph.node]
    return [node.op_type for node in model.graph]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(nets.conv_bn(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_a_proto_comes_back_as_a_proto_and_stays_as_it_was() -> None:
    source = nets.conv_bn()
    before = source.SerializeToString(deterministic=True)
    result = normfold.fold(source)
    assert isinstance(result.model, onnx.ModelProto)
    assert operators(result.model) == ["Conv", "Relu", "Conv", "Relu"]
    assert source.SerializeToString(deterministic=True) == before
    assert result.verification.status == "equivalent"
    assert [decision.outcome for decision in result.decisions] == ["folded", "folded"]
    assert "bn1" in result._repr_html_()


def test_an_ir_model_comes_back_as_one_and_stays_as_it_was() -> None:
    source = from_proto(nets.conv_bn())
    before = onnx_ir.to_proto(source).SerializeToString(deterministic=True)
    result = normfold.fold(source)
    assert isinstance(result.model, onnx_ir.Model)
    assert operators(result.model) == ["Conv", "Relu", "Conv", "Relu"]
    assert onnx_ir.to_proto(source).SerializeToString(deterministic=True) == before


def test_a_path_comes_back_as_an_ir_model(path: Path) -> None:
    before = path.read_bytes()
    result = normfold.fold(path)
    assert isinstance(result.model, onnx_ir.Model)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["net.onnx"]


def test_the_output_says_where_it_comes_from(path: Path, tmp_path: Path) -> None:
    result = normfold.fold(path, output=tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    properties = {entry.key: entry.value for entry in written.metadata_props}
    assert properties["normfold.version"] == normfold.__version__
    assert properties["normfold.source.sha256"] == sha256(path.read_bytes()).hexdigest()
    assert [entry["site"] for entry in json.loads(properties["normfold.decisions"])] == ["bn1", "bn2"]
    assert operators(written) == operators(result.model)


def test_the_output_is_bit_reproducible(path: Path, tmp_path: Path) -> None:
    for name, options in (("a", {}), ("b", {}), ("c", {"verify": False})):
        normfold.fold(path, output=tmp_path / f"{name}.onnx", **options)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()


def test_globs(path: Path) -> None:
    outcomes = [decision.outcome for decision in normfold.fold(path, only=["*1"]).decisions]
    assert outcomes == ["folded", "kept"]
    outcomes = [decision.outcome for decision in normfold.fold(path, skip=["bn1"]).decisions]
    assert outcomes == ["kept", "folded"]


def test_feeds_are_used(path: Path, tmp_path: Path) -> None:
    pictures = np.random.default_rng(1).standard_normal((7, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "feeds.npz", x=pictures)
    for feeds in ({"x": pictures}, tmp_path / "feeds.npz"):
        probes = normfold.fold(path, inputs=feeds).verification.inputs
        assert (7, 3, 8, 8) in [probe.shape for probe in probes]
    probes = normfold.fold(path, shapes={"x": (5, 3, 8, 8)}).verification.inputs
    assert {probe.shape for probe in probes} == {(5, 3, 8, 8)}


@pytest.mark.parametrize("sizes", [(5, 3, 8, 8), [5, 3, 8, 8]])
def test_sizes_given_as_inputs_name_the_option_for_shapes(path: Path, sizes: Any) -> None:
    with pytest.raises(normfold.NormfoldError, match="inputs= takes arrays") as caught:
        normfold.fold(path, inputs={"x": sizes})
    assert (caught.value.code, caught.value.hint) == ("usage", "For a shape, use shapes={'x': (5, 3, 8, 8)}.")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"not an archive", b"\x80\x04]\x94."])
def test_a_damaged_npz_is_a_bad_input(path: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "feeds.npz").write_bytes(content)
    with pytest.raises(NormfoldError) as error:
        normfold.fold(path, inputs=tmp_path / "feeds.npz")
    assert error.value.code == "bad-input"


def test_a_single_array_or_no_file_is_a_bad_input(path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    for feeds in (tmp_path / "x.npy", tmp_path / "missing.npz"):
        with pytest.raises(NormfoldError) as error:
            normfold.fold(path, inputs=feeds)
        assert error.value.code == "bad-input"


def test_what_is_not_a_model_is_a_usage_error() -> None:
    with pytest.raises(NormfoldError) as error:
        normfold.fold(3)  # type: ignore[arg-type]
    assert error.value.code == "usage"


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[str]], None]:
    """Make the engine fold the named sites wrongly unless they are excluded."""
    right = driver.fold

    def install(sites: set[str]) -> None:
        def wrong(graph, *, exclude, **options):
            folding = right(graph, exclude=exclude, **options)
            convs = {"bn1": "conv1", "bn2": "conv2"}
            for site in sites - set(exclude):
                node = next(node for node in graph.model.graph if node.name == convs[site])
                weight = node.inputs[1]
                weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * 2, name=weight.name)
            return folding

        monkeypatch.setattr(driver, "fold", wrong)

    return install


def test_a_wrong_fold_is_dropped_and_named(spoil: Callable, path: Path, tmp_path: Path) -> None:
    spoil({"bn1"})
    result = normfold.fold(path, output=tmp_path / "out.onnx")
    assert result.verification.status == "equivalent"
    assert [decision.outcome for decision in result.decisions] == ["kept", "folded"]
    assert [refusal.premise for refusal in result.decisions[0].refused_by] == ["verification-failed"]
    assert normfold.verify(path, tmp_path / "out.onnx").verification.status == "equivalent"


def test_two_wrong_folds_are_dropped(spoil: Callable, path: Path) -> None:
    spoil({"bn1", "bn2"})
    result = normfold.fold(path)
    assert [decision.outcome for decision in result.decisions] == ["kept", "kept"]


def test_what_stays_wrong_is_not_handed_over(monkeypatch: pytest.MonkeyPatch, path: Path, tmp_path: Path) -> None:
    right = driver.fold

    def wrong(graph, **options):
        folding = right(graph, **options)
        graph.committed = True
        weight = next(node for node in graph.model.graph if node.name == "conv2").inputs[1]
        weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * 2, name=weight.name)
        return folding

    monkeypatch.setattr(driver, "fold", wrong)
    (tmp_path / "out.onnx").write_bytes(b"the old one")
    with pytest.raises(normfold.DiffersError) as error:
        normfold.fold(path, output=tmp_path / "out.onnx")
    assert error.value.verification.status == "different"
    assert (tmp_path / "out.onnx").read_bytes() == b"the old one"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "out.onnx"]


def test_a_model_that_nothing_can_run() -> None:
    with pytest.raises(normfold.UnprovenError) as error:
        normfold.fold(nets.custom())
    assert error.value.code == "unverified"
    assert error.value.verification.status == "unavailable"
    result = normfold.fold(nets.custom(), verify=False)
    assert operators(result.model) == ["Conv", "Mystery"]
    assert result.verification.status == "skipped"


def test_inspect_leaves_the_model_as_it_is() -> None:
    source = nets.lone_norm()
    before = source.SerializeToString(deterministic=True)
    result = normfold.inspect(source)
    assert source.SerializeToString(deterministic=True) == before
    assert [(norm.site, norm.would.outcome) for norm in result.norms] == [("bn", "kept")]
    assert result.norms[0].would.refused_by
    assert "bn" in result._repr_html_()


def test_inspect_says_what_fold_then_does() -> None:
    for source in (nets.conv_bn(), nets.lone_norm(), nets.no_norm()):
        would = tuple(norm.would for norm in normfold.inspect(source).norms)
        assert normfold.fold(source, verify=False).decisions == would


def test_verify_takes_any_two_kinds(path: Path) -> None:
    other = from_proto(nets.conv_bn(seed=1))
    assert normfold.verify(path, nets.conv_bn()).verification.status == "equivalent"
    assert normfold.verify(nets.conv_bn(), other).verification.status == "different"


def test_a_refusal_is_a_known_premise() -> None:
    from normfold.core.premises import PREMISES, VERIFICATION_FAILED

    assert Refusal(VERIFICATION_FAILED, "").premise in PREMISES


def test_a_result_is_saved_documented_and_shown(path: Path, tmp_path: Path) -> None:
    result = normfold.fold(path)
    result.save(tmp_path / "saved.onnx")
    assert normfold.verify(path, tmp_path / "saved.onnx").verification.status == "equivalent"
    document = result.document()
    assert (document["source"], document["output"]) == (str(path), None)
    assert document["counts"]["folded"] == 2
    assert repr(result).splitlines()[0].startswith("FoldResult")
    assert len(repr(result).splitlines()) < 8
    assert "bn1" in result._repr_html_()


def test_what_verify_hands_back(path: Path, tmp_path: Path) -> None:
    result = normfold.verify(path, path)
    result.save(tmp_path / "verify.json")
    assert json.loads((tmp_path / "verify.json").read_text(encoding="utf-8")) == result.document()
    assert result.document()["verification"]["status"] == "equivalent"
    assert "equivalent" in repr(result)
    assert "equivalent" in result._repr_html_()


def test_what_inspect_hands_back(path: Path, tmp_path: Path) -> None:
    result = normfold.inspect(path)
    result.save(tmp_path / "inspect.json")
    assert json.loads((tmp_path / "inspect.json").read_text(encoding="utf-8"))["counts"]["folded"] == 2
    assert [decision.outcome for decision in result.decisions] == ["folded", "folded"]


def test_example_inputs_are_for_modules(path: Path) -> None:
    for job in (lambda: normfold.fold(path, {"x": 1}), lambda: normfold.verify(path, path, example_inputs=1)):
        with pytest.raises(NormfoldError, match="example_inputs are for modules") as error:
            job()
        assert error.value.code == "usage"
