"""Carries the conversions to one target out on a graph, and decides every norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from normfold.core.driver import Folding
from normfold.core.graph import Graph, Site
from normfold.core.premises import CONVERTIBLE
from normfold.core.views import AffineOp, Node, Norm
from normfold.passes.convert.conversion import Conversion, Proposal
from normfold.passes.fold.selection import Selection
from normfold.records import Decision, Pair, Refusal


@dataclass(frozen=True, slots=True)
class Converter:
    """Converts the norms of a graph that are selected to ``target``, with whichever of ``conversions`` fits each."""

    target: str
    conversions: Sequence[Conversion]
    selection: Selection = field(default_factory=Selection)

    def convert(self, graph: Graph, dropped: Mapping[str, Refusal]) -> Folding:
        """Convert what can be, but for the sites that are ``dropped``."""
        run = _Run(graph, self.target, self.selection, dropped)
        for conversion in self.conversions:
            run.carry_out(conversion)
        return run.done()


@dataclass
class _Run:
    graph: Graph
    target: str
    selection: Selection
    dropped: Mapping[str, Refusal]
    decided: dict[str, Decision] = field(default_factory=dict)
    sites: Sequence[Site] = field(init=False)
    before: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.sites = [site for site in self.graph.sites() if self._is_norm(site)]
        self.before = frozenset(self.graph.values())
        for site in self.sites:
            refusal = self.dropped.get(site.name) or self.selection.refusal(site.name)
            if refusal is not None:
                self.decided[site.name] = _kept(site, refusal)

    def _is_norm(self, site: Site) -> bool:
        """Whether ``site`` normalises, and is not some other map by constants, which no conversion is about."""
        views = [self.graph.view(node) for node in site.nodes]
        measured = any(isinstance(view, AffineOp) and view.statistics is not None for view in views)
        return site.role == "norm" and (measured or any(isinstance(view, Norm) or view.refusals for view in views))

    def carry_out(self, conversion: Conversion) -> None:
        """Convert what ``conversion`` is about and nobody has decided yet."""
        mine = dict(self._concerned(conversion))
        conversion.prepare(self.graph, tuple(mine))
        for proposal in conversion.proposals(self.graph, tuple(mine)):
            for node in proposal.norms:
                self._decide(mine[node], conversion, proposal)
            if proposal.plan is not None:
                self.graph.commit(proposal.plan)

    def _concerned(self, conversion: Conversion) -> Iterator[tuple[Node, Site]]:
        """The norms that ``conversion`` is about, each with its site."""
        for site in self.sites:
            if site.name not in self.decided:
                fitting = [node for node in site.nodes if conversion.fits(self.graph.view(node))]
                if fitting:
                    yield fitting[0], site

    def _decide(self, site: Site, conversion: Conversion, proposal: Proposal) -> None:
        plan = proposal.plan
        if plan is None:
            self.decided[site.name] = _kept(site, *proposal.refusals)
            return
        into = tuple(self.graph.name(node) for node in dict.fromkeys(plan.into))
        self.decided[site.name] = Decision(
            site.name, site.norm, "converted", into, plan.rules, to=self.target, label=conversion.label
        )

    def done(self) -> Folding:
        """What was decided. A norm that no conversion is about says so."""
        for site in self.sites:
            if site.name not in self.decided:
                because = f"nothing makes a {site.norm} the kind of norm that was asked for, {self.target!r}, exactly"
                self.decided[site.name] = _kept(site, Refusal(CONVERTIBLE, because))
        shared = self.before & frozenset(self.graph.values())
        pairs = tuple(
            Pair(site.output, site.output, (site.name,))
            for site in self.sites
            if self.decided[site.name].outcome == "converted" and site.output in shared
        )
        return Folding(tuple(self.decided[site.name] for site in self.sites), pairs)


def _kept(site: Site, *refusals: Refusal) -> Decision:
    return Decision(site.name, site.norm, "kept", refused_by=tuple(dict.fromkeys(refusals)))
