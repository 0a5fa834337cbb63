"""BatchNorms whose statistics are computed anew."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import normfold  # noqa: E402
from normfold.errors import UsageError  # noqa: E402

X = np.random.default_rng(0).normal(1.5, 2.0, (75, 3, 4, 4)).astype(np.float32)
EXAMPLE = (torch.from_numpy(X[:2]),)


def test_statistics_are_those_of_the_population_and_not_corrected():
    net = nn.Sequential(nn.BatchNorm2d(3)).train()
    result = normfold.convert(net, EXAMPLE, to="batch", calibrate=X, reestimate=True)
    norm = result.model[0]
    assert np.allclose(norm.running_mean, X.mean((0, 2, 3)), atol=1e-5)
    assert np.allclose(norm.running_var, X.astype(np.float64).var((0, 2, 3)), rtol=1e-5)
    small = normfold.convert(net, EXAMPLE, to="batch", calibrate=X[:1], reestimate=True).model[0]
    assert np.allclose(small.running_var, X[:1].astype(np.float64).var((0, 2, 3)), rtol=1e-4)
    assert not norm.training
    assert net[0].training
    assert torch.equal(net[0].running_mean, torch.zeros(3))
    assert norm.momentum == net[0].momentum


def test_what_stands_behind_a_norm_sees_what_it_will_see():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    result = normfold.convert(net, EXAMPLE, to="batch", calibrate=X, reestimate=True).model
    with torch.no_grad():
        y = result(torch.from_numpy(X))
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(4), atol=0.1)
    assert torch.allclose(y.var((0, 2, 3)), torch.ones(4), atol=0.2)
    with torch.no_grad():
        before = net(torch.from_numpy(X))
    assert float(before.var()) > 1.5 or float(before.mean().abs()) > 0.2


def test_one_without_running_statistics_gets_some():
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval()
    result = normfold.convert(net, EXAMPLE, to="batch", calibrate=X, reestimate=True)
    assert [one.outcome for one in result.decisions] == ["converted"]
    one, many = result.model(torch.from_numpy(X[:1])), result.model(torch.from_numpy(X))
    assert torch.allclose(one, many[:1], atol=1e-5)


def test_one_that_is_called_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.last(self.norm(self.norm(x)))

    result = normfold.convert(Twice().eval(), EXAMPLE, to="batch", calibrate=X, reestimate=True)
    outcomes = {one.site: one.outcome for one in result.decisions}
    assert outcomes == {"last": "converted", "norm": "kept"}
    assert torch.equal(result.model.norm.running_mean, torch.zeros(3))
    kept = next(one for one in result.decisions if one.outcome == "kept")
    assert kept.refused_by[0].premise == "called-once"


def test_sites_that_are_not_selected_keep_theirs():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).eval()
    result = normfold.convert(net, EXAMPLE, to="batch", calibrate=X, reestimate=True, skip=["0"])
    assert {one.site: one.outcome for one in result.decisions} == {"0": "kept", "1": "converted"}


@pytest.mark.parametrize(
    ("given", "match"),
    [({}, "no inputs"), ({"calibrate": X, "to": "group"}, "computed anew for 'batch'")],
)
def test_what_cannot_hold_is_a_usage_error(given, match):
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    with pytest.raises(UsageError, match=match):
        normfold.convert(net, EXAMPLE, **{"to": "batch", "reestimate": True, **given})
