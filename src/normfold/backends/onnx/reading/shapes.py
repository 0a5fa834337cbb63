"""Dimensions and types of values: as the model states them, as inference finds them, or as operations imply."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from normfold.core.algebra.moves import Dim

ROUNDS: Final = 32
"""Most times that sizes found are followed through the arithmetic that computes further sizes from them."""

PARTS: Final = 1 << 12
"""Most sizes that are followed into one Concat, directly and through others."""
FOLLOWED: Final = frozenset(
    {"Add", "Cast", "Concat", "Gather", "Mul", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze"}
)
"""Operators through which onnx follows the elements of sizes."""

Sizes = Mapping[ir.Value, ir.TensorProtocol]


class Shapes:
    """Looks dimensions up; runs shape inference over a copy of the model once, and only when it must.

    ``sizes`` gives the values that say how large others are, where they are known before the model runs: inference
    does not compute them by itself.
    """

    def __init__(self, model: ir.Model, sizes: Callable[[], Sizes]) -> None:
        self._model = model
        self._sizes = sizes
        self._inferred: dict[ir.Value, ir.Value] | None = None
        self._told: dict[ir.Value, tuple[Dim, ...] | None] = {}

    def of(self, value: ir.Value) -> tuple[Dim, ...] | None:
        """The dimensions of ``value``: sizes, names, ``None`` each where unknown; ``None`` where the rank is."""
        if value in self._told:
            return self._told[value]
        known = _stated(value)
        if known is not None:
            return known
        found = self._find(value)
        return (None if found is None else _stated(found)) or _after_convolution(value)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """The type of the elements of ``value``, where it is known."""
        found = self._find(value) if value.dtype is None else value
        return None if found is None else found.dtype

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
        self._inferred = None

    def _find(self, value: ir.Value) -> ir.Value | None:
        if self._inferred is None:
            self._inferred, known = _infer(self._model, {}), 0
            for _ in range(ROUNDS):
                sizes = self._sizes()
                if len(sizes) <= known:
                    break
                self._inferred, known = _infer(self._model, sizes), len(sizes)
        return self._inferred.get(value)


def _infer(model: ir.Model, sizes: Sizes) -> dict[ir.Value, ir.Value]:
    """For the values of ``model``, which stays as it is, their likes in a copy with what inference finds."""
    # Inference that fails finds nothing; the premises that need shapes then say so.
    logging.getLogger("onnx_ir.passes.common.shape_inference").setLevel(logging.CRITICAL)
    copy = model.clone()
    for mine, theirs in zip(model.graphs(), copy.graphs(), strict=True):
        _spell_out(mine, theirs, sizes)
    _size_scalers(copy)
    try:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=_propagates(copy))(copy)
    except Exception:  # noqa: BLE001 - what the pass cannot write or read back, such as a map, raises what it likes
        return {}
    found: dict[ir.Value, ir.Value] = {}
    for mine, theirs in zip(model.graphs(), copy.graphs(), strict=True):
        values = ir.convenience.create_value_mapping(theirs)
        mapping = ir.convenience.create_value_mapping(mine)
        found |= {value: values[name] for name, value in mapping.items() if name in values}
    return found


def _propagates(model: ir.Model) -> bool:
    """Whether onnx may follow the elements of sizes: it does so through any Concat, and has no limit of its own."""
    joined: dict[ir.Value | None, int] = {}
    for node in model.graph.all_nodes():
        if node.op_type in FOLLOWED:
            counts = [joined.get(value, 1) for value in node.inputs]
            size = sum(counts) if node.op_type == "Concat" else max(counts, default=1)
            if size > PARTS:
                return False
            joined |= dict.fromkeys(node.outputs, size)
    return True


def _size_scalers(model: ir.Model) -> None:
    """Say of each Scaler that it keeps the shape of its input, which inference does not know."""
    for node in model.graph.all_nodes():
        if (node.domain, node.op_type) == ("ai.onnx.ml", "Scaler") and node.inputs[0] is not None:
            node.outputs[0].shape = node.outputs[0].shape or node.inputs[0].shape
            node.outputs[0].type = node.outputs[0].type or ir.TensorType(ir.DataType.FLOAT)


def _spell_out(graph: ir.Graph, copy: ir.Graph, sizes: Sizes) -> None:
    """Give the readers of computed ``sizes`` of ``graph`` the values themselves in its ``copy``."""
    names = {value.name: tensor for value, tensor in sizes.items() if value.graph is graph}
    likes = ir.convenience.create_value_mapping(copy, include_subgraphs=False) if names else {}
    for name, tensor in names.items():
        constant = ir.Value(
            name=f"{name} known", shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype)
        )
        constant.const_value = tensor
        copy.register_initializer(constant)
        likes[str(name)].replace_all_uses_with(constant)


def _stated(value: ir.Value) -> tuple[Dim, ...] | None:
    shape = value.shape
    if shape is None and value.const_value is not None:
        return tuple(value.const_value.shape.numpy())
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def _after_convolution(value: ir.Value) -> tuple[Dim, ...] | None:
    node = value.producer()
    if node is None or node.op_type not in ("Conv", "ConvTranspose") or len(node.inputs) < 2 or value.index() != 0:
        return None
    weight = node.inputs[1]
    shape = None if weight is None else _stated(weight)
    if shape is None or len(shape) < 3:
        return None
    channels = shape[0] if node.op_type == "Conv" else shape[1]
    if node.op_type == "ConvTranspose" and isinstance(channels, int):
        channels *= node.attributes.get_int("group", 1)
    return (None, channels, *[None] * (len(shape) - 2))
