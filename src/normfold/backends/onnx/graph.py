"""An ONNX model behind the `Graph` protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import onnx_ir as ir

from normfold.backends.onnx.lift import lift
from normfold.backends.onnx.lift.context import Context, opaque
from normfold.backends.onnx.native import native_node, native_value
from normfold.backends.onnx.norms.decompositions import find_decompositions
from normfold.backends.onnx.norms.sites import Labels, find_sites, may_hold_norm, walk_model
from normfold.backends.onnx.norms.written import WrittenNorms
from normfold.backends.onnx.reading.constants import FLOATS, Constants, ExactTensor, budget, exact, reads_elements
from normfold.backends.onnx.reading.expressions import EXPRESSIONS, normalises
from normfold.backends.onnx.reading.inference import Inference
from normfold.backends.onnx.reading.inline import foreign_nodes, inline_norms
from normfold.backends.onnx.reading.names import Names
from normfold.backends.onnx.reading.shapes import Shapes
from normfold.backends.onnx.write.commit import Writer, bypass, move, operator_of, position, sweep
from normfold.backends.onnx.write.preprocessing import STAGE
from normfold.core.algebra.affine import Array
from normfold.core.algebra.moves import Dim
from normfold.core.graph import Site
from normfold.core.plan import Bypass, Insert, Move, Plan, Remove, Replace, Respell, SetConstant, SetView
from normfold.core.premises import (
    MATRIX,
    NEEDS_STRUCTURE,
    NOT_OUTPUT,
    NOT_OVERRIDABLE,
    SAME_OPSET,
    SINGLE_USE,
)
from normfold.core.views import AffineOp, Node, Value, View
from normfold.records import RECORDS_KEY, Refusal, StatisticsRecord, packed, unpacked

SIZED: Final = frozenset({"Expand", "Pad", "ReduceMean", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Unsqueeze"})
"""Operators whose inputs behind the first say what shape the result has."""

ORDER: Final = (Replace, Respell, Bypass, Insert, Move, Remove)
"""In which edits are carried out, once all constants are written. What nobody reads any more goes last."""

REPLACEMENTS: Final = frozenset(
    {("LayerNormalization", "RMSNormalization"), ("RMSNormalization", "LayerNormalization"), ("MatMul", "Gemm")}
)
"""What may become what: an opset in which the view comes up has both."""


class OnnxGraph:
    """The model's graph, subgraphs and remaining functions, as rules and the engine see them.

    The graph owns ``model`` and changes it; hand over a copy where the original is needed. ``inference`` says what
    shapes its values have. ``committed`` says whether any plan was.
    """

    def __init__(self, model: ir.Model, inference: Inference, newest: int | None = None) -> None:
        """``newest`` is the opset whose operators norms may be written in, where that is not the model's own."""
        self.model = model
        inline_norms(model, may_hold_norm)
        self.committed = False
        self._nodes: Sequence[ir.Node] = ()
        self._names = Names(model)
        self._foreign = foreign_nodes(model)
        self._labels = Labels(model)
        self._order = {node: index for index, node in enumerate(self.nodes())}
        self._shapes = Shapes(model, self._sizes, inference)
        self._constants = Constants(self._overridable, EXPRESSIONS, self._shapes.of, budget(model))
        self._context = Context(
            self._constants,
            self._shapes.of,
            model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1)),
            self.label,
        )
        opset = self._context.opset
        written = opset if newest is None else min(newest, opset)
        self._writer = Writer(model, self._constants, opset, self._shapes, self.fresh_name, written)
        found = find_decompositions(self.nodes(), self._context)
        self._norms = WrittenNorms(found, self._context, self._shapes, self._writer)
        self._views: dict[ir.Node, View] = {}

    def nodes(self) -> Sequence[ir.Node]:
        """Every node, those of subgraphs and functions, too."""
        # Each rule asks anew, and few of them change anything: walking the model took a tenth of a fold.
        if not self._nodes:
            self._nodes = tuple(node for node, _ in walk_model(self.model))
        return self._nodes

    def sites(self) -> Sequence[Site]:
        """Every norm of the model, in topological order."""
        return find_sites(self, self._labels, self._context, self._norms.all())

    def view(self, node: Node) -> View:
        """``node`` as a view, lifted once until a commit touches it."""
        native = native_node(node)
        if native not in self._views:
            self._views[native] = self._foreign_view(native) or self._view(native)
        return self._views[native]

    def _view(self, node: ir.Node) -> View:
        return self._norms.view(node) if node in self._norms else lift(self._context, node)

    def _foreign_view(self, node: ir.Node) -> View | None:
        function = self._foreign.get(node)
        if function is None:
            return None
        because = (
            f"{self.label(node)} is part of the function {function!r}, which uses another opset, or whose caller does"
        )
        return opaque(node, Refusal(SAME_OPSET, because))

    def producer(self, value: Value) -> ir.Node | None:
        """The node that makes ``value``."""
        return native_value(value).producer()

    def consumers(self, value: Value) -> Sequence[tuple[ir.Node, int]]:
        """The nodes that read the elements of ``value``, in subgraphs, too, in the order that they had at first."""
        readers = [(node, index) for node, index in native_value(value).uses() if reads_elements(node, index)]
        # Uses come in the order in which they were made, so that which fold came first would show in the next one.
        return sorted(readers, key=lambda use: self._order.get(use[0], math.inf)) if len(readers) > 1 else readers

    def constant(self, value: Value) -> Array | None:
        """The initializer ``value``, where it has one reader and no caller may override it."""
        native = native_value(value)
        tensor = native.const_value if native.is_initializer() else None
        if tensor is None or len(native.uses()) != 1 or native.is_graph_output() or self._overridable(native):
            return None
        return exact(tensor) if tensor.dtype in FLOATS else None

    def normalised_by(self, node: Node) -> Sequence[ir.Node]:
        """The nodes that compute the weight of ``node`` from constants, where it is normalised on the way."""
        native = native_node(node)
        weight = native.inputs[1] if len(native.inputs) > 1 else None
        made = [] if weight is None else self._constants.computing(weight)
        return made if normalises(made) else []

    def escapes(self, value: Value) -> Refusal | None:
        """Why ``value`` is seen from outside its graph."""
        native = native_value(value)
        if native.is_graph_output():
            return Refusal(NOT_OUTPUT, f"{native.name!r} is an output of its graph")
        home = native.graph
        if any(node.graph is not home for node, _ in native.uses()):
            return Refusal(NOT_OUTPUT, f"{native.name!r} is read inside a subgraph")
        return None

    def same_scope(self, first: Node, second: Node) -> bool:
        """Whether both nodes stand in the same graph body."""
        return native_node(first).graph is native_node(second).graph

    def shape(self, value: Value) -> tuple[Dim, ...] | None:
        """The dimensions of ``value``, inferred once where the model does not state them."""
        return self._shapes.of(native_value(value))

    def dtype(self, value: Value) -> ir.DataType | None:
        """The type of the elements of ``value``, where it is known."""
        return self._context.dtype(native_value(value)) or self._shapes.dtype(native_value(value))

    def label(self, thing: Node | Value) -> str:
        """A node's operator and site name, a value's name."""
        if isinstance(thing, ir.Node):
            return f"{thing.op_type} {self._labels.name(thing)!r}"
        return repr(native_value(thing).name)

    def name(self, node: Node) -> str:
        """The site name of ``node``."""
        return self._labels.name(native_node(node))

    def value_name(self, value: Value) -> str:
        """The name of ``value`` as it is now."""
        return native_value(value).name or ""

    def values(self) -> frozenset[str]:
        """Names of all values that nodes of the main graph make, those of a preprocessing put in left out."""
        own = (node for node in self.model.graph if STAGE not in node.meta)
        return frozenset(output.name for node in own for output in node.outputs if output.name)

    def origins(self) -> dict[str, str]:
        """Every value of the main graph and every input, by the name that it keeps."""
        names = (*self.values(), *(value.name for value in self.model.graph.inputs if value.name))
        return {name: name for name in names}

    def records(self) -> Sequence[StatisticsRecord] | None:
        """Those of the metadata."""
        text = self.model.metadata_props.get(RECORDS_KEY)
        return None if text is None else unpacked(text)

    def keep(self, records: Sequence[StatisticsRecord]) -> None:
        """Write ``records`` into the metadata."""
        self.model.metadata_props[RECORDS_KEY] = packed(records)

    def unable(self, plan: Plan) -> Refusal | None:
        """A node that would go with more than its data: a Dropout has a mask, and a ratio that callers may set."""
        for node in (native_node(edit.node) for edit in plan.each(Bypass)):
            seen = self.view(node).outputs
            if any(output not in seen and (output.uses() or output.is_graph_output()) for output in node.outputs):
                return Refusal(SINGLE_USE, f"{self.label(node)} makes other values that are read")
            settable = (value for value in node.inputs if value is not None and value.is_initializer())
            if any(self._overridable(value) for value in settable):
                return Refusal(NOT_OVERRIDABLE, f"{self.label(node)} reads an input that a caller may set")
        for node in (native_node(edit.node) for edit in plan.each(Move)):
            # Who reads the shape of what moves finds it at what it read, which is the same for norms alone.
            if not isinstance(self.view(node), AffineOp) and len(node.outputs[0].uses()) > 1:
                return Refusal(SINGLE_USE, f"the shape of {self.label(node.outputs[0])} is read as well")
        if any(edit.view.statistics is not None for edit in plan.each(Insert)):
            because = "in a file, a BatchNormalization that changes nothing has no use: nobody trains it"
            return Refusal(NEEDS_STRUCTURE, because)
        made = (self._irreplaceable(edit.view) for edit in plan.each(Replace))
        spelled = (self._norms.unspellable(edit.view, edit.by) for edit in plan.each(Respell))
        return next((no for no in (*made, *spelled) if no is not None), None)

    def copied(self, plan: Plan) -> int:
        """The constants of nodes that get new ones, where other nodes read them."""
        read = [(view, value) for view in plan.views for value in native_node(view.node).inputs if value is not None]
        own = [value for view, value in read if value not in view.inputs]
        held = [self._constants.find(value) for value in own if len({node for node, _ in value.uses()}) > 1]
        return sum(tensor.size for tensor in held if not isinstance(tensor, str))

    def _irreplaceable(self, view: View) -> Refusal | None:
        """Why the node of ``view`` cannot become its operator."""
        node, label = native_node(view.node), self.label(view.node)
        if self._norms.needs_words(view):
            return self._norms.unspeakable(view)
        wanted = operator_of(view)
        if (node.op_type, wanted) not in REPLACEMENTS or node in self._norms:
            return Refusal(NEEDS_STRUCTURE, f"{label} cannot become {wanted or 'another operator'} as it stands")
        if wanted == "Gemm" and len(self.shape(view.inputs[0]) or ()) != 2:
            return Refusal(MATRIX, f"the input of {label} is not known to be a matrix, as that of a Gemm is")
        return None

    def commit(self, plan: Plan) -> dict[Value, str]:
        """Carry out ``plan`` on the model."""
        self.committed = True
        self._shapes.outdate()
        # Other views stay as they are cached only where every edge that changes is next to a node that the plan names.
        reached = self._norms.reach(native_node(view.node) for view in plan.views)
        local = not reached and all(isinstance(edit, SetView | Bypass) for edit in plan.edits)
        stale = self._around(plan) if local else None
        # Each edit's edges are looked up before the first edit moves any.
        rest = sorted(
            (e for e in plan.edits if not isinstance(e, SetView | SetConstant)),
            key=lambda edit: ORDER.index(type(edit)),
        )
        steps = [self._step(edit) for edit in rest]
        for edit in plan.each(SetView):
            self._norms.write(edit.view)
        for one in plan.each(SetConstant):
            self._store(native_value(one.value), one.array)
        # New constants are named after values, so those change their names afterwards.
        names: dict[Value, str] = {}
        for value in (native_value(change.value) for change in plan.changed):
            names[value] = value.name = self.fresh_name(f"{value.name}_folded")
        for step in steps:
            step()
        self._shapes.outdate()
        self._constants.forget_expressions()
        if stale is None:
            self._views.clear()
        for node in stale or ():
            self._views.pop(node, None)
        self._nodes = ()
        return {value: name for value, name in names.items() if native_value(value).name == name}

    def _store(self, value: ir.Value, array: Array) -> None:
        if value.const_value is None:
            raise TypeError(f"{value.name!r} is not stored")
        # A name that both models have stands for the same values in both.
        name = self.fresh_name(f"{value.name}_folded")
        value.const_value = ExactTensor(array, value.const_value.dtype)
        value.name = value.const_value.name = name
        self._constants.forget(value)

    def _step(self, edit: Replace | Respell | Bypass | Insert | Move | Remove) -> Callable[[], None]:
        """What is to be done for ``edit``, with its edges as they are now."""
        match edit:
            case Replace(view):
                return partial(self._norms.replace if self._norms.needs_words(view) else self._writer.replace, view)
            case Respell(view, by):
                return partial(self._norms.respell, view, by)
            case Bypass(node, value, same):
                slot = position(native_node(node), value)
                return partial(self._bypass, native_node(node), slot, same=same)
            case Insert(view, None):
                return partial(self._writer.insert, native_value(edit.value), view.affine)
            case Insert(view, reader):
                slot = position(native_node(reader), edit.value)
                return partial(self._writer.insert_before, native_node(reader), slot, view.affine)
            case Move(node, behind):
                slot = position(native_node(node), self.view(node).inputs[0])
                return partial(move, native_node(node), slot, native_node(behind), self._shapes, self.fresh_name)
            case Remove(node):
                return partial(_sweep_outputs, native_node(node))

    def _bypass(self, node: ir.Node, slot: int, *, same: bool) -> None:
        source, output = node.inputs[slot], node.outputs[0]
        dims = self._shapes.of(output)
        if same and source is not None and dims is not None:
            self._shapes.tell(source, dims)
        # An output states its shape, and so does what becomes one, which tells of everything behind it.
        learnt = source is not None and source.shape is None and output.is_graph_output()
        bypass(node, slot, same=same)
        if learnt:
            self._shapes.forget()
            self._views.clear()

    def _around(self, plan: Plan) -> set[ir.Node]:
        """The nodes whose views may change with ``plan``: those it names, and whatever stands next to them."""
        named = {native_node(node) for node in (*plan.gone, *(view.node for view in plan.views))}
        values = {value for node in named for value in (*node.inputs, *node.outputs) if value is not None}
        values |= {native_value(change.value) for change in plan.changed}
        made = {producer for value in values if (producer := value.producer()) is not None}
        return named | made | {reader for value in values for reader, _ in value.uses()}

    def fresh_name(self, wanted: str) -> str:
        """``wanted``, or the first numbered variant that no value and no node of the model has."""
        return self._names.fresh(wanted)

    def _sizes(self) -> dict[ir.Value, ir.TensorProtocol]:
        """What operations compute, as far as that is known before the model runs, for others to take sizes from."""
        self._constants.forget_expressions()
        found = {}
        for node in self.nodes():
            for value in node.inputs[1:] if node.op_type in SIZED else ():
                producer = None if value is None else value.producer()
                if value is not None and producer is not None and producer.op_type != "Constant":
                    tensor = self._constants.find(value)
                    if not isinstance(tensor, str):
                        found[value] = tensor
        return found

    def _overridable(self, value: ir.Value) -> bool:
        # Before IR version 4 every initializer had to be listed as an input; runtimes treat them as constants.
        return (self.model.ir_version or 4) >= 4 and value.is_graph_input()


def _sweep_outputs(node: ir.Node) -> None:
    for output in node.outputs:
        sweep(output)
