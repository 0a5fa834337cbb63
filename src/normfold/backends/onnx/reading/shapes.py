"""Dimensions and types of values: as inference finds them, as the model states them, or as operations imply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Final

import onnx_ir as ir

from normfold.backends.onnx.reading.inference import Found, Inference, Known, Likeness, Sizes, known
from normfold.core.algebra.moves import Dim

ROUNDS: Final = 32
"""Most times that sizes found are followed through the arithmetic that computes further sizes from them."""


class Shapes:
    """Looks dimensions up in what inference finds. What the model states where inference finds nothing is believed.

    ``sizes`` gives the values that say how large others are, where they are known before the model runs: inference
    does not compute them by itself.
    """

    def __init__(self, model: ir.Model, sizes: Callable[[], Sizes], inference: Inference) -> None:
        self._model = model
        self._sizes = sizes
        self._inference = inference
        self._known: dict[ir.Value, Known] | None = None
        self._told: dict[ir.Value, tuple[Dim, ...] | None] = {}
        self._mark = ""
        self._likeness: Likeness | None = None
        # It runs elsewhere: the first answer is on its way while the caller does something else.
        self._first: Future[Found | None] | None = self._infer({})

    def of(self, value: ir.Value) -> tuple[Dim, ...] | None:
        """The dimensions of ``value``: sizes, names, ``None`` each where unknown; ``None`` where the rank is."""
        if value in self._told:
            return self._told[value]
        found = self._find(value)
        return _stated(value) if found is None or found.dims is None else found.dims

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The type of the elements of ``value``, where it is known."""
        found = self._find(value) if value.dtype is None else None
        return value.dtype if found is None else found.dtype

    def tell(self, value: ir.Value, dims: tuple[Dim, ...] | None) -> None:
        """``value`` has ``dims`` from now on: it is new, or has taken the place of another one."""
        self._told[value] = dims

    def tell_more(self, value: ir.Value, dims: tuple[Dim, ...] | None) -> None:
        """``value`` has ``dims``, where those that were known are fewer."""
        known = self.of(value)
        if dims is not None and (known is None or len(known) == len(dims)):
            pairs = zip(dims, known or (None,) * len(dims), strict=True)
            self.tell(value, tuple(dim if isinstance(dim, int) or then is None else then for dim, then in pairs))

    def forget(self) -> None:
        """Infer anew when asked next: the model states more than it did."""
        self._known = self._first = None
        self._mark += "'"
        self.outdate()

    def outdate(self) -> None:
        """The model is being changed: whatever is inferred later is inferred of what it is then."""
        self._likeness = None

    def _infer(self, sizes: Sizes) -> Future[Found | None]:
        if self._likeness is None:
            self._likeness = Likeness(self._model)
        return self._likeness.infer(sizes, self._inference)

    def _find(self, value: ir.Value) -> Known | None:
        if self._known is None:
            first = self._first or self._infer({})
            self._known, count = known(self._model, first.result(), self._mark), 0
            for _ in range(ROUNDS):
                if self._is_settled(self._known):
                    break
                sizes = self._sizes()
                if len(sizes) <= count:
                    break
                count = len(sizes)
                self._known = known(self._model, self._infer(sizes).result(), self._mark)
        return self._known.get(value)

    def _is_settled(self, known: Mapping[ir.Value, Known]) -> bool:
        """Whether every size of every value is a number, so that there is nothing more to find."""
        outputs = (output for node in self._model.graph.all_nodes() for output in node.outputs if output.name)
        found = (known.get(output) for output in outputs)
        return all(one and one.dims is not None and all(isinstance(dim, int) for dim in one.dims) for one in found)


def _stated(value: ir.Value) -> tuple[Dim, ...] | None:
    shape = value.shape
    if shape is None and value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)
