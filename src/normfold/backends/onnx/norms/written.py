"""The norms of a model that are written out in other operations, and those that are to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import onnx_ir as ir

from normfold.backends.onnx.lift.context import Context, opaque
from normfold.backends.onnx.native import native_node, native_value
from normfold.backends.onnx.norms.decompositions import RMS, Decomposition
from normfold.backends.onnx.norms.emission import OPSETS, emit, obstacle, settle, spelled_out, written_out
from normfold.backends.onnx.norms.spelling import (
    SPELLED,
    spell_affine,
    spell_by,
    spell_layer,
    spell_rms,
    spell_tanh,
    trailing,
)
from normfold.backends.onnx.reading.shapes import Shapes
from normfold.backends.onnx.write.commit import Writer
from normfold.core.premises import (
    CONSTANT,
    CONVERTIBLE,
    HAS_KERNEL,
    KNOWN_RANK,
    KNOWN_SIZES,
    MEANINGFUL,
    NEEDS_STRUCTURE,
    OPSET_HAS_OPERATOR,
)
from normfold.core.views import AffineOp, DynamicTanh, Norm, Spelling, View
from normfold.records import Refusal

NO_GROUPS: Final = frozenset({"BatchNormalization", "Tanh"})
"""Operators that conversions make norms of groups of channels, and that are none yet."""


class WrittenNorms:
    """The norms ``found``: each is to become one operator, or stays in other operations, and then says why.

    Which of the two is settled here: whatever is folded, that stays so.
    """

    def __init__(self, found: Iterable[Decomposition], context: Context, shapes: Shapes, writer: Writer) -> None:
        self._context, self._shapes, self._writer = context, shapes, writer
        self._emitted: dict[ir.Node, Decomposition] = {}
        self._spelled: dict[ir.Node, tuple[Decomposition, Refusal]] = {}
        for one in found:
            because = obstacle(context, one)
            if because is None:
                self._emitted |= dict.fromkeys(one.whole, one)
                # A fold elsewhere can bring a contradiction of the model's to light, at which inference says nothing.
                shapes.tell(one.input, context.shape(one.input))
            else:
                self._spelled |= dict.fromkeys(one.nodes, (one, because))
                shapes.tell_more(one.core.outputs[0], one.shape)

    def __contains__(self, node: ir.Node) -> bool:
        """Whether ``node`` is part of one."""
        return node in self._emitted or node in self._spelled

    def all(self) -> Sequence[Decomposition]:
        """Every one that is left."""
        spelled = [found.as_it_is() for found, _ in dict.fromkeys(self._spelled.values())]
        return (*dict.fromkeys(self._emitted.values()), *spelled)

    def view(self, node: ir.Node) -> View:
        """The last node of one stands for the whole, the others for nothing."""
        if node in self._emitted:
            found = self._emitted[node]
            return written_out(self._context, found) if node is found.whole[-1] else opaque(node)
        found, because = self._spelled[node]
        return spelled_out(self._context, found, because) if node is found.core else opaque(node)

    def reach(self, nodes: Iterable[ir.Node]) -> bool:
        """Whether norms are still to become operators, or one that stays written out has a node among ``nodes``."""
        return bool(self._emitted) or any(node in self._spelled for node in nodes)

    def write(self, view: View) -> None:
        """Give the node of ``view``, which is part of one, the constants of ``view``."""
        node = native_node(view.node)
        if node in self._emitted and isinstance(view, Norm):
            emitted = self._emitted[node]
            emit(view, emitted, self._writer.set_constant)
            for one in emitted.whole:
                self._emitted.pop(one, None)
        elif node in self._spelled:
            found, because = self._spelled[node]
            settled = settle(found, self._writer.fresh)
            self._spelled |= dict.fromkeys(settled.nodes, (settled, because))
        else:
            self._writer.view(view)

    def needs_words(self, view: View) -> bool:
        """Whether ``view`` has no operator, or stands where there is none."""
        if not isinstance(view, Norm):
            return isinstance(view, DynamicTanh)
        outside = view.groups is not None or self._writer.newest < OPSETS[RMS] or not trailing(view)
        return view.kind == "rms" and (bool(view.parts) or outside)

    def unspeakable(self, view: View) -> Refusal | None:
        """Why what ``view`` says cannot be written out where it stands."""
        if self._shapes.dtype(native_value(view.inputs[0])) in SPELLED:
            return None
        label, opset = self._context.label(native_node(view.node)), self._writer.newest
        because = f"opset {opset} has no {RMS}, and in the type of {label} its squares would overflow"
        return Refusal(OPSET_HAS_OPERATOR, f"{because}: export with opset {OPSETS[RMS]} or newer")

    def unspellable(self, view: View, by: Spelling) -> Refusal | None:
        """Why the operation of a norm of the kind ``by`` cannot do what ``view`` does."""
        node = native_node(view.node)
        label = self._context.label(node)
        if not isinstance(view, Norm):
            fitted = isinstance(view, AffineOp) and node.op_type != "BatchNormalization"
            return self._unstatic(node, view, by) if fitted else _no_norm(label, by)
        if by == "group" and view.groups is not None and node.op_type not in NO_GROUPS:
            because = (
                "is a norm of groups of channels, as ONNX Runtime runs it: it has no kernel for GroupNormalization"
            )
            return Refusal(CONVERTIBLE, f"{label} {because}")
        if view.tail is None and not view.parts:
            return Refusal(CONSTANT, f"the scale and bias of {label} are not read")
        x = native_value(view.inputs[0])
        shape, dtype = self._shapes.of(x), self._shapes.dtype(x)
        if len(view.inputs) > 1 or not isinstance(node.graph, ir.Graph):
            return Refusal(NEEDS_STRUCTURE, f"{label} adds its inputs up, or stands in a function")
        if dtype not in SPELLED:
            kinds = "float32 and float64"
            return Refusal(HAS_KERNEL, f"ONNX Runtime has kernels for what {label} would become in {kinds} only")
        if shape is None or (view.groups is not None and view.groups.axis != 1 - len(shape)):
            return Refusal(KNOWN_RANK, f"the rank of the input of {label} is not known, or its channels come last")
        last = shape[len(shape) - len(view.axes or ()) :]
        if view.groups is None and trailing(view) and not all(isinstance(size, int) for size in last):
            return Refusal(KNOWN_SIZES, f"the sizes of the axes that {label} normalises are not known")
        return None

    def _unstatic(self, node: ir.Node, view: View, by: Spelling) -> Refusal | None:
        """Why what ``node`` makes cannot be an affine map, written as ``by`` says."""
        label, x = self._context.label(node), native_value(view.inputs[0])
        if len(view.inputs) > 1 or not isinstance(node.graph, ir.Graph):
            return Refusal(NEEDS_STRUCTURE, f"{label} adds its inputs up, or stands in a function")
        if self._shapes.dtype(x) is None:
            return Refusal(HAS_KERNEL, f"the type of what {label} reads is not known")
        shape = self._shapes.of(x)
        if by != "static" and (shape is None or len(shape) < 2 or _axis(view) != 1 - len(shape)):
            return Refusal(KNOWN_RANK, f"the channels of {label} are not known to be along the second axis")
        return None

    def replace(self, view: View) -> None:
        """Let elementary operations make what the node of ``view`` makes, as ``view`` says."""
        dtype = self._dissolve(view)
        if isinstance(view, DynamicTanh):
            spell_tanh(self._writer, view, dtype)
        elif isinstance(view, Norm):
            spell_rms(self._writer, view, dtype)

    def respell(self, view: View, by: Spelling) -> None:
        """Let the operation of a norm of the kind ``by`` make what the node of ``view`` makes."""
        shape = self._shapes.of(native_value(view.inputs[0]))
        if isinstance(view, AffineOp):
            spell_affine(self._writer, view, self._dissolve(view))
            return
        if not isinstance(view, Norm) or shape is None:
            raise TypeError(f"{self._context.label(native_node(view.node))} cannot be spelled otherwise")
        if view.groups is None and not trailing(view):
            spell_layer(self._writer, view, self._dissolve(view))
            return
        sizes = [size if isinstance(size, int) else None for size in shape]
        spell_by(self._writer, view, by, self._dissolve(view), sizes)

    def _dissolve(self, view: View) -> ir.DataType:
        """The type of what the node of ``view`` reads; what it was part of is a norm no more."""
        dtype = self._shapes.dtype(native_value(view.inputs[0]))
        if dtype is None:
            raise TypeError(f"the type of {self._context.label(native_node(view.node))} is not known")
        node = native_node(view.node)
        emitted, spelled = self._emitted.get(node), self._spelled.get(node)
        whole = emitted.whole if emitted is not None else spelled[0].nodes if spelled is not None else ()
        for one in whole:
            self._emitted.pop(one, None)
            self._spelled.pop(one, None)
        return dtype


def _axis(view: View) -> int | None:
    return view.axis if isinstance(view, AffineOp) else None


def _no_norm(label: str, by: Spelling) -> Refusal:
    """Why what ``label`` says, which does not measure its input, is not spelled as a norm."""
    if by == "weight":
        because = f"no operator normalises the weight of {label}: a file stores the computed weight"
        return Refusal(MEANINGFUL, because)
    return Refusal(CONVERTIBLE, f"{label} is an affine map already, with statistics that are fixed")
