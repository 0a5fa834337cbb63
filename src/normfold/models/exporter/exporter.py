"""PyTorch's exporter, kept quiet, and its errors in one paragraph with the way out."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import onnx_ir
import torch
from torch import nn

from normfold.backends.onnx import drop_empty_biases
from normfold.errors import UsageError
from normfold.models.exporter.group_norms import write_as_instance_norms
from normfold.models.exporter.interface import SMALLEST, Flat, Interface, Limits
from normfold.models.module.example import Example

OLDEST: Final = 18
"""Opset from which on PyTorch writes models; older ones are converted."""
BFLOAT16: Final = 22
"""Opset from which on convolutions and most others take bfloat16."""
ADAPTER: Final = re.compile(r"No (?:Adapter (?:From|To) Version \$\d+ for|Previous Version of) (\w+)")
"""What onnx's converter says about an operator that it knows no older form of."""
LONGEST: Final = 400
"""Letters of the exporter's reason that are passed on."""
ASIDE: Final = "normfold.aside"
"""Domain in which a node is while it is hidden from onnx's converter."""
UNCHANGED: Final = {"Relu": 6, "BatchNormalization": 9}
"""Operators that compute the same, in inference, from this opset on; later ones take more types."""
TRAINING_MODE: Final = 14
"""Opset from which on BatchNormalization has this attribute."""
NAMED: Final = 3
"""Nodes given as examples in an error."""
OVERLOAD: Final = re.compile(r"OpOverload\(op='([^']+)'")
DATA_DEPENDENT: Final = """\
The control flow depends on the values of a tensor. Write it with torch.where or torch.cond, or export the part \
of the module without it."""
FIXED_SIZE: Final = """\
A dimension that is to be dynamic is fixed by the code. Leave it out of the dynamic axes, or change the code."""
NO_OPERATOR: Final = """\
ONNX has no such operator. Try a newer onnxscript or opset, write it with other operations, or export the part of the \
module without it."""
HINTS: Final = {
    r"data.dependent|dynamic control flow|Could not (?:guard|extract)|torch\.cond": DATA_DEPENDENT,
    r"Constraints violated|ConstraintViolation|specialized|marked .* dynamic|0/1 specialization": FIXED_SIZE,
    r"No ONNX function|DispatchError|UnsupportedOperator|No decompositions registered": NO_OPERATOR,
}
"""What the reason looks like, and what helps; else `ANY_HINT`."""
ANY_HINT: Final = "torch.export.export(module, inputs) shows the whole reason."


def raw_model(module: nn.Module, what: Interface, opset: int | None) -> onnx_ir.Model:
    """``module`` as PyTorch exports it, with nothing optimised but arithmetic on constants.

    Its opset is ``opset``, or the oldest one above that the exporter writes.

    Raises:
        UsageError: ``not-exportable``, with the exporter's reason.
    """
    example, shapes = traced_with(what)
    flat = Flat(module, what.example)
    try:
        with quiet():
            program = torch.onnx.export(
                flat,
                tuple(example.tensors()),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=None if opset is None else max(opset, OLDEST),
                dynamic_shapes=(tuple(shapes),) if any(shapes) else None,
            )
    except Exception as error:
        raise refusal(error) from error
    model: onnx_ir.Model = program.model  # type: ignore[union-attr]
    from onnx_ir.passes import common
    from onnxscript import optimizer

    # Exported as it is, a convolution without a bias computes one of zeros at each run.
    optimizer.fold_constants(model, onnx_shape_inference=True)
    optimizer.remove_unused_nodes(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    drop_empty_biases(model)
    write_as_instance_norms(model)
    common.DeduplicateInitializersPass()(model)
    return model


def opset_for(module: nn.Module, what: Interface) -> int | None:
    """The oldest opset that has the types of ``module`` and its inputs; None: the exporter's own has them."""
    tensors = (*module.parameters(), *module.buffers(), *what.example.tensors())
    return BFLOAT16 if any(tensor.dtype == torch.bfloat16 for tensor in tensors) else None


def lowered(model: onnx_ir.Model, opset: int | None) -> onnx_ir.Model:
    """``model`` in ``opset``, where that is an older one.

    Raises:
        UsageError: ``not-exportable`` where it uses what ``opset`` does not have.
    """
    if opset is None or model.opset_imports.get("") == opset:
        return model
    from onnxscript import version_converter

    heard = _Heard()
    log = logging.getLogger("onnxscript.version_converter")
    spread = log.propagate
    log.addHandler(heard)
    log.propagate = False
    try:
        _set_aside(model, opset)
        version_converter.convert_version(model, opset, fallback=True)
    except Exception as error:  # noqa: BLE001 - onnx raises what it likes
        heard.reason = str(error)
    finally:
        _put_back(model)
        log.removeHandler(heard)
        log.propagate = spread
    if model.opset_imports.get("") != opset:
        reason = _obstacle(model, heard.reason)
        hint = f"Leave the opset out, or ask for one from {OLDEST} on."
        raise UsageError("not-exportable", f"The module cannot be written in opset {opset}: {reason}.", hint)
    return model


def _set_aside(model: onnx_ir.Model, opset: int) -> None:
    """Hide nodes from the converter that are the same in ``opset``, and of which it knows no older form."""
    for node in model.graph.all_nodes():
        training = node.attributes.get("training_mode")
        if node.domain or opset < UNCHANGED.get(node.op_type, opset + 1) or (training and training.as_int()):
            continue
        if opset < TRAINING_MODE:
            node.attributes.pop("training_mode", None)
        node.domain = ASIDE
        model.opset_imports[ASIDE] = 1


def _put_back(model: onnx_ir.Model) -> None:
    for node in model.graph.all_nodes():
        node.domain = "" if node.domain == ASIDE else node.domain
    model.opset_imports.pop(ASIDE, None)


class _Heard(logging.Handler):
    """The last error that was logged."""

    reason = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Note the error of ``record``, if it has one."""
        if record.exc_info and record.exc_info[1] is not None:
            self.reason = str(record.exc_info[1])


def _obstacle(model: onnx_ir.Model, reason: str) -> str:
    """What keeps ``model`` from an older opset: the nodes by name, where the converter names their operator."""
    found = ADAPTER.search(reason)
    if found is None:
        return " ".join(reason.split())[:LONGEST] or "the conversion to it stops on the way"
    nodes = [str(node.name) for node in model.graph.all_nodes() if node.op_type == found[1]]
    more = f" and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return f"{found[1]} has no older form that onnx knows: {', '.join(nodes[:NAMED])}{more}"


def exported_program(module: nn.Module, what: Interface) -> torch.export.ExportedProgram:
    """``module`` as an ``ExportedProgram`` that is called as the module is.

    Raises:
        UsageError: ``not-exportable``, with PyTorch's reason.
    """
    return program_with(module, *traced_with(what))


def program_with(
    module: nn.Module, example: Example, sizes: Iterable[Mapping[int, Any]]
) -> torch.export.ExportedProgram:
    """``module`` as a program, with what ``torch.export`` is told of the ``sizes`` of each tensor, by axis.

    Raises:
        UsageError: ``not-exportable``, with PyTorch's reason.
    """
    collection = torch.export.ShapesCollection()
    open_tensors = [(tensor, dims) for tensor, dims in zip(example.tensors(), sizes, strict=True) if dims]
    for tensor, dims in open_tensors:
        collection[tensor] = dict(dims)
    kwargs = dict(example.kwargs)
    try:
        with quiet():
            dynamic = collection.dynamic_shapes(module, example.args, kwargs) if open_tensors else None
            return torch.export.export(module, example.args, kwargs, dynamic_shapes=dynamic)
    except Exception as error:
        raise refusal(error) from error


def traced_with(what: Interface) -> tuple[Example, list[dict[int, Any]]]:
    """The example with no dynamic size below `SMALLEST`, and the dynamic sizes by tensor and axis."""
    sizes = what.sizes()
    own = {symbol: size for symbol, size in sizes.items() if symbol not in what.hinted}
    example = what.resized({symbol: max(size, SMALLEST) for symbol, size in own.items()})
    dims: dict[str, Any] = dict.fromkeys(what.hinted, torch.export.Dim.AUTO)
    for symbol in own:
        least, most = what.limits.get(symbol, (0, None))
        dims[symbol] = torch.export.Dim(symbol, min=least, max=most)
    return example, [
        {axis: dims[symbol] for axis, symbol in what.dynamic.get(name, {}).items()} for name in what.inputs
    ]


def dynamic_sizes(program: torch.export.ExportedProgram) -> list[dict[int, str]]:
    """The axes of each input of ``program`` that may have any size, and names for these: equal where sizes are."""
    return [{axis: str(size) for axis, size in sizes.items() if size.is_symbol} for sizes in _symbolic_sizes(program)]


def limits(program: torch.export.ExportedProgram) -> dict[str, Limits]:
    """The smallest and the largest size that ``program`` takes, by the names of `dynamic_sizes`."""
    spans = {str(size): span for size, span in program.range_constraints.items()}
    return {name: (int(span.lower), _number(span.upper)) for name, span in spans.items()}


def _number(end: Any) -> int | None:
    """The end of a range; None where it has none."""
    return int(end) if getattr(end, "is_Integer", False) else None


def _symbolic_sizes(program: torch.export.ExportedProgram) -> Iterator[dict[int, Any]]:
    """The expression for each axis of each input of ``program`` that has no fixed size."""
    inputs = set(program.graph_signature.user_inputs)
    values = (node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs)
    for value in values:
        if isinstance(value, torch.Tensor):
            shape: Sequence[Any] = value.shape
            symbolic = {axis: size for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)}
            yield {axis: size.node.expr for axis, size in symbolic.items()}


def exported_again(
    folded: nn.Module, source: torch.export.ExportedProgram, example: Example
) -> torch.export.ExportedProgram:
    """``folded``, the folded graph of ``source``, as a program that is called as that one, with its dynamic sizes.

    Raises:
        UsageError: ``not-exportable``.
    """
    dims: dict[str, Any] = {}
    for size, span in source.range_constraints.items():
        dims[str(size)] = torch.export.Dim(str(size), min=int(span.lower), max=_number(span.upper))
    auto = torch.export.Dim.AUTO
    symbolic = _symbolic_sizes(source)
    sizes = [{axis: dims.get(str(size), auto) for axis, size in own.items()} for own in symbolic]
    return program_with(folded, example, sizes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While this lasts, PyTorch's advice and warnings are not shown, nor what the module prints a second time."""
    bars: Any = vars(torch.hub)["tqdm"]
    before, interval = logging.root.manager.disable, getattr(bars, "monitor_interval", 0)
    logging.disable(logging.CRITICAL)
    # The first progress bar starts a thread that never ends, shown or not.
    bars.monitor_interval = 0
    try:
        sink = io.StringIO()
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        bars.monitor_interval = interval
        logging.disable(before)


def refusal(error: BaseException) -> UsageError:
    """The error behind ``error``, in one paragraph, with what helps."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = f"{type(error).__name__}: {error}"
    operator = OVERLOAD.search(text)
    reason = f"ONNX has no equivalent of {operator[1]}" if operator else " ".join(_paragraph(text).split())[:LONGEST]
    hint = next((hint for pattern, hint in HINTS.items() if re.search(pattern, text, re.IGNORECASE)), ANY_HINT)
    return UsageError("not-exportable", f"PyTorch cannot export the module: {reason}", hint)


def _paragraph(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n\n", 1)[0]
