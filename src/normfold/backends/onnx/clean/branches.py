"""An If whose condition is known: the branch that is taken stands in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import onnx_ir as ir

from normfold.backends.onnx.clean.editor import Editor


def open_branch(editor: Editor, node: ir.Node, fresh: Callable[[str], str], held: Counter[str]) -> bool:
    """Put the nodes of the branch that ``node`` takes in its place; ``held`` counts the values of each name."""
    condition = editor.tensor(node.inputs[0]) if node.op_type == "If" and node.inputs else None
    graph = node.graph
    if condition is None or condition.size != 1 or not isinstance(graph, ir.Graph):
        return False
    branch = node.attributes["then_branch" if condition.numpy().any() else "else_branch"].as_graph()
    made = {output for inner in branch for output in inner.outputs}
    # What is declared for an output stays with it; an input or a constant has a name of its own.
    if any(output not in made for output in branch.outputs) or len(set(branch.outputs)) != len(branch.outputs):
        return False
    outputs = list(branch.outputs)
    for value in [*branch.initializers.values(), *made]:
        if value.name and held[value.name] > 1:
            value.name = fresh(value.name)
    for value in list(branch.initializers.values()):
        del branch.initializers[str(value.name)]
        graph.register_initializer(value)
    branch.outputs.clear()
    for inner in list(branch):
        branch.remove(inner)
        graph.insert_before(node, inner)
    for old, new in zip(node.outputs, outputs, strict=True):
        _hand_over(editor, old, new)
    graph.remove(node, safe=True)
    return True


def _hand_over(editor: Editor, old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` be read where ``old`` was; it takes the name over, which is known outside."""
    name, was_output = old.name, old.is_graph_output()
    if was_output or new.shape is None:
        new.shape = old.shape if old.shape is not None else new.shape
    new.type = old.type if new.type is None else new.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = None
    if name:
        if new.name:
            editor.moved[new.name] = name
        new.name = name
