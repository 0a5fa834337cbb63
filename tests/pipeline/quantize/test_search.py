"""The search for the fewest operations in floating point with which a metric holds."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from normfold.limits import limited
from normfold.passes.quantize.figures import Accuracy, Bounds
from normfold.passes.quantize.recipe import Mixture
from normfold.pipeline.quantize.search import Memory, Search
from normfold.pipeline.quantize.speed import by_operation
from normfold.pipeline.stages import Workshop

NOISE = {"a": 1.0, "b": 8.0, "c": 0.5, "d": 4.0}
"""What each operation on codes adds to the loss."""


def accuracy(drop: float) -> Accuracy:
    return Accuracy("top1", "points", 90.0, 90.0 - drop, Bounds(-drop, -drop - 1, -drop + 1), drop, drop + 1, 100, "t")


class Net:
    """A network whose metric drops by its loss."""

    def __init__(self, noise: dict[str, float] = NOISE, seconds: float = 0.0) -> None:
        self.noise, self.seconds = noise, seconds
        self.losses = self.scores = 0

    def loss(self, floating: frozenset[str]) -> float:
        self.losses += 1
        time.sleep(self.seconds)
        return sum(noise for name, noise in self.noise.items() if name not in floating)

    def score(self, floating: frozenset[str]) -> Accuracy:
        self.scores += 1
        return accuracy(sum(noise for name, noise in self.noise.items() if name not in floating))

    def search(self, most: float, costs: dict[str, float] | None = None, memory: Memory | None = None) -> Search:
        mixture = Mixture(tuple(self.noise), self.loss, lambda _: ())
        return Search(
            mixture, self.score, lambda one: one.drop <= most, costs or {}, memory or Memory(), lambda _: None
        )


@pytest.mark.parametrize(("most", "wanted"), [(6.0, "b"), (2.0, "bd"), (0.7, "abd")])
def test_the_noisiest_go_back_first_and_no_more_than_needed(most: float, wanted: str) -> None:
    search = Net().search(most)
    found = search.run()
    assert found is not None
    assert (found.floating, found.accuracy.drop <= most) == (frozenset(wanted), True)
    assert search.finished


def test_what_costs_little_goes_back_before_what_costs_much() -> None:
    found = Net().search(10.0, {"a": 0.01, "b": 100.0, "c": 1.0, "d": 0.1}).run()
    assert found is not None
    assert found.floating == frozenset("d")


def test_an_operation_that_makes_it_worse_stays_on_codes() -> None:
    net = Net()
    net.loss = lambda floating: 5.0 + len(floating) * ("a" in floating) - 2.0 * ("b" in floating)  # type: ignore[method-assign]
    found = net.search(-1.0).run()
    assert found is not None
    assert found.floating == frozenset("b")


def test_the_best_so_far_where_none_holds() -> None:
    """With all of them in floating point nothing would be quantised, so that one stays on codes."""
    search = Net().search(0.0)
    found = search.run()
    assert found is not None
    assert found.floating == frozenset("abd")
    assert found.accuracy.drop == min(step.accuracy.drop for step in search.steps) == 0.5


def test_it_stops_when_the_time_is_up() -> None:
    net = Net(dict.fromkeys("abcdefghijklmnopqrstuvwxyz", 1.0), seconds=0.05)
    with limited(0.6):
        search = net.search(0.5)
        search.run()
    assert not search.finished
    assert net.losses < 20


def test_a_second_search_measures_nothing_again(tmp_path: Path) -> None:
    first, second, other = Net(), Net(), Net()
    for net, context in ((first, {"source": "1"}), (second, {"source": "1"}), (other, {"source": "2"})):
        with Workshop.opened(tmp_path) as workshop:
            found = net.search(2.0, memory=Memory(context, workshop)).run()
        assert found is not None
        assert found.floating == frozenset("bd")
    assert (second.losses, second.scores) == (0, 0)
    assert (other.losses, other.scores) == (first.losses, first.scores)


def test_figures_of_one_sample_come_back_as_they_were() -> None:
    one = replace(accuracy(1.0), difference=Bounds(-1.0, -inf, inf), worst=inf)
    for found in (one, accuracy(2.0)):
        assert Accuracy.of(json.loads(json.dumps(found.record(), allow_nan=False))) == found


def test_times_of_nodes_belong_to_the_operation_that_they_were_made_of() -> None:
    nodes = {"/a/Conv": 1.0, "/a/Conv_quant": 2.0, "/a/Conv_1": 4.0, "/a/Conv_1/QLinearConv": 8.0, "other": 16.0}
    assert by_operation(["/a/Conv", "/a/Conv_1", "/b"], nodes) == {"/a/Conv": 3.0, "/a/Conv_1": 12.0, "/b": 0.0}


def test_fused_activations_share_their_time() -> None:
    nodes = {"/a": 1.0, "Gelu": 2.0, "Gelu_token_1": 4.0, "/g3/QLinearSigmoid": 5.0}
    found = by_operation(["/a", "/g1", "/g2", "/g3"], nodes, ["/g1", "/g2", "/g3"])
    assert found == {"/a": 1.0, "/g1": 3.0, "/g2": 3.0, "/g3": 5.0}
