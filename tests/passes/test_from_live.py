"""LayerNorms that become what does not compute the same, fitted to calibration inputs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import normfold  # noqa: E402
from normfold.passes.convert.from_live import fit  # noqa: E402

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
    assert np.allclose(found.explained, [1.0, 1.0, 0.0])


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
