"""Carries the conversions to one target out on a graph, and decides every norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from normfold.core import driver
from normfold.core.conditions import conditioned
from normfold.core.driver import Folding
from normfold.core.graph import Graph, Site
from normfold.core.premises import CONVERTIBLE, SELECTED
from normfold.core.views import Linear, Node
from normfold.passes.convert.conversion import Asked, Cell, Conversion, Kind, Proposal, Target
from normfold.passes.convert.kinds import is_norm, kind_at
from normfold.passes.convert.matrix import ALREADY, MATRIX
from normfold.passes.fold.selection import Selection
from normfold.records import EXACT, Decision, Pair, Refusal

WEIGHT: Final[Kind] = "weight"
WEIGHT_NORM: Final = "WeightNorm"
"""What the norm of a weight is called, whichever it is."""
FOLDED: Final = frozenset({"static", "tanh"})
"""What norms become whose affine maps go elsewhere."""


@dataclass(frozen=True, slots=True)
class Converter:
    """Converts the norms of a graph that are selected, and of the kind ``source`` if that is given, as ``asked``."""

    asked: Asked
    selection: Selection = field(default_factory=Selection)
    source: Kind | None = None

    def convert(self, graph: Graph, dropped: Mapping[str, Refusal]) -> Folding:
        """Convert what can be, but for the sites that are ``dropped``."""
        run = _Run(graph, self, dropped)
        for kind in dict.fromkeys(kind for _, _, kind in run.norms):
            for cell in MATRIX[kind][self.asked.target]:
                run.go(kind, cell)
        return run.folded() if self.asked.target in FOLDED else run.done()


@dataclass
class _Run:
    graph: Graph
    converter: Converter
    dropped: Mapping[str, Refusal]
    decided: dict[str, Decision] = field(default_factory=dict)
    refusals: dict[str, list[Refusal]] = field(default_factory=dict)
    """Why ways that were tried are not open."""
    sites: Sequence[Site] = field(init=False)
    before: frozenset[str] = field(init=False)
    norms: list[tuple[Site, Node, Kind]] = field(default_factory=list)
    """Norms that a conversion is about, and that nobody left out."""
    refused: dict[str, Refusal] = field(default_factory=dict)
    """Why norms stay, whatever could be done."""

    def __post_init__(self) -> None:
        self.sites = [site for site in self.graph.sites() if is_norm(self.graph, site)]
        self.sites = [*self.sites, *self._weights()]
        self.before = frozenset(self.graph.values())
        for site in self.sites:
            found = (site.nodes[0], WEIGHT) if site.norm == WEIGHT_NORM else kind_at(self.graph, site)
            refusal = self._refusal(site, None if found is None else found[1])
            if refusal is not None:
                self.refused[site.name] = refusal
            elif found is not None:
                self.norms.append((site, *found))

    def _weights(self) -> Iterator[Site]:
        """Operations that normalise their weight, where that is what is asked about: they are no norms of values."""
        if self.converter.asked.target not in FOLDED and self.converter.source != WEIGHT:
            return
        for node in self.graph.nodes():
            view = self.graph.view(node)
            if isinstance(view, Linear) and self.graph.normalised_by(node):
                output = view.outputs[0]
                name, shape = self.graph.name(node), self.graph.shape(output)
                yield Site(name, WEIGHT_NORM, (node,), shape, self.graph.value_name(output))

    def _refusal(self, site: Site, kind: Kind | None) -> Refusal | None:
        """Why the norm at ``site`` stays, whatever could be done."""
        refusal = self.dropped.get(site.name) or self.converter.selection.refusal(site.name)
        if refusal is not None:
            return refusal
        wanted, target = self.converter.source, self.converter.asked.target
        if wanted not in (None, kind):
            return Refusal(SELECTED, f"--from {wanted} asks for norms of another kind than a {site.norm}")
        if kind is None:
            views = [self.graph.view(node) for node in site.nodes]
            told = [refusal for view in views for refusal in view.refusals]
            because = f"nothing makes a {site.norm} the kind of norm that was asked for, {target!r}"
            return told[0] if told else Refusal(CONVERTIBLE, because)
        if MATRIX[kind][target] is ALREADY:
            return Refusal(CONVERTIBLE, f"a {site.norm} is of the kind that was asked for, {target!r}, already")
        return None

    def go(self, kind: Kind, cell: Cell) -> None:
        """Convert the norms of ``kind`` that nobody has decided yet by ``cell``."""
        mine = {node: site for site, node, own in self.norms if own == kind and site.name not in self.decided}
        for site in mine.values():
            refusal = cell.refusal(site.norm, self.converter.asked)
            if refusal is not None:
                self.refusals.setdefault(site.name, []).append(refusal)
        if mine and cell.conversion is not None and cell.refusal("norm", self.converter.asked) is None:
            self._carry_out(cell, cell.conversion, mine)

    def _carry_out(self, cell: Cell, conversion: Conversion, mine: Mapping[Node, Site]) -> None:
        conversion.prepare(self.graph, tuple(mine))
        for proposal in conversion.proposals(self.graph, tuple(mine), self.converter.asked):
            for node in proposal.norms:
                self._decide(mine[node], node, cell, proposal)
            if proposal.plan is not None:
                self.graph.commit(proposal.plan)

    def _decide(self, site: Site, node: Node, cell: Cell, proposal: Proposal) -> None:
        plan = proposal.plan
        if plan is None:
            self.refusals.setdefault(site.name, []).extend(proposal.refusals)
            return
        into = tuple(self.graph.name(node) for node in dict.fromkeys(plan.into))
        certificate = replace(proposal.certificates.get(node, cell.certificate), label=cell.certificate.label)
        self.decided[site.name] = Decision(
            site.name,
            site.norm,
            "converted",
            into,
            plan.rules,
            to=self.converter.asked.target,
            certificate=certificate,
        )

    def folded(self) -> Folding:
        """What was decided, with the norms folded that are affine maps: that is what becomes of those."""
        own = self.done()
        target = self.converter.asked.target
        affine = [site.name for site, _, kind in self.norms if MATRIX[kind][target][0].label == "exact"]
        static = {*affine, *(one.site for one in own.decisions if one.outcome == "converted")}
        others = Refusal(SELECTED, "it was not to become an affine map")
        exclude = {site.name: others for site in self.graph.sites() if site.name not in static}
        done = driver.fold(self.graph, exclude=exclude)
        found = {one.site: one for one in done.decisions if one.site in static}
        decisions = tuple(_as_asked(one, found.get(one.site, one), target) for one in own.decisions)
        return replace(done, decisions=decisions)

    def done(self) -> Folding:
        """What was decided. A norm that stays says why."""
        for site in self.sites:
            if site.name not in self.decided:
                refusal = self.refused.get(site.name)
                condition = None if site.norm == WEIGHT_NORM else conditioned(self.graph, site.nodes)
                told = [*self.refusals.get(site.name, []), *([] if condition is None else [condition])]
                self.decided[site.name] = _kept(site, *(told if refusal is None else [refusal]))
        shared = self.before & frozenset(self.graph.values())
        pairs = tuple(
            Pair(site.output, site.output, (site.name,))
            for site in self.sites
            if self.decided[site.name].outcome == "converted" and site.output in shared
        )
        return Folding(tuple(self.decided[site.name] for site in self.sites), pairs)


def _as_asked(own: Decision, folded: Decision, target: Target) -> Decision:
    """What became of a norm that is affine maps around what is left: they went, or it is another one, or stays."""
    if folded.outcome == "folded":
        return replace(folded, outcome="converted", to=target, certificate=own.certificate or EXACT)
    open_to_folds = [refusal.premise for refusal in own.refused_by] == [CONVERTIBLE]
    return folded if own.outcome == "kept" and open_to_folds else own


def _kept(site: Site, *refusals: Refusal) -> Decision:
    return Decision(site.name, site.norm, "kept", refused_by=tuple(dict.fromkeys(refusals)))
