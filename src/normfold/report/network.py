"""A network as a map: its nodes in rows by depth, the rows in columns like those of a newspaper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

CELL: Final = (164, 30)
"""Width and height that a node takes, in pixels at scale 1, with the space around it."""
ASPECT: Final = 1.8
"""Width of the map over its height, as far as whole columns allow."""


MOST_COLUMNS: Final = 60


@dataclass(frozen=True, slots=True)
class Node:
    """An operation: what it is, what became of it, in a word and in a sentence, and how long it takes."""

    name: str
    operator: str
    after: tuple[int, ...] = ()
    """Indices of the nodes, all earlier ones, whose outputs it reads."""
    fate: str = ""
    """Empty for what is no norm."""
    note: str = ""
    microseconds: float | None = None


def network_map(nodes: Sequence[Node]) -> dict[str, Any]:
    """The map as plain data: ``nodes`` as [name, operator, x, y, fate, note, microseconds], and ``edges``.

    ``nodes`` are in topological order. Deep chains are cut into columns, so that two thousand nodes still make a map
    of the form of a screen.
    """
    places = _places(nodes)
    edges = [[before, index] for index, node in enumerate(nodes) for before in node.after]
    listed = [
        [one.name, one.operator, *places[index], one.fate, one.note, one.microseconds]
        for index, one in enumerate(nodes)
    ]
    return {"nodes": listed, "edges": edges, "cell": list(CELL)}


def _places(nodes: Sequence[Node]) -> list[tuple[int, int]]:
    depths = _depths(nodes)
    lanes = _lanes(nodes, depths)
    if not nodes:
        return []
    rows = max(depths) + 1
    heights = {math.ceil(rows / columns) for columns in range(1, min(rows, MOST_COLUMNS) + 1)}
    cut = {height: _lefts(depths, lanes, height) for height in heights}
    height = min(heights, key=lambda one: abs(math.log(cut[one][-1] * CELL[0] / (one * CELL[1]) / ASPECT)))
    lefts = cut[height]
    return [
        (round((lefts[depth // height] + lane) * CELL[0]), depth % height * CELL[1])
        for depth, lane in zip(depths, lanes, strict=True)
    ]


def _lefts(depths: Sequence[int], lanes: Sequence[int], height: int) -> list[float]:
    """Where columns of ``height`` rows begin, in cells; the last entry is where they end."""
    widths = [0] * (max(depths) // height + 1)
    for depth, lane in zip(depths, lanes, strict=True):
        widths[depth // height] = max(widths[depth // height], lane + 1)
    return [0, *accumulate(width + 0.5 for width in widths)]


def _depths(nodes: Sequence[Node]) -> list[int]:
    """The row of each node: right before the first that reads it, so that branches stand where they end."""
    earliest: list[int] = []
    for node in nodes:
        earliest.append(max((earliest[before] + 1 for before in node.after), default=0))
    depths = list(earliest)
    read: dict[int, int] = {}
    for index in range(len(nodes) - 1, -1, -1):
        depths[index] = read.get(index, earliest[index] + 1) - 1
        for before in nodes[index].after:
            read[before] = min(depths[index], read.get(before, depths[index]))
    return depths


def _lanes(nodes: Sequence[Node], depths: Sequence[int]) -> list[int]:
    """For each node the lane of what it reads, or the nearest one that is free in its row."""
    taken: dict[int, set[int]] = {}
    lanes: list[int] = []
    for node, depth in zip(nodes, depths, strict=True):
        wanted = min((lanes[before] for before in node.after), default=0)
        used = taken.setdefault(depth, set())
        lane = next(lane for lane in range(wanted, wanted + len(used) + 1) if lane not in used)
        used.add(lane)
        lanes.append(lane)
    return lanes


def fates(network: Mapping[str, Any]) -> dict[str, int]:
    """How many nodes of a map have each fate, in the order in which they come."""
    tally: dict[str, int] = {}
    for _, _, _, _, fate, _, _ in network["nodes"]:
        if fate:
            tally[fate] = tally.get(fate, 0) + 1
    return tally
