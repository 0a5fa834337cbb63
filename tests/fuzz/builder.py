"""A graph under construction: every node is checked by shape inference as it is added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_node_outputs

LARGEST = 3000
"""Most elements of one value: graphs stay quick to run."""
RANKS = range(1, 6)


class NotPossibleError(Exception):
    """The operation does not apply to the value at hand."""


@dataclass(frozen=True)
class Val:
    """A value with its dimensions."""

    name: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Counter:
    """Numbers that several bodies of one model share, so that names are unique."""

    count: int = 0

    def next(self) -> int:
        self.count += 1
        return self.count


@dataclass
class Builder:
    """One graph body. ``data`` has every constant of the body and of those around it."""

    rng: np.random.Generator
    opset: int
    counter: Counter = field(default_factory=Counter)
    data: dict[str, TensorProto] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[str] = field(default_factory=list)
    pool: list[Val] = field(default_factory=list)
    inner: bool = False
    plain: bool = False
    """Whether scales are positive and shifts are rare, so that folds go far."""
    straight: bool = False
    """Whether most operations read the newest value and nothing else reads it."""

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def integer(self, low: int, high: int) -> int:
        """A number from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def numbers(self, shape: Sequence[int], low: float = 0.4, high: float = 1.6) -> np.ndarray:
        """Magnitudes from ``low`` to ``high`` of either sign."""
        return (self.rng.uniform(low, high, shape) * self.rng.choice([-1, 1], shape)).astype(np.float32)

    def need(self, condition: object) -> None:
        """Give up on this operation unless ``condition`` holds."""
        if not condition:
            raise NotPossibleError

    def fresh(self, stem: str) -> str:
        return f"{stem}{self.counter.next()}"

    def const(self, values: np.ndarray, stem: str = "k") -> str:
        """A constant by name: an initializer, a Constant node, an expression, or one that is there already."""
        if values.dtype == np.float32:
            if self.chance(0.04) and (same := self._alike(values.shape)):
                return same
            if self.chance(0.04) and values.ndim == 2:
                stored = self.const(np.ascontiguousarray(values.T), stem)
                return self._computed("Transpose", stored, values, perm=[1, 0])
            if self.chance(0.04):
                return self._computed("Identity", self.stored(values, stem), values)
        return self.stored(values, stem)

    def _alike(self, shape: Sequence[int]) -> str | None:
        alike = [
            name
            for name in self.initializers
            if tuple(self.data[name].dims) == tuple(shape) and self.data[name].data_type == TensorProto.FLOAT
        ]
        return self.pick(alike) if alike else None

    def stored(self, values: np.ndarray, stem: str) -> str:
        """A constant of its own: an initializer or a Constant node."""
        name = self.fresh(stem)
        tensor = numpy_helper.from_array(values, name)
        self.data[name] = tensor
        if self.chance(0.1):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(name)
        return name

    def _computed(self, op: str, stored: str, values: np.ndarray, **attributes: Any) -> str:
        name = self.fresh("e")
        self.nodes.append(helper.make_node(op, [stored], [name], **attributes))
        self.data[name] = numpy_helper.from_array(values, name)
        return name

    def ints(self, values: Sequence[int]) -> str:
        return self.stored(np.asarray(values, np.int64), "i")

    def scalar(self, value: float) -> str:
        return self.stored(np.asarray(value, np.float32), "f")

    def op(self, kind: str, inputs: Sequence[Val | str], outputs: int = 1, **attributes: Any) -> list[Val]:
        """Add a node and give its outputs; ``inputs`` are values, names of constants, or empty where left out."""
        names = [value if isinstance(value, str) else value.name for value in inputs]
        made = [self.fresh(kind[:1].lower()) for _ in range(outputs)]
        node = helper.make_node(kind, names, made, **attributes)
        if self.chance(0.9):
            node.name = self.fresh(kind.lower())
        types = {
            v.name: helper.make_tensor_type_proto(TensorProto.FLOAT, v.shape) for v in inputs if isinstance(v, Val)
        }
        data = {name: self.data[name] for name in names if name in self.data}
        types |= {name: helper.make_tensor_type_proto(t.data_type, t.dims) for name, t in data.items()}
        inferred = self._infer(node, types, data)
        values = [Val(name, _sizes(inferred, name)) for name in made]
        self.need(all(v.rank in RANKS and min(v.shape, default=1) > 0 and prod(v.shape) <= LARGEST for v in values))
        self.nodes.append(node)
        return values

    def raw(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node that is not checked, and give its output's name."""
        name = self.fresh(kind[:1].lower())
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _infer(
        self, node: onnx.NodeProto, types: dict[str, onnx.TypeProto], data: dict[str, TensorProto]
    ) -> dict[str, onnx.TypeProto]:
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        try:
            return infer_node_outputs(schema, node, types, data, opset_imports=[helper.make_opsetid("", self.opset)])
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as problem:
            raise NotPossibleError from problem

    def one(self, kind: str, inputs: Sequence[Val | str], **attributes: Any) -> Val:
        """Add a node with one output."""
        return self.op(kind, inputs, **attributes)[0]

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Take back what was added if the block gives up."""
        nodes, initializers, pool = len(self.nodes), len(self.initializers), len(self.pool)
        try:
            yield
        except NotPossibleError:
            del self.nodes[nodes:], self.initializers[initializers:], self.pool[pool:]
            raise

    def child(self) -> Builder:
        """The body of a subgraph, which sees this body's values and constants."""
        return Builder(
            self.rng, self.opset, self.counter, dict(self.data), pool=list(self.pool), inner=True, plain=self.plain
        )


def _sizes(types: dict[str, onnx.TypeProto], name: str) -> tuple[int, ...]:
    kind = types[name].tensor_type if name in types else None
    if kind is None or not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
        raise NotPossibleError
    return tuple(d.dim_value for d in kind.shape.dim)
