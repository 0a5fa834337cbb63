"""Which model runs when: rounds of one block a candidate, each round in an order of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

LEAST_RUNS: Final = 10
LEAST_SECONDS: Final = 0.005
"""A block has this many runs and takes this long at the least, so that clock and hand-over do not count."""
LONGEST_SECONDS: Final = 1.0
"""Blocks of slow models have fewer runs than `LEAST_RUNS` where they would take longer: a long run averages itself."""
LEAST_ROUNDS: Final = 5
MOST_ROUNDS: Final = 400


@dataclass(frozen=True, slots=True)
class Turn:
    """One block: whose, and which of its sessions."""

    name: str
    copy: int

    @property
    def session(self) -> str:
        """Name of that session in a worker."""
        return f"{self.name} ({self.copy})"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Blocks in order, ``rounds[r]`` being one turn for each candidate; runs of a block by name."""

    rounds: tuple[tuple[Turn, ...], ...]
    runs: Mapping[str, int]

    def blocks(self) -> list[tuple[str, int]]:
        """As a worker's request has them."""
        return [(turn.session, self.runs[turn.name]) for turns in self.rounds for turn in turns]

    def by_name(self, blocks: Sequence[Sequence[int]]) -> dict[str, list[Sequence[int]]]:
        """The blocks of every candidate, one a round, from the worker's list of them."""
        sorted_out: dict[str, list[Sequence[int]]] = {name: [] for name in self.runs}
        turns = (turn for turns in self.rounds for turn in turns)
        for turn, block in zip(turns, blocks, strict=True):
            sorted_out[turn.name].append(block)
        return sorted_out


def block_runs(seconds: float) -> int:
    """Runs in a block of a model that takes ``seconds`` a run."""
    wanted = max(LEAST_RUNS, math.ceil(LEAST_SECONDS / seconds))
    return max(1, min(wanted, math.floor(LONGEST_SECONDS / seconds)))


def schedule(seconds: Mapping[str, float], budget: float, seed: Sequence[int], copies: int = 1) -> Schedule:
    """Rounds that take ``budget`` seconds together, given the ``seconds`` that each model takes a run.

    Their number does not depend on what is measured later. Each candidate's ``copies`` have equally many turns, in an
    order of their own, so that any two of them meet. Equal seeds give equal schedules.
    """
    runs = {name: block_runs(one) for name, one in seconds.items()}
    a_round = sum(runs[name] * one for name, one in seconds.items())
    count = min(MOST_ROUNDS, max(LEAST_ROUNDS, round(budget / a_round)))
    generator, names = np.random.default_rng(seed), list(seconds)
    whose = [generator.permutation(np.arange(count) % copies) for _name in names]
    orders = (generator.permutation(len(names)) for _ in range(count))
    rounds = (
        tuple(Turn(names[index], int(whose[index][number])) for index in order) for number, order in enumerate(orders)
    )
    return Schedule(tuple(rounds), runs)
