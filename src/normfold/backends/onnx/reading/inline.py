"""What happens to a model before its norms are looked for: functions that contain norms are inlined.

A norm in a local function is folded where the function is called, since the constants it needs are the
caller's and two calls may have different ones. Every inlined node remembers its call path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

PATH, NAME = "normfold.path", "normfold.name"
"""Metadata keys that carry a node's call path and its name in the function through the inliner."""


Operator = tuple[str, str]
"""An operator's domain, the default one as "", and its name."""


def inline_norms(model: ir.Model, holds_norm: Callable[[Collection[Operator]], bool]) -> None:
    """Inline every local function that contains a norm, directly or through others, level by level.

    ``holds_norm`` says whether a body made of these operators may contain one.
    """
    wanted = _with_norms(model, holds_norm)
    if not wanted:
        return
    for function in model.functions.values():
        _name_nodes(function)
    while roots := _outermost(model, wanted):
        calls = [node for node in model.graph.all_nodes() if node.op_identifier() in roots]
        for node in calls:
            path = node.metadata_props.get(PATH)
            own = node.metadata_props.get(NAME) or node.name or node.outputs[0].name or node.op_type
            node.metadata_props[PATH] = own if path is None else f"{path}/{own}"
        InlinePass(lambda function: function.identifier() in roots)(model)
        wanted -= roots
    for node in model.graph.all_nodes():
        for key in (PATH, NAME):
            if key in node.metadata_props:
                node.meta[key] = node.metadata_props.pop(key)


def foreign_nodes(model: ir.Model) -> dict[ir.Node, str]:
    """The nodes of the functions that remain, each with its function's name: their operators may be another opset's."""
    return {node: function.name for function in model.functions.values() for node in function.all_nodes()}


def _with_norms(model: ir.Model, holds_norm: Callable[[Collection[Operator]], bool]) -> set[ir.OperatorIdentifier]:
    calls = {
        key: {node.op_identifier() for node in function.graph.all_nodes()} for key, function in model.functions.items()
    }
    found = {
        key
        for key, called in calls.items()
        if holds_norm([("" if domain == "ai.onnx" else domain, op) for domain, op, _ in called])
    }
    while grown := {key for key, called in calls.items() if key not in found and called & found}:
        found |= grown
    stuck = {key for key in calls if not _same_opsets(model, model.functions[key])}
    while called_there := {key for other in stuck for key in calls[other] if key in calls} - stuck:
        stuck |= called_there
    return found - stuck


def _same_opsets(model: ir.Model, function: ir.Function) -> bool:
    """The inliner cannot mix opsets; a function of another one stays with all it calls, and its norms stay there."""
    return all(
        model.opset_imports.get(domain, version) == version for domain, version in function.opset_imports.items()
    )


def _outermost(model: ir.Model, wanted: Iterable[ir.OperatorIdentifier]) -> set[ir.OperatorIdentifier]:
    """Those of ``wanted`` that no other function that is still to be inlined calls."""
    wanted = {key for key in wanted if key in model.functions}
    called = {node.op_identifier() for key in wanted for node in model.functions[key].graph.all_nodes()}
    return wanted - called


def _name_nodes(function: ir.Function) -> None:
    for node in function.graph.all_nodes():
        node.metadata_props[NAME] = node.name or node.outputs[0].name or node.op_type


logging.getLogger("onnx_ir").addHandler(logging.NullHandler())
