"""Who runs when."""

from __future__ import annotations

from collections import Counter

import pytest

from normfold.measure.schedule import LEAST_ROUNDS, MOST_ROUNDS, block_runs, schedule


@pytest.mark.parametrize("seconds", [1e-6, 3e-5, 4.9e-4, 5e-4, 5e-3, 0.09])
def test_a_block_has_ten_runs_and_five_milliseconds(seconds: float) -> None:
    runs = block_runs(seconds)
    assert runs >= 10
    assert runs * seconds >= 0.005 * (1 - 1e-9)


def test_blocks_of_slow_models_stay_short() -> None:
    assert block_runs(0.4) == 2
    assert block_runs(30.0) == 1


def test_every_round_has_every_contender_once() -> None:
    plan = schedule({"a": 1e-3, "b": 2e-3, "c": 5e-5}, 1.0, [0, 0])
    assert {tuple(sorted(turn.name for turn in turns)) for turns in plan.rounds} == {("a", "b", "c")}
    assert len(plan.rounds) == round(1.0 / (0.010 + 0.020 + 0.005))


def test_orders_are_random_and_repeatable() -> None:
    seconds = {"a": 5e-4, "b": 5e-4}
    plan = schedule(seconds, 2.0, [1, 2])
    firsts = Counter(turns[0].name for turns in plan.rounds)
    assert 60 <= firsts["a"] <= 140, firsts
    assert plan == schedule(seconds, 2.0, [1, 2])
    assert plan != schedule(seconds, 2.0, [1, 3])


def test_rounds_have_bounds() -> None:
    assert len(schedule({"a": 1.0}, 0.1, [0]).rounds) == LEAST_ROUNDS
    assert len(schedule({"a": 1e-6}, 1e6, [0]).rounds) == MOST_ROUNDS


def test_blocks_find_their_way_back() -> None:
    plan = schedule({"a": 1e-3, "b": 1e-3}, 0.2, [5])
    marked = [[index] for index, _ in enumerate(plan.blocks())]
    back = plan.by_name(marked)
    for name, blocks in back.items():
        assert len(blocks) == len(plan.rounds)
        assert all(plan.blocks()[block[0]][0] == f"{name} (0)" for block in blocks)


def test_copies_have_equally_many_turns_and_all_meet() -> None:
    plan = schedule({"a": 5e-4, "b": 5e-4}, 1.0, [3], copies=2)
    counted = Counter(turn for turns in plan.rounds for turn in turns)
    assert set(counted.values()) == {len(plan.rounds) // 2}
    pairs = {tuple(sorted((turn.name, turn.copy) for turn in turns)) for turns in plan.rounds}
    assert len(pairs) == 4
