"""Whether a node is one that its operator's schema allows: how many inputs, and attributes of which types.

ONNX Runtime and onnx's checker refuse the same nodes. Behind this check, what reads a node may rely on it. An operator
without a schema (of another domain) may look like anything but for the attributes in `CONTRIBUTED`, and an attribute
that the operator does not have means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, cast

from normfold.errors import ModelFileError

if TYPE_CHECKING:
    import onnx

Versions = Mapping[str, int]
"""Version of each operator set, the default domain as ""."""

CONSTANT: Final = "Constant"
ANY_TEXT: Final = frozenset({CONSTANT, "RegexFullMatch", "StringSplit"})
"""Operators that have attributes of any bytes; of others, a text is one of a list of words."""
INT: Final = 2
FLOAT: Final = 1
_GROUPED: Final = {"activation": INT, "channels_last": INT, "epsilon": FLOAT, "groups": INT}
CONTRIBUTED: Final[Mapping[str, Mapping[str, int]]] = {
    "DequantizeLinear": {"axis": INT},
    "EmbedLayerNormalization": {"epsilon": FLOAT},
    "GroupNorm": _GROUPED,
    "MatMulNBits": dict.fromkeys(("K", "N", "accuracy_level", "bits", "block_size"), INT),
    "QuantizeLinear": {"axis": INT},
    "SimplifiedLayerNormalization": {"axis": INT, "epsilon": FLOAT},
    "SkipGroupNorm": _GROUPED,
    "SkipLayerNormalization": {"epsilon": FLOAT},
    "SkipSimplifiedLayerNormalization": {"epsilon": FLOAT},
}
"""Types of the attributes that are read of ONNX Runtime's own operators, for which onnx has no schema."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a schema says of a node of one operator."""

    inputs: tuple[int, int]
    """Fewest and most."""
    outputs: tuple[int, int]
    needed: tuple[int, ...]
    """Positions of inputs that must not be left blank."""
    attributes: Mapping[str, int]
    """Type by name, of the newest version's, too."""
    required: tuple[str, ...]


@cache
def signature(domain: str, operator: str, version: int) -> Signature | None:
    """The signature of ``operator`` in ``version`` of its domain; None where onnx has no schema or it is deprecated.

    An operator that only later versions have, which runtimes may know all the same, is held to the newest one, and
    so are attributes that only that one has.
    """
    from onnx import defs

    try:
        newest = defs.get_schema(operator, domain)
        schema = defs.get_schema(operator, version, domain) if defs.has(operator, version, domain) else newest
    except defs.SchemaError:
        return None
    if schema.deprecated:
        return None
    types = {name: cast("int", attribute.type) for name, attribute in newest.attributes.items()}
    types |= {name: cast("int", attribute.type) for name, attribute in schema.attributes.items()}
    single = defs.OpSchema.FormalParameterOption.Single
    return Signature(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        tuple(position for position, formal in enumerate(schema.inputs) if formal.option == single),
        types,
        tuple(name for name, attribute in schema.attributes.items() if attribute.required),
    )


def check_node(node: onnx.NodeProto, versions: Versions, where: str) -> None:
    """Raise `ModelFileError` ``invalid-model`` where ``node`` is none that its operator allows."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = versions.get(domain)
    known = None if version is None else signature(domain, node.op_type, version)
    if known is None:
        if domain in ("", "com.microsoft"):
            _check_types(node, CONTRIBUTED.get(node.op_type, {}), where)
        return
    _check_types(node, known.attributes, where)
    if not domain and node.op_type not in ANY_TEXT:
        _check_words(node, where)
    _check_count(len(node.input), known.inputs, "inputs", where)
    _check_count(len(node.output), known.outputs, "outputs", where)
    for position in known.needed:
        if position < len(node.input) and not node.input[position]:
            raise _invalid(f"{where} leaves out input {position}, which the operator needs")
    given = {attribute.name for attribute in node.attribute}
    if missing := [name for name in known.required if name not in given]:
        raise _invalid(f"{where} has no attribute {missing[0]!r}")
    if node.op_type == CONSTANT and not domain and (len(given) != 1 or not given <= known.attributes.keys()):
        raise _invalid(f"{where} needs one value, and has the attributes {sorted(given)}")


def _check_types(node: onnx.NodeProto, types: Mapping[str, int], where: str) -> None:
    for attribute in node.attribute:
        if types.get(attribute.name, attribute.type) != attribute.type:
            raise _invalid(f"attribute {attribute.name!r} of {where} is of the wrong type")


def _check_words(node: onnx.NodeProto, where: str) -> None:
    """One of a list of words is text."""
    for attribute in node.attribute:
        try:
            for text in (attribute.s, *attribute.strings):
                text.decode()
        except UnicodeDecodeError as error:
            raise _invalid(f"attribute {attribute.name!r} of {where} is not UTF-8") from error


def _check_count(count: int, bounds: tuple[int, int], what: str, where: str) -> None:
    least, most = bounds
    if not least <= count <= most:
        wanted = str(least) if least == most else f"at least {least}" if count < least else f"at most {most}"
        raise _invalid(f"{where} has {count} {what}; the operator takes {wanted}")


def _invalid(message: str) -> ModelFileError:
    text = f"{message[0].upper()}{message[1:]}."
    return ModelFileError("invalid-model", text, "Export the model again; onnx.checker.check_model may say more.")
