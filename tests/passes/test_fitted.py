"""LayerNorms that become what does not compute the same, fitted to calibration inputs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import onnx  # noqa: E402
from torch import nn  # noqa: E402

import normfold  # noqa: E402
from folding import array, model, run  # noqa: E402
from normfold.backends.torch.modules import BatchLayerNorm, DynamicTanh, FrozenBatchNorm  # noqa: E402
from normfold.passes.convert import MATRIX  # noqa: E402
from normfold.passes.convert.fitted import CONVERSION, STRAIGHT_TANH, fit  # noqa: E402

X = np.random.default_rng(0).normal(0.3, 1.0, (64, 6, 12)).astype(np.float32)
EXAMPLE = (torch.from_numpy(X[:2]),)


class Net(nn.Module):
    """LayerNorms behind activations, so that nothing before them can take the mean away."""

    def __init__(self):
        super().__init__()
        self.up, self.norm = nn.Linear(12, 16), nn.LayerNorm(16)
        self.down = nn.Linear(16, 4)

    def forward(self, x):
        return self.down(self.norm(torch.tanh(self.up(x))))


def made():
    torch.manual_seed(0)
    net = Net().eval()
    nn.init.uniform_(net.norm.weight, 0.5, 1.5)
    nn.init.normal_(net.norm.bias)
    return net


def drift(net, result):
    with torch.no_grad():
        wanted, found = net(torch.from_numpy(X)), result(torch.from_numpy(X))
    return float(((found - wanted).square().mean() / wanted.var()).sqrt())


def test_least_squares_by_channel():
    rng = np.random.default_rng(0)
    v = rng.normal(size=(200, 3))
    found = fit(v, v * [1.0, -2.0, 0.0] + [0.0, 1.0, 5.0])
    assert np.allclose(found.slope, [1.0, -2.0, 0.0])
    assert np.allclose(found.intercept, [0.0, 1.0, 5.0])
    assert np.isclose(found.explained, 1.0)


def test_a_layer_norm_becomes_an_rms_norm_where_its_mean_cannot_be_absorbed():
    net = made()
    without = normfold.convert(net, EXAMPLE, to="rms")
    assert {one.premise for one in without.decisions[0].refused_by} >= {"calibration-data"}
    result = normfold.convert(net, EXAMPLE, to="rms", calibrate=X)
    certificate = result.decisions[0].certificate
    assert (certificate.label, result.verification.status) == ("calibrated", "within-budget")
    assert 0.8 < certificate.r2 < 1.0
    assert certificate.constant_share < 0.01
    assert drift(net, result.model) < 0.4


@pytest.mark.parametrize("to", ["dyt", "static"])
def test_what_knows_nothing_of_the_sample_is_only_a_start_for_training(to):
    net = made()
    refused = normfold.convert(net, EXAMPLE, to=to, calibrate=X)
    assert [str(one.premise) for one in refused.decisions[0].refused_by] == ["training-asked"]
    result = normfold.convert(net, EXAMPLE, to=to, calibrate=X, needs_training=True)
    decision = result.decisions[0]
    assert (decision.outcome, decision.label, decision.to) == ("converted", "needs-training", to)
    assert result.verification.status == "skipped"
    assert "a start for training" in result.verification.because
    assert not any(isinstance(one, nn.LayerNorm) for one in result.model.modules())
    assert drift(net, result.model) < 1.0


def test_a_static_norm_is_folded():
    result = normfold.convert(made(), EXAMPLE, to="static", calibrate=X, needs_training=True)
    assert isinstance(result.model.norm, nn.Identity)


def test_distilled_it_is_judged_by_its_outputs():
    net = made()
    result = normfold.convert(net, EXAMPLE, to="dyt", calibrate=X, distill=1.0)
    assert result.verification.status in ("within-budget", "equivalent")
    assert result.decisions[0].label == "needs-training"


PICTURES = np.random.default_rng(1).normal(0.2, 1.0, (64, 3, 6, 6)).astype(np.float32)
PICTURE = (torch.from_numpy(PICTURES[:2]),)


class Pictures(nn.Module):
    """A norm between two convolutions."""

    def __init__(self, norm):
        super().__init__()
        self.up, self.norm, self.down = nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.down(self.norm(self.up(x)))


def squashing(shape=(8, 1, 1), alpha=1.5):
    norm = DynamicTanh(shape)
    nn.init.constant_(norm.alpha, alpha)
    return norm


def mixed():
    return BatchLayerNorm((8, 1, 1), 4.0, static_features=False)


NORMS = {
    "group": lambda: nn.GroupNorm(2, 8),
    "instance": lambda: nn.InstanceNorm2d(8, affine=True),
    "dyt": squashing,
    "live-bln": mixed,
}


def pictures(norm):
    torch.manual_seed(0)
    net = Pictures(norm).eval()
    for name, one in net.norm.named_parameters():
        if name != "alpha":
            nn.init.uniform_(one, 0.5, 1.5)
    return net


def off(net, result, data=PICTURES):
    with torch.no_grad():
        wanted, found = net(torch.from_numpy(data)), result(torch.from_numpy(data))
    return float(((found - wanted).square().mean() / wanted.var()).sqrt())


FITTED = [
    (source, to)
    for source, row in MATRIX.items()
    for to, ways in row.items()
    if source in NORMS and any(way.conversion in (CONVERSION, STRAIGHT_TANH) for way in ways)
]


@pytest.mark.parametrize(("source", "to"), FITTED)
def test_every_cell_that_is_fitted(source, to):
    net = pictures(NORMS[source]())
    result = normfold.convert(net, PICTURE, to=to, calibrate=PICTURES, needs_training=True)
    decision = result.decisions[0]
    label = {"group": "calibrated", "instance": "calibrated"}.get(source, "needs-training")
    wanted = "needs-training" if to in ("dyt", "bln") else label
    assert (decision.outcome, decision.to, decision.label) == ("converted", to, wanted)
    assert 0.3 < decision.certificate.r2 < 1.0
    assert 0.0 <= decision.certificate.constant_share <= 1.0
    assert off(net, result.model) < 0.8
    assert type(result.model.norm) is not type(net.norm)


@pytest.mark.parametrize("to", ["batch", "frozen"])
def test_a_batch_norm_knows_the_statistics_of_what_it_reads(to):
    net = pictures(nn.GroupNorm(2, 8))
    result = normfold.convert(net, PICTURE, to=to, calibrate=PICTURES)
    assert (result.decisions[0].label, result.verification.status) == ("calibrated", "within-budget")
    with torch.no_grad():
        seen = net.up(torch.from_numpy(PICTURES))
    norm = result.model.norm
    assert isinstance(norm, nn.BatchNorm2d if to == "batch" else FrozenBatchNorm)
    assert torch.allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=0.1)
    assert torch.allclose(norm.running_var, seen.var((0, 2, 3)), rtol=0.2)


def test_an_affine_map_that_was_fitted_is_folded():
    net = pictures(nn.GroupNorm(2, 8))
    result = normfold.convert(net, PICTURE, to="static", calibrate=PICTURES)
    assert isinstance(result.model.norm, nn.Identity)
    assert result.decisions[0].label == "calibrated"
    assert normfold.convert(net, PICTURE, to="static").decisions[0].refused_by[0].premise == "calibration-data"


def test_a_straight_tanh_is_an_affine_map_and_a_bent_one_needs_training():
    straight, bent = pictures(squashing(alpha=0.02)), pictures(squashing(alpha=1.0))
    done = normfold.convert(straight, PICTURE, to="static", calibrate=PICTURES)
    assert done.decisions[0].label == "calibrated"
    assert off(straight, done.model) < 0.01
    kept = normfold.convert(bent, PICTURE, to="static", calibrate=PICTURES).decisions[0]
    assert [str(one.premise) for one in kept.refused_by] == ["bounded-error", "training-asked"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("source", "to"),
    [("group", one) for one in ("static", "batch", "dyt")]
    + [("dyt", one) for one in ("static", "batch", "layer", "rms", "group:count=2")],
)
def test_in_a_file(source, to, tmp_path):
    path = tmp_path / "net.onnx"
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(pictures(NORMS[source]()), PICTURE, path, dynamo=False, **names)
    result = normfold.convert(path, to=to, calibrate=PICTURES, needs_training=True)
    decision = result.decisions[0]
    assert (decision.outcome, decision.to) == ("converted", to.partition(":")[0])
    import onnx_ir as ir

    model = ir.to_proto(result.model)
    wanted, found = (run(one, {"x": PICTURES})["y"] for one in (onnx.load(path), model))
    assert ((wanted - found) ** 2).mean() / wanted.var() < 0.6
    names = {node.op_type for node in model.graph.node}
    assert ("BatchNormalization" in names) == (to == "batch")
    assert ("Tanh" in names) == (to == "dyt")


def test_a_layer_norm_of_several_axes_is_fitted_to_nothing():
    net = pictures(nn.LayerNorm((8, 4, 4)))
    done = normfold.convert(net, PICTURE, to="dyt", calibrate=PICTURES, needs_training=True)
    assert [str(one.premise) for one in done.decisions[0].refused_by] == ["one-axis"]


def test_groups_that_channels_do_not_make_mean_nothing():
    net = pictures(squashing())
    done = normfold.convert(net, PICTURE, to="group:count=3", calibrate=PICTURES, needs_training=True)
    assert [str(one.premise) for one in done.decisions[0].refused_by] == ["meaningful"]


class Averaged(nn.Module):
    """What the norm makes is averaged over all positions."""

    def __init__(self):
        super().__init__()
        self.up, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.norm(self.up(x)).mean((2, 3)))


def test_an_instance_norm_before_a_global_average_would_leave_nothing():
    net = Averaged().eval()
    done = normfold.convert(net, PICTURE, to="instance", calibrate=PICTURES, needs_training=True)
    assert [str(one.premise) for one in done.decisions[0].refused_by] == ["meaningful"]


def test_a_batch_norm_becomes_an_instance_norm_only_to_be_trained():
    net = pictures(nn.BatchNorm2d(8))
    refused = normfold.convert(net, PICTURE, to="instance", calibrate=PICTURES)
    assert [str(one.premise) for one in refused.decisions[0].refused_by] == ["training-asked"]
    done = normfold.convert(net, PICTURE, to="instance", calibrate=PICTURES, needs_training=True)
    assert (done.decisions[0].outcome, done.decisions[0].label) == ("converted", "needs-training")
    assert isinstance(done.model.norm, nn.InstanceNorm2d)


def test_a_weightless_layer_norm_gets_the_scale_that_it_is_fitted_with():
    net = made()
    net.norm = nn.LayerNorm(16, elementwise_affine=False)
    result = normfold.convert(net, EXAMPLE, to="rms", calibrate=X)
    assert result.decisions[0].label == "calibrated"
    assert drift(net, result.model) < 0.4


class Frozen(nn.Module):
    """A BatchNorm of which only a scale and a shift are left, as detection networks store them."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("weight", torch.rand(channels) + 0.5)
        self.register_buffer("bias", torch.randn(channels))

    def forward(self, x):
        return x * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)


class FrozenBatchNorm2d(Frozen):
    pass


def test_a_norm_without_statistics_takes_those_of_the_inputs_and_needs_some():
    net = pictures(FrozenBatchNorm2d(8))
    kept = normfold.convert(net, PICTURE, to="group:count=2").decisions[0]
    assert [str(one.premise) for one in kept.refused_by] == ["calibration-data"]
    done = normfold.convert(net, PICTURE, to="group:count=2", calibrate=PICTURES)
    assert (done.decisions[0].outcome, done.decisions[0].label) == ("converted", "calibrated")


def test_channels_that_come_last_make_no_batch_norm_in_a_file():
    body = ["t = Tanh(x)", "[norm] y = LayerNormalization(t, g, b)"]
    source = model("float[n,5,6] x", body, {"g": array(6), "b": array(6)}, opset=17)
    x = np.random.default_rng(0).normal(size=(32, 5, 6)).astype(np.float32)
    done = normfold.convert(source, to="batch", calibrate=x, needs_training=True)
    assert [str(one.premise) for one in done.decisions[0].refused_by] == ["known-rank"]


@pytest.mark.parametrize("to", ["static", "frozen"])
def test_a_layer_norm_of_a_file_is_fitted_as_an_affine_map(to):
    body = ["t = Tanh(x)", "[norm] y = LayerNormalization(t, g, b)"]
    source = model("float[n,6] x", body, {"g": array(6), "b": array(6)}, opset=17)
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    done = normfold.convert(source, to=to, calibrate=x, needs_training=True)
    assert [one.outcome for one in done.decisions] == ["converted"]
    wanted, found = (run(one, {"x": x})["y"] for one in (source, done.model))
    assert ((wanted - found) ** 2).mean() / wanted.var() < 0.4
