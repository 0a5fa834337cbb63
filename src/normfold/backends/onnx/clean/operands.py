"""What nodes are told besides their data, in an attribute or in a constant input, as the opset has it."""

from __future__ import annotations

import onnx_ir as ir

from normfold.backends.onnx.clean.editor import Editor

Bounds = tuple[int, int, int, int]
"""Axis, start, end and step of a slice."""


def listed(editor: Editor, node: ir.Node, slot: int, attribute: str) -> list[int] | None:
    """The integers in ``attribute``, or behind input ``slot``; None where they are neither, or not constant."""
    if attribute in node.attributes:
        return list(node.attributes.get_ints(attribute, ()))
    return editor.integers(node.inputs[slot]) if slot < len(node.inputs) else None


def axes_of(editor: Editor, node: ir.Node) -> list[int] | None:
    """The axes of a Squeeze or an Unsqueeze."""
    return listed(editor, node, 1, "axes")


def given(node: ir.Node, slot: int) -> bool:
    """Whether ``node`` reads anything at ``slot``."""
    return slot < len(node.inputs) and node.inputs[slot] is not None


def slice_bounds(editor: Editor, node: ir.Node) -> list[Bounds] | None:
    """What a Slice cuts, axis by axis."""
    starts, ends = listed(editor, node, 1, "starts"), listed(editor, node, 2, "ends")
    if starts is None or ends is None or len(starts) != len(ends):
        return None
    axes = listed(editor, node, 3, "axes") if given(node, 3) or "axes" in node.attributes else list(range(len(starts)))
    steps = listed(editor, node, 4, "steps") if given(node, 4) else [1] * len(starts)
    if axes is None or steps is None or not len(axes) == len(steps) == len(starts):
        return None
    return list(zip(axes, starts, ends, steps, strict=True))
