"""The map of a network: every node in a place of its own, in the form of a screen."""

from __future__ import annotations

import numpy as np

from normfold.report.network import ASPECT, CELL, Node, fates, network_map


def chain(length: int) -> list[Node]:
    return [Node(f"n{index}", "Relu", (index - 1,) if index else ()) for index in range(length)]


def shape(found: dict) -> float:
    wide, high = (max(node[axis] for node in found["nodes"]) + CELL[axis - 2] for axis in (2, 3))
    return wide / high


def test_no_two_nodes_share_a_place() -> None:
    rng = np.random.default_rng(0)
    nodes = [Node(str(k), "Add", tuple(sorted({int(rng.integers(k)) for _ in range(min(k, 3))}))) for k in range(300)]
    found = network_map(nodes)
    assert len({(x, y) for _, _, x, y, *_ in found["nodes"]}) == 300
    assert found["edges"] == [[before, index] for index, node in enumerate(nodes) for before in node.after]


def test_a_node_stands_below_what_it_reads_within_a_column() -> None:
    places = [node[2:4] for node in network_map(chain(3))["nodes"]]
    assert [y for _, y in places] == [0, CELL[1], 2 * CELL[1]]
    assert len({x for x, _ in places}) == 1


def test_a_deep_network_gets_the_form_of_a_screen() -> None:
    assert ASPECT / 1.5 < shape(network_map(chain(2000))) < ASPECT * 1.5


def test_what_reads_nothing_stands_before_what_reads_it() -> None:
    nodes = [Node("early", "Identity"), *chain(5)]
    nodes = [nodes[0], *(Node(one.name, one.operator, tuple(k + 1 for k in one.after)) for one in nodes[1:])]
    nodes.append(Node("add", "Add", (0, 5)))
    found = network_map(nodes)["nodes"]
    assert found[0][3] == found[5][3]


def test_an_empty_network_and_the_fates() -> None:
    assert network_map([])["nodes"] == []
    assert fates(network_map([Node("a", "BN", fate="folded"), Node("b", "Relu"), Node("c", "BN", fate="kept")])) == {
        "folded": 1,
        "kept": 1,
    }
