"""Calibrated conversions of ONNX models: the same numerics, on values that a worker shows."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import normfold
from normfold.errors import UsageError

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(48, 3, 6, 6)) * RNG.uniform(0.5, 1.5, (48, 1, 1, 1)) + RNG.normal(size=(48, 3, 1, 1))).astype(
    np.float32
)
GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 6, 6] x) => (float[N, 4] y) {
  c = Conv <pads = [1, 1, 1, 1]> (x, w1)
  b = BatchNormalization (c, gamma, beta, mean, var)
  r = Relu (b)
  p = GlobalAveragePool (r)
  f = Flatten (p)
  y = Gemm <transB = 1> (f, w2)
}
"""


def made(tmp_path):
    """A file whose running statistics are those of the data."""
    model = onnx.parser.parse_model(GRAPH)
    arrays = {
        "w1": RNG.normal(size=(8, 3, 3, 3)),
        "w2": RNG.normal(size=(4, 8)),
        "gamma": RNG.uniform(0.5, 1.5, 8),
        "beta": RNG.normal(size=8),
        "mean": np.zeros(8),
        "var": np.ones(8),
    }
    held = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    model.graph.initializer.extend(held)
    inner = onnx.ModelProto.FromString(model.SerializeToString())
    inner.graph.output.extend([onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None)])
    c = ReferenceEvaluator(inner).run(["c"], {"x": X})[0]
    for name, values in (("mean", c.mean((0, 2, 3))), ("var", c.var((0, 2, 3)))):
        stored = next(one for one in model.graph.initializer if one.name == name)
        stored.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def run(path):
    return ReferenceEvaluator(onnx.load(path)).run(None, {"x": X})[0]


@pytest.mark.parametrize("to", ["group:count=2", "layer", "rms"])
def test_a_batch_norm_becomes_a_norm_with_live_statistics(tmp_path, to):
    source, target = made(tmp_path), tmp_path / "out.onnx"
    result = normfold.convert(source, to=to, calibrate=X, output=target)
    decision = result.decisions[0]
    assert (decision.outcome, decision.label) == ("converted", "calibrated")
    assert 0.5 < decision.certificate.r2 <= 1.0
    assert result.verification.status == "within-budget"
    assert "BatchNormalization" not in {node.op_type for node in onnx.load(target).graph.node}
    wanted, found = run(source), run(target)
    assert float(np.sqrt(((found - wanted) ** 2).mean() / wanted.var())) == pytest.approx(result.drift, abs=0.15)


def test_it_is_judged_by_a_metric_and_nothing_is_written_where_it_misses(tmp_path):
    source, target = made(tmp_path), tmp_path / "out.onnx"
    labels = run(source).argmax(1)
    given = {"to": "group:count=8", "calibrate": X, "max_offset": 0.0, "evaluate": {"x": X, "label": labels}}
    free = normfold.convert(source, **given, max_drop=100)
    assert free.score.before == 100.0
    assert free.score.drop > 0.0
    with pytest.raises(normfold.NormfoldError):
        normfold.convert(source, **given, max_drop=0.0, output=target)
    assert not target.exists()


def test_the_source_is_left_as_it_is(tmp_path):
    source = made(tmp_path)
    before = source.read_bytes()
    normfold.convert(source, to="group", calibrate=X)
    assert source.read_bytes() == before


def test_a_file_is_not_distilled(tmp_path):
    with pytest.raises(UsageError, match="distilled"):
        normfold.convert(made(tmp_path), to="group", calibrate=X, distill=1.0)


@pytest.mark.filterwarnings("ignore")
def test_the_norm_fitted_worst_stays_and_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    rows = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    rows += [torch.nn.Conv2d(8, 16, 1), torch.nn.BatchNorm2d(16), torch.nn.ReLU()]
    net = torch.nn.Sequential(*rows, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 4))
    with torch.no_grad():
        for _ in range(50):
            net(torch.from_numpy(X))
    path = tmp_path / "two.onnx"
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}}}
    kept_apart = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(net.eval(), (torch.from_numpy(X[:2]),), path, dynamo=False, **names, **kept_apart)
    given = {"to": "group:count=8", "calibrate": X, "max_offset": 0.0, "metric": "mse", "evaluate": X}
    free = normfold.convert(path, **given, max_drop=1e9)
    worst = min(free.decisions, key=lambda one: one.certificate.r2)
    rest = normfold.convert(path, **given, max_drop=1e9, skip=[worst.site])
    assert 0.0 < rest.score.drop < free.score.drop
    done = normfold.convert(path, **given, max_drop=rest.score.drop)
    kept = [one for one in done.decisions if one.outcome == "kept"]
    assert [one.site for one in kept] == [worst.site]
    assert kept[0].refused_by[0].premise == "within-budget"
