"""`advise`: what the norms of a model cost, what they could become, and what to choose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.bare import mark, take_out
from normfold.errors import NormfoldError
from normfold.limits import limited
from normfold.measure.candidate import Candidate, Conditions, Effort
from normfold.measure.experiment import Experiment
from normfold.measure.figures import Cell
from normfold.measure.run import measure
from normfold.models.data import Arrays, Shapes, user_inputs
from normfold.models.source import File, OnnxModel, OnnxSource, module_of, name_of, onnx_source, runnable
from normfold.passes.convert.advice import Advised, advised
from normfold.passes.fold import onnx_model
from normfold.proof.probes import input_specs
from normfold.records import Progress, finite, silent
from normfold.report.blocks import Block, Blocks, Column, Detail, Heading, Paragraph, Table
from normfold.report.result import Result
from normfold.report.words import plural
from normfold.runtime import CHECKER
from normfold.runtime.session_profile import Use
from normfold.runtime.targets import LOCAL
from normfold.verbs.timing import session_settings

if TYPE_CHECKING:
    from torch import nn

EFFORT: Final = Effort(first=3, most=3, time_limit=20.0, per_process=1.0, copies=1, control=False)
"""A share needs no more than this: it is no comparison."""
SECONDS: Final = 300.0
WITHOUT: Final = "without its norms"


@dataclass(frozen=True, slots=True)
class NormCost:
    """A norm with its advice, and what it takes of a run.

    ``share`` is that of the time of all nodes, ``microseconds`` the time of its own ones; None where it was not
    measured. Both are zero where ONNX Runtime has folded it into a neighbour as it loaded the model. ``fold`` is what
    `normfold.fold` would make of it.
    """

    advised: Advised
    fold: str
    share: float | None = None
    microseconds: float | None = None

    def record(self) -> dict[str, Any]:
        """As plain data."""
        one = self.advised
        return {
            "site": one.site,
            "norm": one.norm,
            "kind": one.kind,
            "fold": self.fold,
            "share": finite(self.share),
            "microseconds": finite(self.microseconds),
            "options": [{"to": option.to, "label": option.label, "says": option.says} for option in one.options],
            "choose": [{"for": choice.purpose, "to": choice.to, "why": choice.why} for choice in one.choices],
        }


@dataclass(frozen=True, slots=True, repr=False)
class AdviceResult(Result):
    """What the norms of a model cost and could become.

    ``bound`` is the time of the same network with its norms taken out over its own: no conversion is faster.
    """

    norms: tuple[NormCost, ...]
    bound: float | None = None
    milliseconds: float | None = None
    """Of a run of the model."""
    refused: NormfoldError | None = None
    """Why nothing was measured."""
    source: str | None = None

    @property
    def share(self) -> float | None:
        """That of all norms together."""
        known = [one.share for one in self.norms if one.share is not None]
        return math.fsum(known) if known else None

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """A row for every norm, the bound, and what to choose for norms of each kind."""
        named = self.source is not None and detail > Detail.SUMMARY
        return (
            *((Heading(str(self.source)),) if named else ()),
            *(() if detail == Detail.SUMMARY else self._tables()),
            Paragraph(self._summary()),
        )

    def _tables(self) -> Iterator[Block]:
        columns = Column("norm"), Column("kind"), Column("share", "right"), Column("fold"), Column("could become")
        yield Table(columns, tuple(_row(one) for one in self.norms))
        for kind in dict.fromkeys(one.advised.kind for one in self.norms if one.advised.kind is not None):
            choices = next(one.advised.choices for one in self.norms if one.advised.kind == kind)
            yield Heading(f"What to choose for a norm of the kind {kind!r}")
            rows = tuple((choice.purpose, choice.to or "leave it", choice.why) for choice in choices)
            yield Table((Column("for"), Column("choose"), Column("since")), rows)

    def _summary(self) -> str:
        if self.refused is not None:
            return f"{plural(len(self.norms), 'norm')}; nothing was measured: {self.refused.message}"
        if self.share is None or self.bound is None:
            return f"{plural(len(self.norms), 'norm')}"
        return (
            f"{plural(len(self.norms), 'norm')} take {self.share:.1%} of the time of a run; with its norms taken out, "
            f"the same network takes {self.bound:.1%} of it, and no conversion is faster"
        )

    def document(self) -> dict[str, Any]:
        """The norms, what they cost, and the bound."""
        refused = self.refused
        return {
            "source": self.source,
            "norms": [one.record() for one in self.norms],
            "share": finite(self.share),
            "bound": finite(self.bound),
            "milliseconds": finite(self.milliseconds),
            "refused": None if refused is None else {"code": refused.code, "message": refused.message},
        }


def _row(one: NormCost) -> tuple[str, ...]:
    share = "" if one.share is None else f"{one.share:.1%}"
    exact = (option for option in one.advised.options if option.label != "needs-training")
    options = ", ".join(f"{option.to} ({option.label})" for option in exact)
    return one.advised.site, str(one.advised.kind or one.advised.norm), share, one.fold, options


def advise(
    model: OnnxModel | nn.Module,
    example_inputs: Any = None,
    *,
    ep: str = "cpu",
    batch: int | None = None,
    threads: int = 1,
    use: Use = "server",
    shapes: Shapes | None = None,
    inputs: Arrays | File | None = None,
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> AdviceResult:
    """What the norms of ``model`` cost at run time, what they could become, how exactly, and what to choose.

    The cost of a norm is that of its nodes in ONNX Runtime's profile. The bound beside it is measured: the same network
    with its norms taken out, which computes something else.

    Args:
        model: a path, a ``ModelProto``, an ``onnx_ir.Model`` or an ``nn.Module``, which is exported; left as it is.
        example_inputs: what an ``nn.Module`` is exported with; ONNX models need none.
        ep: the execution provider, by its short name such as ``cpu`` or ``cuda``.
        batch: for inputs whose first dimension is free; None leaves it as given, or 1.
        threads: within an operation.
        use: "server" keeps threads spinning between operations, "edge" lets them sleep.
        shapes: by input name, for inputs with free sizes.
        inputs: arrays by input name, or the path of an ``.npz`` of them.
        seed: for the random inputs.
        custom_ops: libraries of custom operators.
        time_limit: seconds for the whole call; by default five minutes.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: told what is being done.

    Raises:
        NormfoldError: the model cannot be read; ``target-unsupported``, the provider is only emulated here. Where it
            cannot be timed, that is ``refused`` in the result.
    """
    conditions = Conditions(batch, threads, use)
    with limited(time_limit, memory_limit, SECONDS), _file(model, example_inputs) as source:
        # Fused with an addition, a norm would have no time of its own; on a CPU the two are faster apart, anyway.
        settings = replace(session_settings(None, ep), disabled_optimizers=("SkipLayerNormFusion",))
        LOCAL.check_clock(settings.provider, "timing norms")
        CHECKER.start()
        progress("reading")
        graph = OnnxGraph(source.fresh(), CHECKER.infer)
        found = advised(graph)
        would, _ = onnx_model.inspect(source.fresh(), CHECKER.infer)
        outcomes = {norm.site: norm.would.outcome for norm in would}
        norms = tuple(NormCost(one, outcomes.get(one.site, "kept")) for one in found)
        result = AdviceResult(norms, source=name_of(model))
        if not norms:
            return result
        sites = [one.advised.site for one in norms]
        marks = mark(graph, sites)
        bare = take_out(OnnxGraph(source.fresh(), CHECKER.infer), sites)
        with runnable(graph.model) as whole, runnable(bare) as rest:
            specs = input_specs(source.fresh())
            candidates = (
                Candidate("the model", whole, specs, profile=settings),
                Candidate(WITHOUT, rest, specs, profile=settings),
            )
            given = user_inputs(shapes, inputs)
            experiment = Experiment(
                candidates, conditions, EFFORT, given, seed, rtol=math.inf, custom_ops=tuple(custom_ops)
            )
            return _with_figures(result, marks, measure(experiment, progress))


@contextmanager
def _file(model: OnnxModel | nn.Module, example_inputs: Any) -> Iterator[OnnxSource]:
    module = module_of(model)
    if module is None:
        yield onnx_source(model)
        return
    from normfold.verbs.export import export

    with TemporaryDirectory(prefix="normfold-") as folder:
        file = Path(folder) / "model.onnx"
        export(module, example_inputs, output=file, fold=False)
        yield onnx_source(file)


def _with_figures(result: AdviceResult, marks: dict[str, str], cell: Cell) -> AdviceResult:
    """``result`` with the times that ``cell`` holds."""
    if cell.refused is not None:
        return replace(result, refused=cell.refused)
    details = cell.figures[0].details
    nodes = () if details is None else details.nodes
    total = math.fsum(row[4] for row in nodes)
    norms = []
    for one in result.norms:
        spent = math.fsum(row[4] for row in nodes if marks[one.advised.site] in row[0])
        norms.append(replace(one, share=spent / total, microseconds=spent) if total else one)
    own, other = (figure.latency.value for figure in cell.figures)
    return replace(result, norms=tuple(norms), bound=other / own, milliseconds=own / 1e6)
