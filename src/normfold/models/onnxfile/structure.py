"""Whether a model's graph is well formed: one pass over the parsed file, before anything is built from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from normfold import limits
from normfold.errors import ModelFileError
from normfold.models.onnxfile.order import names_read, sort_nodes
from normfold.models.onnxfile.schemas import Versions, check_node
from normfold.models.onnxfile.tensors import check_properties, check_sparse, check_tensor, check_text, check_value

if TYPE_CHECKING:
    import onnx

MAX_DEPTH: Final = 32
"""Nesting of subgraphs, and of calls between local functions; protobuf's own limit allows about 33 graphs."""
MAX_EXPANDED_NODES: Final = 5_000_000
"""Nodes of the model with every local function inlined: a small file can otherwise stand for 10^30 nodes."""
MAX_DENSE_BYTES: Final = 1 << 30
"""Memory that the sparse tensors of a model may take in dense form."""

# onnx.proto's AttributeProto.AttributeType
_UNDEFINED, _TENSOR, _GRAPH, _TENSORS, _GRAPHS, _SPARSE_TENSOR, _SPARSE_TENSORS = 0, 4, 5, 9, 10, 11, 12

FunctionKey = tuple[str, str, str]
_Scopes = tuple[set[str], ...]


@dataclass
class Findings:
    """What the check learned on its way: whether tensors are external or sparse, and the sparse ones' dense bytes."""

    external: bool = False
    sparse: bool = False
    dense_bytes: int = 0


@dataclass
class _Body:
    """Size and calls of the main graph or of one function, subgraphs included."""

    nodes: int = 0
    calls: Counter[FunctionKey] = field(default_factory=Counter)


class UnsortedError(ModelFileError):
    """A value is used before the node that defines it: sorting the nodes may cure that."""


def check_structure(proto: onnx.ModelProto) -> None:
    """Check that ``proto`` is a model whose graph is well formed, in whichever order its nodes are.

    Tensor bytes are not copied for longer than one tensor takes to measure, and nothing is changed.

    Raises:
        ModelFileError: ``bad-structure``, ``bad-tensor``, ``recursive-function``, ``too-large``,
            ``unsupported-version``, ``unsafe-external-data``; ``not-onnx`` for names that are not text.
    """
    examine_sorted(proto)


def examine_sorted(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Findings]:
    """Do the work of `check_structure`; return ``proto``, or a copy with its nodes sorted, and the findings."""
    try:
        return proto, examine(proto)
    except UnsortedError:
        copy = type(proto)()
        copy.CopyFrom(proto)
        sort_nodes(copy)
        return copy, examine(copy)


def examine(proto: onnx.ModelProto) -> Findings:
    """Check ``proto`` as `check_structure` does, and that its nodes are in order.

    Raises:
        UnsortedError: they are not, or in a cycle that leads through a subgraph.
        ModelFileError: as `check_structure`.
    """
    return _Checker(proto).run()


def label(node: onnx.NodeProto) -> str:
    """Name a node for a message: its own name, or its operation and first output."""
    if node.name:
        return f"node {node.name!r} ({node.op_type})"
    output = node.output[0] if node.output else ""
    return f"the {node.op_type or 'nameless'} node with output {output!r}"


class _Expansion(NamedTuple):
    """A body with all that it calls put in place: nodes, and levels of calls."""

    nodes: int
    depth: int


class _Checker:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.findings = Findings()
        self.functions = {_key(function.domain, function.name, function.overload) for function in proto.functions}
        self.body = _Body()
        self.bodies: list[Sequence[onnx.NodeProto]] = []
        """Nodes of the graph being checked, behind those of the graphs around it."""
        self.within: list[onnx.NodeProto] = []
        """The node being checked, behind those in whose subgraphs it is."""
        self.versions: Versions = {}
        """Of the operator sets of the main graph or the function being checked."""
        self.in_function = False

    def run(self) -> Findings:
        proto = self.proto
        if not proto.HasField("graph"):
            raise _bad("The model has no graph.")
        check_text(proto.producer_name, proto.producer_version, proto.domain, proto.doc_string)
        check_properties(proto.metadata_props)
        _check_versions(proto)
        if len(self.functions) != len(proto.functions):
            raise _bad("Two local functions have the same domain and name.")
        self.versions = _versions(proto.opset_import)
        self._graph(proto.graph, ())
        self.in_function = True
        bodies = {_MAIN: self.body}
        for function in proto.functions:
            bodies[_key(function.domain, function.name, function.overload)] = self._function(function)
        _check_calls(bodies)
        return self.findings

    def _function(self, function: onnx.FunctionProto) -> _Body:
        where = f"the local function {function.name!r}"
        if not function.name:
            raise _bad("A local function has no name.")
        check_text(function.name, function.domain, function.overload, function.doc_string)
        check_properties(function.metadata_props)
        for value in function.value_info:
            check_value(value)
        _check_opsets(function.opset_import, where)
        self.body, self.versions = _Body(), _versions(function.opset_import)
        defined: set[str] = set()
        _define(function.input, defined, f"an input of {where}")
        for default in function.attribute_proto:
            self._attribute(default, where, ())
        self._nodes(function.node, (defined,))
        _check_outputs(function.output, defined, where)
        check_text(*defined)
        return self.body

    def _graph(self, graph: onnx.GraphProto, outer: _Scopes) -> None:
        if len(outer) >= MAX_DEPTH:
            raise _bad(f"Graph {graph.name!r} is nested deeper than {MAX_DEPTH} subgraphs.")
        where = f"graph {graph.name!r}"
        check_text(graph.name, graph.doc_string)
        check_properties(graph.metadata_props)
        for value in (*graph.input, *graph.value_info, *graph.output):
            check_value(value)
        for annotation in graph.quantization_annotation:
            check_text(annotation.tensor_name)
            check_properties(annotation.quant_parameter_tensor_names)
        defined: set[str] = set()
        _define([value.name for value in graph.input], defined, f"an input of {where}")
        initialised: set[str] = set()
        for tensor in graph.initializer:
            name = tensor.name
            self.findings.external |= check_tensor(tensor, f"initializer {name!r}")
            _define((name,), initialised, f"an initializer of {where}")
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            self._sparse(sparse, f"sparse initializer {name!r}")
            _define((name,), initialised, f"an initializer of {where}")
        # An initializer may share its name with an input: it is that input's default.
        defined |= initialised
        self._nodes(graph.node, (*outer, defined))
        _check_outputs([value.name for value in graph.output], defined, where)
        check_text(*defined)

    def _nodes(self, nodes: Sequence[onnx.NodeProto], scopes: _Scopes) -> None:
        defined = scopes[-1]
        # A subgraph may reuse an outer name, but a use before that definition would silently change its meaning.
        later = {name for node in nodes for name in node.output} if len(scopes) > 1 else None
        self.body.nodes += len(nodes)
        self.bodies.append(nodes)
        for node in nodes:
            limits.check()
            self.within.append(node)
            if not node.op_type:
                raise _bad(f"{label(node)} names no operation.")
            check_text(node.op_type, node.domain, node.name, node.doc_string)
            check_properties(node.metadata_props)
            for name in node.input:
                if name and name not in defined and (later is None or name in later or not _in_any(name, scopes)):
                    raise _undefined(name, self.within, self.bodies)
            attributes = node.attribute
            if attributes:
                self._attributes(node, attributes, scopes)
            if not self._is_call(node):
                check_node(node, self.versions, label(node))
            for name in node.output:
                if name in defined:
                    raise _bad(f"{label(node)} defines {name!r}, which is already defined.")
                if name:
                    defined.add(name)
            self.within.pop()
        self.bodies.pop()

    def _is_call(self, node: onnx.NodeProto) -> bool:
        """Whether ``node`` calls a local function, which is counted."""
        key = _key(node.domain, node.op_type, node.overload) if self.functions else _MAIN
        if key not in self.functions:
            return False
        self.body.calls[key] += 1
        return True

    def _attributes(self, node: onnx.NodeProto, attributes: Sequence[onnx.AttributeProto], scopes: _Scopes) -> None:
        names = {attribute.name for attribute in attributes}
        if len(names) != len(attributes):
            raise _bad(f"{label(node)} has two attributes of one name.")
        check_text(*names)
        for attribute in attributes:
            kind = attribute.type
            check_text(attribute.doc_string)
            if attribute.ref_attr_name and not self.in_function:
                raise _bad(
                    f"attribute {attribute.name!r} of {label(node)} refers to one of a function, but is in none."
                )
            if kind in _NESTED_KINDS:
                self._attribute(attribute, label(node), scopes)
                if kind in (_SPARSE_TENSOR, _SPARSE_TENSORS) and not _is_sparse_constant(node, attribute):
                    raise _bad(f"{label(node)} has a sparse tensor as attribute {attribute.name!r}.")

    def _attribute(self, attribute: onnx.AttributeProto, owner: str, scopes: _Scopes) -> None:
        kind = attribute.type
        if attribute.ref_attr_name:
            return
        where = f"attribute {attribute.name!r} of {owner}"
        if kind == _UNDEFINED:
            raise _bad(f"{where} has no type.")
        if kind == _TENSOR:
            self.findings.external |= check_tensor(attribute.t, where)
        elif kind == _TENSORS:
            for tensor in attribute.tensors:
                self.findings.external |= check_tensor(tensor, where)
        elif kind == _GRAPH:
            self._graph(attribute.g, scopes)
        elif kind == _GRAPHS:
            for graph in attribute.graphs:
                self._graph(graph, scopes)
        elif kind == _SPARSE_TENSOR:
            self._sparse(attribute.sparse_tensor, where)

    def _sparse(self, sparse: onnx.SparseTensorProto, where: str) -> None:
        self.findings.sparse = True
        self.findings.dense_bytes += check_sparse(sparse, where)
        if self.findings.dense_bytes > MAX_DENSE_BYTES:
            raise ModelFileError(
                "too-large",
                f"{where} and the sparse tensors before it take more than {MAX_DENSE_BYTES >> 20} MiB in dense form.",
                "Store the tensors densely, in external data if need be.",
            )


_NESTED_KINDS: Final = frozenset({_UNDEFINED, _TENSOR, _GRAPH, _TENSORS, _GRAPHS, _SPARSE_TENSOR, _SPARSE_TENSORS})
_MAIN: Final[FunctionKey] = ("", "", "")


def _key(domain: str, name: str, overload: str) -> FunctionKey:
    return ("" if domain == "ai.onnx" else domain, name, overload)


def _is_sparse_constant(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
    return node.op_type == "Constant" and attribute.type == _SPARSE_TENSOR and attribute.name == "sparse_value"


def _in_any(name: str, scopes: _Scopes) -> bool:
    return any(name in scope for scope in scopes)


def _define(names: Iterable[str], defined: set[str], what: str) -> None:
    for name in names:
        if not name:
            raise _bad(f"{what} has no name.")
        if name in defined:
            raise _bad(f"{name!r} is defined twice: as {what}, and before.")
        defined.add(name)


def _check_outputs(names: Iterable[str], defined: set[str], where: str) -> None:
    for name in names:
        if name not in defined:
            raise _bad(
                f"Output {name!r} of {where} is not defined in it.",
                "A subgraph that hands out an outer value needs an Identity node.",
            )


def _check_versions(proto: onnx.ModelProto) -> None:
    import onnx

    if proto.ir_version <= 0:
        raise _bad("The model has no IR version.")
    if proto.ir_version > onnx.IR_VERSION:
        raise _unsupported(f"The model has IR version {proto.ir_version}", onnx.IR_VERSION)
    if proto.ir_version >= 3 and not proto.opset_import:
        raise _bad("The model imports no operator set.")
    _check_opsets(proto.opset_import, "the model")


def _versions(imports: Sequence[onnx.OperatorSetIdProto]) -> Versions:
    return {"" if opset.domain == "ai.onnx" else opset.domain: opset.version for opset in imports}


def _check_opsets(imports: Sequence[onnx.OperatorSetIdProto], where: str) -> None:
    from onnx import defs

    newest = {
        "": defs.onnx_opset_version(),
        "ai.onnx": defs.onnx_opset_version(),
        "ai.onnx.ml": defs.onnx_ml_opset_version(),
    }
    seen: set[str] = set()
    for opset in imports:
        check_text(opset.domain)
        _define((opset.domain or "ai.onnx",), seen, f"an operator set of {where}")
        if opset.version <= 0:
            raise _bad(f"Operator set {opset.domain!r} of {where} has version {opset.version}.")
        known = newest.get(opset.domain, opset.version)
        if opset.version > known:
            raise _unsupported(f"{where[0].upper()}{where[1:]} uses opset {opset.version} of {opset.domain!r}", known)


def _undefined(
    name: str, within: Sequence[onnx.NodeProto], bodies: Sequence[Sequence[onnx.NodeProto]]
) -> ModelFileError:
    """The error for a ``name`` that is read too early; ``within`` and ``bodies`` are those of `_Checker`."""
    node = within[-1]
    producers = {output: later for nodes in bodies for later in nodes for output in later.output if output}
    if name not in producers:
        return _bad(f"{label(node)} uses {name!r}, which nothing defines.")
    if _reaches(producers, name, {output for outer in within for output in outer.output}):
        return _bad(f"{label(node)} is part of a cycle through {name!r}.", "A graph must not depend on its own result.")
    because = _bad(
        f"{label(node)} uses {name!r} before {label(producers[name])} defines it.",
        "Sort the nodes topologically, for example with onnx_ir's TopologicalSortPass, and save the model again.",
    )
    return UnsortedError(because.code, because.message, because.hint)


def _reaches(producers: dict[str, onnx.NodeProto], start: str, goals: set[str]) -> bool:
    """Whether the value ``start`` is computed from one of ``goals``, looking through this graph's own nodes."""
    seen: set[str] = set()
    open_values = [start]
    while open_values:
        name = open_values.pop()
        if name in goals:
            return True
        if name in producers and name not in seen:
            seen.add(name)
            open_values.extend(names_read(producers[name]))
    return False


def _check_calls(bodies: dict[FunctionKey, _Body]) -> None:
    """Refuse functions that call themselves, and calls that expand to an absurd size or depth."""
    expanded: dict[FunctionKey, _Expansion] = {}
    path: list[FunctionKey] = []
    pending: list[tuple[FunctionKey, bool]] = [(key, False) for key in bodies]
    while pending:
        key, entered = pending.pop()
        if entered:
            expanded[path.pop()] = _expand(key, bodies[key], expanded)
        elif key in path:
            cycle = " > ".join(name for _, name, _ in (*path[path.index(key) :], key))
            raise ModelFileError(
                "recursive-function",
                f"The local function {key[1]!r} calls itself: {cycle}.",
                "ONNX forbids recursion; use a Loop.",
            )
        elif len(path) > MAX_DEPTH:
            raise _too_deep(key)
        elif key not in expanded:
            path.append(key)
            pending.append((key, True))
            pending.extend((callee, False) for callee in bodies[key].calls)


def _expand(key: FunctionKey, body: _Body, expanded: dict[FunctionKey, _Expansion]) -> _Expansion:
    depth = 1 + max((expanded[callee].depth for callee in body.calls), default=0)
    nodes = body.nodes + sum(times * expanded[callee].nodes for callee, times in body.calls.items())
    if depth > MAX_DEPTH:
        raise _too_deep(key)
    if nodes > MAX_EXPANDED_NODES:
        raise ModelFileError(
            "too-large",
            f"With its local functions inlined the model has more than {MAX_EXPANDED_NODES} nodes.",
            "Export the model with fewer nested functions.",
        )
    return _Expansion(nodes, depth)


def _too_deep(key: FunctionKey) -> ModelFileError:
    return _bad(f"Local functions call each other more than {MAX_DEPTH} deep, around {key[1]!r}.")


def _unsupported(what: str, known: int) -> ModelFileError:
    return ModelFileError(
        "unsupported-version",
        f"{what}; the installed onnx package knows {known}.",
        "Upgrade onnx, or export the model for an older version.",
    )


def _bad(message: str, hint: str = "Export the model again; onnx.checker.check_model may say more.") -> ModelFileError:
    return ModelFileError("bad-structure", message[0].upper() + message[1:], hint)
