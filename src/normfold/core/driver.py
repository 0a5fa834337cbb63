"""Decides every norm of a model, and folds those that can go.

The order of the rules does not matter; that of the phases does, and is this. What changes nothing goes first, so that
it hides no norm. Then rounds, until one changes nothing: every norm, in topological order, looks for a way out, and
every rewrite is carried out wherever it can be. Where a round changes nothing, norms that stay go behind the poolings
that read them; where that changes nothing either, average poolings go before the pointwise convolutions that they
follow, and at last biases of matrix products into additions that are made anyway.
Of two norms in a row of which one can go into the other, the order decides which: the first one that is asked.

It ends, since every plan that is committed makes this smaller, in the order of a dictionary: how many maps that scale
there are, how many operations, how many norms with a scale or shift of their own, how many biases, how far poolings
stand from the start, and how far the maps stand from the end.

- A fold takes an operation out. One that inserts additions takes out a map that scales, or more than it inserts.
- A rewrite takes operations out, or a bias.
- The scale and shift of a norm's own go into what reads it, which may get biases from them.
- A bias that goes elsewhere goes only where one is already.
- A pooling that goes before a convolution comes nearer to the start.
- A norm that goes behind a pooling comes nearer to the end than what it passes gets away from it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from normfold import limits
from normfold.core.algebra import Shuffle
from normfold.core.conditions import conditioned
from normfold.core.costs import CostTable, cost_table
from normfold.core.graph import Graph, Site, maker
from normfold.core.origins import BIASES, SHUFFLES, Origin, Use
from normfold.core.plan import Move, Plan
from normfold.core.premises import DOES_NOT_PAY, SELECTED, UNSHARED_WEIGHT, VERIFICATION_FAILED
from normfold.core.rules import IDENTITIES, MOVES, POOLINGS, REWRITES, Rewrite
from normfold.core.search import Search
from normfold.core.statistics import Known, commit, known_statistics, surviving
from normfold.core.views import AffineOp, Linear, Moving, Node, Norm, View, unquantized
from normfold.records import Decision, Outcome, Pair, Refusal, SiteReport, StatisticsRecord

ALTERNATIVES = 32
"""Plans compared for one norm; the first that inserts nothing is taken at once."""
SMALL = 1024
"""Elements of shared weights that a scale may copy: with the operation itself, about as much goes from the file."""


@dataclass(frozen=True)
class Folding:
    """What a run decided, and the values that must agree with the source's."""

    decisions: tuple[Decision, ...]
    pairs: tuple[Pair, ...]
    records: tuple[StatisticsRecord, ...] = ()
    """What the norms knew about values that the result has."""


@dataclass
class _SiteState:
    """What has become of one site so far."""

    site: Site
    beside: list[Node] = field(default_factory=list)
    """Arithmetic that came to stand next to the site as others went, and may go with it."""
    gone: set[Node] = field(default_factory=set)
    moved: list[Node] = field(default_factory=list)
    partly: bool = False
    into: list[Node] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    refusals: dict[Node, list[Refusal]] = field(default_factory=dict)
    """Why no way was found for a node, at the last try."""
    objections: dict[Node, list[Refusal]] = field(default_factory=dict)
    """Why no rewrite took a node, in the last round."""
    excluded: Refusal | None = None

    @property
    def left(self) -> list[Node]:
        return [node for node in self.site.nodes if node not in self.gone]

    @property
    def open(self) -> list[Node]:
        """Nodes that may go, if there is a way."""
        if self.excluded is not None or self.site.refusals:
            return []
        return [*self.left, *(node for node in self.beside if node not in self.gone)]

    def telling(self, *, original: bool) -> bool:
        """Whether there is a decision where nothing has gone: a scale is told of only where it is at fault."""
        if self.site.role == "norm":
            return original
        return self.excluded is not None and self.excluded.premise == VERIFICATION_FAILED


@dataclass
class _Run:
    """A graph on its way: what is known of its values now, and which site each node belongs to."""

    graph: Graph
    known: dict[str, Known] = field(default_factory=dict)
    owner: dict[Node, _SiteState] = field(default_factory=dict)
    excluded: set[Node] = field(default_factory=set)
    """The nodes of the sites that must stay."""

    def assign(self, nodes: Collection[Node], holder: _SiteState) -> None:
        """Let ``nodes`` belong to ``holder``."""
        self.owner.update(dict.fromkeys(nodes, holder))
        if holder.excluded is not None:
            self.excluded.update(nodes)

    def commit(self, plan: Plan) -> None:
        """Carry out ``plan``."""
        _book(plan, self.owner)
        commit(self.graph, plan, self.known)


def fold(
    graph: Graph,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    exclude: Mapping[str, Refusal] | None = None,
    costs: CostTable | None = None,
) -> Folding:
    """Fold every norm of ``graph`` that can be, and decide each.

    ``only`` and ``skip`` are glob patterns on site names. ``exclude`` names sites that must stay, with the reason.
    What is inserted has to pay by ``costs``, those of the default provider.
    The graph is changed in place, one whole plan at a time.
    """
    before, table = graph.values(), costs or cost_table()
    run = _Run(graph, known_statistics(graph))
    _tidy(run)
    owner = run.owner

    def enlist() -> list[_SiteState]:
        """The norms in sight that were not before: merging branches uncovers the scale behind them."""
        found = []
        for site in graph.sites():
            new = [node for node in site.nodes if node not in owner]
            if len(new) == len(site.nodes):
                found.append(_SiteState(site, excluded=excluded(site.name, only, skip, exclude or {})))
                run.assign(new, found[-1])
            elif new:
                holder = next(owner[node] for node in site.nodes if node in owner)
                holder.beside += new
                run.assign(new, holder)
        return found

    states = enlist()
    stated = len(states)
    progress = True
    while progress:
        progress = False
        for state in states:
            for node in state.open:
                progress |= _try(run, node, table)
        progress |= _rewrite(run, REWRITES)
        progress |= _send(run, SHUFFLES, graph.nodes())
        known = len(owner)
        states += enlist()
        progress |= len(owner) > known
        progress = progress or _at_last(run, table)
    # What only the folds made a norm is no norm of the model's where it stays, and neither is a scale.
    states = [state for k, state in enumerate(states) if state.gone or state.telling(original=k < stated)]
    decisions = tuple(_decide(graph, state) for state in states)
    return Folding(decisions, tuple(_pairs(graph, states, set(before) & set(graph.values()))), _kept(run))


def inspect(graph: Graph) -> tuple[tuple[SiteReport, ...], tuple[StatisticsRecord, ...]]:
    """Every norm of ``graph``, its health, and what `fold` would decide; what they know. Uses the graph up."""
    records = surviving(known_statistics(graph), graph.origins())
    _tidy(_Run(graph))
    sites = graph.sites()
    decisions = {decision.site: decision for decision in fold(graph).decisions}
    norms = [site for site in sites if site.role == "norm"]
    reports = tuple(SiteReport(s.name, s.norm, s.shape, s.health, decisions[s.name]) for s in norms)
    return reports, records


def _kept(run: _Run) -> tuple[StatisticsRecord, ...]:
    """What is known of the values that are left, which the model carries from now on."""
    records = surviving(run.known, run.graph.origins())
    if records or run.graph.records() is not None:
        run.graph.keep(records)
    return records


def _tidy(run: _Run) -> None:
    """Take out what changes nothing and is no norm, so that it hides none."""
    while _rewrite(run, IDENTITIES, spared=_norms(run.graph)):
        pass


def _norms(graph: Graph) -> set[Node]:
    """What makes up norms: each has a decision, even where it changes nothing."""
    return {node for site in graph.sites() if site.role == "norm" for node in site.nodes}


def excluded(name: str, only: Sequence[str], skip: Sequence[str], exclude: Mapping[str, Refusal]) -> Refusal | None:
    """Why the norm at the site ``name`` must stay, if it must."""
    if name in exclude:
        return exclude[name]
    if only and not any(fnmatchcase(name, pattern) for pattern in only):
        return Refusal(SELECTED, f"no --only pattern matches {name!r}")
    pattern = next((pattern for pattern in skip if fnmatchcase(name, pattern)), None)
    return None if pattern is None else Refusal(SELECTED, f"--skip {pattern!r} matches it")


def _try(run: _Run, node: Node, table: CostTable) -> bool:
    limits.check()
    norm = run.owner[node].site.role == "norm"
    search = Search(run.graph, run.excluded, undoes=norm)
    plan = _best(run.graph, node, search, table, copies=norm)
    if plan is None:
        run.owner[node].refusals[node] = search.refusals
        return False
    run.commit(plan)
    return True


def _rewrite(run: _Run, rules: Sequence[Rewrite[Any, Any]], spared: Collection[Node] = ()) -> bool:
    """Carry out every one of ``rules``, each of which makes the model smaller by itself, but for ``spared`` nodes."""
    progress = False
    for state in run.owner.values():
        state.objections.clear()
    for rule in rules:
        for node in [node for node in run.graph.nodes() if node not in spared]:
            while (plan := _next_plan(run, rule, node)) is not None:
                run.commit(plan)
                progress = True
                if plan.bypasses(node):
                    break
    return progress


def _at_last(run: _Run, table: CostTable) -> bool:
    """What is done only where nothing else is left to do, as far as it pays: the first of it that does anything."""
    return (
        (table.moves_past_pools and _relocate(run))
        or (table.pools_first and _pool_first(run))
        or (table.moves_biases and _send(run, BIASES, [node for node in run.graph.nodes() if node not in run.owner]))
    )


def _relocate(run: _Run) -> bool:
    """Move norms that stay to where they cost less."""
    progress = False
    for rule in MOVES:
        for node in [node for node in reversed(list(run.owner)) if _may_move(run.owner[node], node)]:
            plan = _next_plan(run, rule, node)
            if plan is not None:
                run.commit(plan)
                progress = True
    return progress


def _pool_first(run: _Run) -> bool:
    """Move poolings before what has fewer positions to see then; no norm takes part."""
    progress = False
    for rule in POOLINGS:
        for node in run.graph.nodes():
            plan = _next_plan(run, rule, node)
            if plan is not None:
                run.commit(plan)
                progress = True
    return progress


def _send(run: _Run, use: Use, nodes: Iterable[Node]) -> bool:
    """Send the maps of ``nodes`` out on their routes, for one ``use``, and carry out what is worth it."""
    progress = False
    for node in nodes:
        for origin in use.origins(run.graph.view(node)):
            search = Search(run.graph, run.excluded)
            plan = _worth(run, search, use, origin)
            if plan is not None:
                run.commit(plan)
                progress = True
                break
            if node in run.owner:
                run.owner[node].objections.setdefault(node, []).extend(search.refusals)
    return progress


def _worth(run: _Run, search: Search, use: Use, origin: Origin) -> Plan | None:
    """The first plan for a map from ``origin`` that can be carried out and serves its ``use``."""
    limits.check()
    for plan in search.route(origin):
        refused = run.graph.unable(plan) or _left_out(run, plan)
        if refused is not None:
            search.refuse(refused)
        elif use.worth(run.graph, plan):
            return plan
    return None


def _may_move(holder: _SiteState, node: Node) -> bool:
    return holder.site.role == "norm" and node in holder.open


def _next_plan(run: _Run, rule: Rewrite[Any, Any], node: Node) -> Plan | None:
    """The first plan of ``rule`` around ``node``. Why other places have none is noted for the norms that take part."""
    limits.check()
    graph, owner = run.graph, run.owner
    view = graph.view(node)
    for place, answer in rule.answers(graph, view) if isinstance(view, rule.view) else ():
        plan = answer if isinstance(answer, Plan) else None
        refused = answer if isinstance(answer, Refusal) else graph.unable(answer) or _left_out(run, answer)
        if refused is None:
            return plan
        concerned = {part.node for part in place.parts}.union(() if plan is None else plan.gone)
        for held in concerned & owner.keys():
            owner[held].objections.setdefault(held, []).append(refused)
    return None


def _left_out(run: _Run, plan: Plan) -> Refusal | None:
    """Why the plan may not be carried out: it touches what the user left out."""
    touched = (*plan.gone, *(view.node for view in plan.views))
    left_out = next((node for node in touched if node in run.excluded), None)
    if left_out is None:
        return None
    return Refusal(SELECTED, f"{run.graph.label(left_out)}, which was left out, would have to go with it")


def _book(plan: Plan, owner: Mapping[Node, _SiteState]) -> None:
    """Note at the sites which of their nodes go, and where to."""
    tails = {view.node for view in plan.views if isinstance(view, Norm) and view.node not in plan.into}
    moved = {edit.node for edit in plan.each(Move)}
    for node in (*plan.gone, *moved, *tails):
        holder = owner.get(node)
        if holder is not None:
            holder.gone |= {node} - tails - moved
            holder.moved += [node] if node in moved else []
            holder.partly |= node in tails
            holder.into += [target for target in plan.into if target not in holder.into]
            holder.rules += [rule for rule in plan.rules if rule not in holder.rules]


def _best(graph: Graph, node: Node, search: Search, table: CostTable, *, copies: bool) -> Plan | None:
    """The first plan that inserts nothing, else the cheapest, if it pays by ``table``.

    Where it ``copies``, weights that other operations read may be stored once more for it.
    """
    inserting = []
    for plan in islice(search.ways_out(node), ALTERNATIVES):
        unable = graph.unable(plan) or (None if copies else _shared(graph, plan))
        if unable is not None:
            search.refuse(unable)
            continue
        if not plan.inserts:
            return plan
        inserting.append((plan, table.judge(graph, plan)))
    if not inserting:
        return None
    plan, verdict = min(inserting, key=lambda one: one[1].ratio)
    if table.allows(verdict):
        return plan
    search.refusals.append(Refusal(DOES_NOT_PAY, verdict.because))
    return None


def _shared(graph: Graph, plan: Plan) -> Refusal | None:
    """Why ``plan`` takes more room than a scale is worth."""
    copied = graph.copied(plan)
    if copied <= SMALL:
        return None
    into = ", ".join(graph.label(node) for node in plan.into[:3])
    return Refusal(UNSHARED_WEIGHT, f"{copied:,} numbers that {into} share with others would be stored once more")


def _decide(graph: Graph, state: _SiteState) -> Decision:
    site = state.site
    refused: tuple[Refusal, ...] = () if state.excluded is None else (state.excluded,)
    if state.excluded is None:
        said = (state.refusals, state.objections)
        kept = [refusal for reasons in said for node in state.left for refusal in reasons.get(node, ())]
        condition = conditioned(graph, state.left) if state.left and site.role == "norm" else None
        told = [] if condition is None else [condition]
        refused = tuple(dict.fromkeys([*site.refusals, *kept, *told]))
    outcome = _outcome(graph, state)
    into = tuple(graph.name(node) for node in dict.fromkeys(state.into))
    return Decision(
        site.name,
        site.norm,
        outcome,
        into,
        tuple(dict.fromkeys(state.rules)),
        () if outcome == "folded" else refused,
        role=site.role,
    )


def _outcome(graph: Graph, state: _SiteState) -> Outcome:
    if not state.gone and not state.partly:
        return "lowered" if state.moved else "kept"
    if not state.partly and len(state.left) == 1 and isinstance(graph.view(state.left[0]), Norm):
        return "lowered"
    rest = [node for node in state.left if not _only_passes(graph, node) and not _only_shifts(graph, node)]
    return "part-folded" if rest else "folded"


def _only_passes(graph: Graph, node: Node) -> bool:
    """Whether ``node`` leaves its input as it is; one that puts channels in another order does not."""
    view = graph.view(node)
    return isinstance(view, Moving) and not any(isinstance(move, Shuffle) for move in view.moves)


def _only_shifts(graph: Graph, node: Node) -> bool:
    """Whether ``node`` is an addition, which serves the linear operation before it as its bias."""
    view = graph.view(node)
    if not isinstance(view, AffineOp) or view.affine.scales or view.holds_scale:
        return False
    before: View | None = view
    while isinstance(before, AffineOp | Moving):
        before = maker(graph, before.inputs[0])
    return before is not None and isinstance(unquantized(before), Linear)


def _pairs(graph: Graph, states: Sequence[_SiteState], shared: Collection[str]) -> list[Pair]:
    """For every norm that went, the first values after it that both models have."""
    out = []
    for state in states:
        if state.gone or state.partly or state.moved:
            into = [*state.into, *state.moved]
            after = [graph.value_name(value) for node in into for value in graph.view(node).outputs]
            names = [state.site.output] if state.site.output in shared else [name for name in after if name in shared]
            out += [Pair(name, name, (state.site.name,)) for name in names]
    return out
