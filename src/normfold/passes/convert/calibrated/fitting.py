"""What conversions are fitted to, and how far they may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from normfold.core.graph import Graph
from normfold.core.views import Node
from normfold.passes.convert.calibrated.moments import Watch


class Observer(Protocol):
    """Shows what a model computes on calibration inputs."""

    def observe(self, graph: Graph, wanted: Mapping[Node, Watch]) -> None:
        """Let each of ``wanted`` take in what its norm reads, in one pass over the inputs.

        ``graph`` is that of a copy of the model whose norms still read what they read in the model.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fitting:
    """``observer`` is None where there are no calibration inputs: then what norms have stored has to do.

    ``allowed`` says whether something may be converted that then computes something else, to be judged by its outputs.
    ``max_offset`` is the largest constant that may be added to a standardised channel, or half of one, in front of a
    norm with live statistics. Constants make the norm follow its source more closely, and depend on its input less; at
    0, none of the variance that it divides by is constant.
    """

    observer: Observer | None = None
    max_offset: float = 1.0
    allowed: bool = False
    seed: int = 0
