"""What is to be done to a graph: typed edits along one whole route, committed together or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import TypeVar

from normfold.core.algebra import Affine, Map
from normfold.core.algebra.affine import Array
from normfold.core.views import AffineOp, Node, Spelling, Value, View


@dataclass(frozen=True, slots=True, eq=False)
class SetView:
    """The operation of ``view.node`` gets the constants of ``view``."""

    view: View


@dataclass(frozen=True, slots=True, eq=False)
class SetConstant:
    """``value``, which the model stores and operations read as data, holds ``array`` from now on."""

    value: Value
    array: Array


@dataclass(frozen=True, slots=True, eq=False)
class Replace:
    """The operation of ``view.node`` becomes another one, that of ``view``: an RMSNorm where a LayerNorm was.

    It reads and makes the same values; the node stays the same to those who look at the graph.
    """

    view: View


@dataclass(frozen=True, slots=True, eq=False)
class Respell:
    """The operation of ``view.node`` is made of that of another kind of norm, ``by``, and computes the same."""

    view: View
    by: Spelling


@dataclass(frozen=True, slots=True, eq=False)
class Bypass:
    """``node`` goes, and whatever read its output reads ``value``, one of its inputs.

    ``same`` says whether ``value`` then holds what the output held, so that the output's name becomes its own.
    """

    node: Node
    value: Value
    same: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Remove:
    """``node`` goes, since the other edits leave it without readers."""

    node: Node


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """``node``, with its constants, goes behind ``behind``, the operation that reads it."""

    node: Node
    behind: Node


@dataclass(frozen=True, slots=True, eq=False)
class Insert:
    """A new operation between the input of ``view`` and all its readers, or ``reader`` alone where it is set.

    ``view`` has no node yet. What the insertion costs is read off it.
    """

    view: AffineOp
    reader: Node | None = None

    @staticmethod
    def of(value: Value, affine: Affine, reader: Node | None = None) -> Insert:
        """Arithmetic that maps ``value`` by ``affine``."""
        view = AffineOp(
            node=None,
            op="",
            inputs=(value,),
            outputs=(),
            affine=affine,
            holds_scale=affine.scales,
            holds_shift=affine.shifts,
            largest=inf,
        )
        return Insert(view, reader)

    @property
    def value(self) -> Value:
        """What the new operation reads."""
        return self.view.inputs[0]


Edit = SetView | SetConstant | Replace | Respell | Bypass | Remove | Insert | Move
E = TypeVar("E", SetView, SetConstant, Replace, Respell, Bypass, Remove, Insert, Move)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """``value`` is to hold ``map`` of what it held or, ``undone``, what the map makes that of.

    No map where what it is to hold cannot be told from what it held.
    """

    value: Value
    map: Map | None = None
    undone: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All the edits of one fold.

    Each edit speaks of the graph as it is before any of them, so that their order says nothing; only insertions at
    one value follow each other. A node has one `SetView`, `Replace` or `Respell` at most. ``changed`` are values whose
    content in the result is not that of the value of the same name in the source, and how. ``into`` are the nodes that
    absorbed something, ``rules`` the names of the rules on the route.
    """

    edits: tuple[Edit, ...] = ()
    changed: tuple[Change, ...] = ()
    into: tuple[Node, ...] = ()
    rules: tuple[str, ...] = ()

    def each(self, kind: type[E]) -> Iterator[E]:
        """The edits of one kind."""
        return (edit for edit in self.edits if isinstance(edit, kind))

    def view(self, node: Node) -> View | None:
        """The view that ``node`` gets, if it gets one."""
        return next((view for view in self.views if view.node == node), None)

    @property
    def views(self) -> tuple[View, ...]:
        """The views that nodes get."""
        return tuple(edit.view for edit in self.edits if isinstance(edit, SetView | Replace | Respell))

    def bypasses(self, node: Node) -> bool:
        """Whether ``node`` goes, and its input takes its output's place."""
        return any(edit.node == node for edit in self.each(Bypass))

    @property
    def gone(self) -> tuple[Node, ...]:
        """The nodes that go."""
        return tuple(edit.node for edit in self.edits if isinstance(edit, Bypass | Remove))

    @property
    def inserts(self) -> bool:
        """Whether anything is put in, which has to pay."""
        return any(isinstance(edit, Insert) for edit in self.edits)

    def adding(self, *edits: Edit) -> Plan:
        """This plan with further edits."""
        return replace(self, edits=(*self.edits, *edits))

    def with_view(self, view: View) -> Plan:
        """This plan with ``view`` in place of its node's, which stays a replacement if it is one."""
        kinds = SetView | Replace | Respell
        mine = [edit for edit in self.edits if isinstance(edit, kinds) and edit.view.node == view.node]
        changed = replace(mine[0], view=view) if mine else SetView(view)
        return replace(self, edits=(*(edit for edit in self.edits if edit not in mine), changed))
