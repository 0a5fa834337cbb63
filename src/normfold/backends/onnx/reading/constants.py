"""Constants of an ONNX model: reading them in float64, and tensors that are computed as they are written.

A constant that a fold has changed keeps its exact float64 form beside the type it is stored in, so that several
folds into one constant round once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from normfold import limits
from normfold.core.algebra import Table, Weight
from normfold.core.algebra.affine import Array

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
"""Types whose constants are folded."""
CODES = frozenset(
    {
        ir.DataType.INT4,
        ir.DataType.UINT4,
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT16,
        ir.DataType.UINT16,
    }
)
"""What the codes of a weight may be."""


class WeightTensor(ir.LazyTensor):
    """A folded weight: scaled and cast piece by piece when it is written, never held whole."""

    def __init__(self, weight: Weight, dtype: ir.DataType, shape: tuple[int, ...]) -> None:
        super().__init__(self._whole, dtype, ir.Shape(shape, frozen=True))
        self.weight = weight

    def chunks(self) -> Iterator[NDArray[np.generic]]:
        """The elements in order, cast once, in C-contiguous pieces."""
        return self.weight.write_chunks(self.dtype.numpy())

    def _whole(self) -> ir.Tensor[Any]:
        flat = np.concatenate([chunk.reshape(-1) for chunk in self.chunks()])
        return ir.Tensor(flat.reshape(self.shape.numpy()), dtype=self.dtype)


class TableTensor(ir.LazyTensor):
    """A folded table: its rows mapped and cast as they are written."""

    def __init__(self, table: Table, dtype: ir.DataType) -> None:
        super().__init__(self._whole, dtype, ir.Shape(table.shape, frozen=True))
        self.table = table

    def chunks(self) -> Iterator[NDArray[np.generic]]:
        """The rows in order, cast once, in C-contiguous pieces."""
        return self.table.write_chunks(self.dtype.numpy())

    def _whole(self) -> ir.Tensor[Any]:
        return ir.Tensor(np.concatenate(list(self.chunks())), dtype=self.dtype)


class ExactTensor(ir.Tensor[Any]):
    """A small constant that remembers its float64 values (``exact``) beside those of its type, integers rounded."""

    exact: Array

    def __init__(self, exact: Array, dtype: ir.DataType, name: str | None = None) -> None:
        rounded = np.rint(exact) if dtype.is_integer() else exact
        super().__init__(rounded.astype(dtype.numpy()), dtype=dtype, name=name)
        self.exact = exact


def exact(tensor: ir.TensorProtocol) -> Array:
    """The values of ``tensor`` in float64, unrounded where a fold has made them."""
    return tensor.exact if isinstance(tensor, ExactTensor) else np.asarray(tensor.numpy(), dtype=np.float64)


def largest(dtype: ir.DataType) -> float:
    """The largest finite number of a floating type."""
    return float(ml_dtypes.finfo(dtype.numpy()).max)


def least_normal(dtype: ir.DataType) -> float:
    """The smallest positive number that a floating type holds in full precision."""
    return float(ml_dtypes.finfo(dtype.numpy()).tiny)


def step(dtype: ir.DataType) -> float:
    """The smallest positive number of a floating type."""
    return float(ml_dtypes.finfo(dtype.numpy()).smallest_subnormal)


def code_limits(dtype: ir.DataType) -> tuple[int, int]:
    """The least and the greatest number of an integer type."""
    info = ml_dtypes.iinfo(dtype.numpy())
    return int(info.min), int(info.max)


Arguments = Sequence[ir.TensorProtocol | None]
Expression = Callable[[ir.Node, Arguments], ir.TensorProtocol | None]
"""What a constant node makes of its constant operands; ``None`` where it is not read here."""


UNEVALUATED = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, MemoryError)
"""What NumPy and onnx_ir raise for operands and attributes that do not fit the operator: its node computes nothing."""


LEAST_BUDGET = 1 << 25
"""Elements that the constant expressions of any model may make."""
COPIES = 32
"""How many times each stored constant may be made anew besides."""


OVERRIDABLE = "is also a model input, so a caller can override it"
"""How the reason ends why an initializer is no constant."""
NO_REALS = frozenset({ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128})
"""Types whose elements float64 does not hold."""


class Constants:
    """Reads values that are known before the model runs.

    A constant is an initializer that no caller can override, a Constant node, or an expression over such
    (Identity, Transpose, Reshape, Cast, arithmetic: what exporters put in front of weights). Together the
    expressions make ``budget`` elements before the rest of them counts as computed at run time: a chain that doubles
    a constant again and again asks for terabytes in a few lines.
    """

    def __init__(
        self,
        overridable: Callable[[ir.Value], bool],
        expressions: Mapping[str, Expression],
        shape: Callable[[ir.Value], Sequence[int | str | None] | None],
        budget: int,
    ) -> None:
        self._overridable = overridable
        self._expressions = expressions
        self._shape = shape
        self._cache: dict[ir.Value, ir.TensorProtocol | str] = {}
        self._computed: list[ir.Value] = []
        self._budget = budget
        self._made = 0

    def forget(self, value: ir.Value) -> None:
        """Drop what is known of ``value`` after it was replaced."""
        self._cache.pop(value, None)

    def forget_expressions(self) -> None:
        """Drop every computed tensor: together they can be many times the size of the model."""
        # Every commit asks for this: going through all constants each time took 7 % of a fold.
        for value in self._computed:
            self._cache.pop(value, None)
        self._computed.clear()
        self._made = 0

    def find(self, value: ir.Value) -> ir.TensorProtocol | str:
        """The tensor behind ``value``, or why there is none."""
        pending, opened = [value], {value}
        while pending:
            operands = [] if pending[-1] in self._cache else self._operands(pending[-1])
            missing = next((operand for operand in operands if operand not in self._cache), None)
            blocked = any(isinstance(self._cache.get(operand), str) for operand in operands)
            if missing is not None and missing not in opened and not blocked:
                pending.append(missing)
                opened.add(missing)
                continue
            done = pending.pop()
            if done not in self._cache:
                self._cache[done] = self._find(done)
                node = done.producer()
                if node is not None and not _is_constant(node):
                    self._computed.append(done)
        return self._cache[value]

    def again(self, value: ir.Value) -> ir.TensorProtocol:
        """The tensor behind ``value``, where one was found before; others make room where the budget is used up."""
        found = self.find(value)
        if isinstance(found, str):
            self.forget_expressions()
            found = self.find(value)
        if isinstance(found, str):
            raise TypeError(found)
        return found

    def _operands(self, value: ir.Value) -> list[ir.Value]:
        """What the constant expression that makes ``value`` reads."""
        node = value.producer()
        if node is None or node.op_type not in self._expressions:
            return []
        return [
            operand for index, operand in enumerate(node.inputs) if operand is not None and reads_elements(node, index)
        ]

    def array(self, value: ir.Value | None) -> Array | None:
        """The float64 values behind ``value``; ``None`` where it is not a constant real number."""
        tensor = None if value is None else self.find(value)
        if tensor is None or isinstance(tensor, str) or tensor.dtype in NO_REALS:
            return None
        return exact(tensor)

    def computing(self, value: ir.Value) -> list[ir.Node]:
        """The nodes of the constant expression that makes ``value``, its own last."""
        made: dict[ir.Node, None] = {}
        pending = [value]
        while pending:
            at = pending.pop()
            node = at.producer()
            if (
                node is not None
                and node not in made
                and node.op_type != "Constant"
                and not isinstance(self.find(at), str)
            ):
                made[node] = None
                pending += [operand for operand in node.inputs if operand is not None]
        return list(made)[::-1]

    def _find(self, value: ir.Value) -> ir.TensorProtocol | str:
        if value.is_initializer() and value.const_value is not None:
            if self._overridable(value):
                return f"{value.name!r} {OVERRIDABLE}"
            return value.const_value
        node = value.producer()
        if node is None:
            return f"{value.name!r} is an input"
        if _is_constant(node):
            tensor = ir.convenience.get_const_tensor(value)
            return tensor if tensor is not None else f"{value.name!r} is not a tensor"
        return self._evaluate(node, value)

    def _evaluate(self, node: ir.Node, value: ir.Value) -> ir.TensorProtocol | str:
        if node.op_type == "Shape" and node.domain in ("", "ai.onnx"):
            return self._dimensions(node, value)
        expression = self._expressions.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if expression is None or any(output.uses() for output in node.outputs[1:]):
            return f"{value.name!r} is computed at run time by {node.op_type}"
        arguments: list[ir.TensorProtocol | None] = []
        for index, operand in enumerate(node.inputs):
            if operand is None or not reads_elements(node, index):
                arguments.append(None)
                continue
            tensor = self._cache.get(operand, f"{operand.name!r} depends on itself")
            if isinstance(tensor, str):
                return tensor
            arguments.append(tensor)
        limits.check()
        if self._made > self._budget:
            return f"{value.name!r} is not computed: the constant expressions make over {self._budget} elements"
        try:
            found = expression(node, arguments)
        except UNEVALUATED as error:
            return f"{value.name!r} cannot be computed by {node.op_type}: {error}"
        if found is not None and not any(found is argument for argument in arguments):
            self._made += found.size
        return found or f"{value.name!r} is computed by {node.op_type} in a way not read here"

    def _dimensions(self, node: ir.Node, value: ir.Value) -> ir.TensorProtocol | str:
        """The dimensions that a Shape gives, where they are known: of any value, constant or not."""
        whole = None if node.inputs[0] is None else self._shape(node.inputs[0])
        if whole is not None:
            start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(whole))
            sizes = [size for size in whole[start:end] if isinstance(size, int)]
            if len(sizes) == len(whole[start:end]):
                return ir.tensor(np.asarray(sizes, dtype=np.int64))
        return f"{value.name!r} is the shape of a value, which is not known"


def budget(model: ir.Model) -> int:
    """Most elements that the constant expressions of ``model`` may make together: what its own constants allow for."""
    stored = [value.const_value for graph in model.graphs() for value in graph.initializers.values()]
    stored += [
        ir.convenience.get_const_tensor(node.outputs[0]) for node in model.graph.all_nodes() if _is_constant(node)
    ]
    return LEAST_BUDGET + COPIES * sum(tensor.size for tensor in stored if tensor is not None)


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def reads_elements(node: ir.Node, index: int) -> bool:
    """Whether ``node`` needs the elements of that input: Shape takes its dimensions, CastLike the second's type."""
    return node.op_type not in ("Shape", "Size") and not (node.op_type == "CastLike" and index == 1)
