"""What a graph says about inputs that fit it: which operators read them, and at which of their inputs.

An index lies within its table, axes within a rank, a length within its axis; a convolution's weight says how many
channels its input has, and recurrent weights how large a state is. What is not said here is guessed elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx_ir as ir

Size = int | str
"""A number of elements, or the symbol of a dimension of which there will be as many."""

STEPS: Final = 8
"""Operations through which an input is followed to the one that says what it is."""
FAR: Final = (1 << 31) - 1
WINDOW: Final = 8
"""Length of the windows and frames that signal operators are given."""
CARRIERS: Final = frozenset(
    {"Cast", "CastLike", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators that hand on the elements of their first input (Concat: of all) as they are."""
ELEMENTWISE: Final = frozenset(
    {"Abs", "Cast", "Clip", "Dropout", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Neg"}
    | {"Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh"}
)
"""Operators whose output has the shape of their only input that matters."""


@dataclass(frozen=True, slots=True)
class Role:
    """What the elements of an input must be.

    ``values`` are repeated until they fill it; else integers are drawn from ``least`` and ``below``, and
    floating-point numbers are made ``positive``.
    """

    values: tuple[Size | float, ...] = ()
    least: int = 0
    below: Size | None = None
    positive: bool = False
    turns: tuple[int, ...] = ()
    """What a setting is compared with, and a number that is none of it: one for each set of inputs, in turn."""


@dataclass(frozen=True, slots=True)
class Hint:
    """The role of an input, and the sizes that its open dimensions must have by axis."""

    role: Role | None
    sizes: Mapping[int, Size]


def hint_of(value: ir.Value) -> Hint:
    """What the operators that read the input ``value`` say of it."""
    role = next(filter(None, (_role(node, slot) for node, slot in _readers(value))), None) or _setting(value)
    rank = None if value.shape is None else len(value.shape)
    return Hint(role, {} if rank is None else dict(_sizes(value, rank)))


def dims_of(value: ir.Value | None) -> tuple[Size | None, ...] | None:
    """The dimensions of ``value``: those that an input leaves open have symbols of their own."""
    if value is None:
        return None
    if value.shape is None:
        return None if value.const_value is None else tuple(value.const_value.shape.numpy())
    return tuple(_dim(value, axis, dim) for axis, dim in enumerate(value.shape))


def symbol(name: str, axis: int) -> str:
    """The symbol of a dimension without a name: the batch is shared by all inputs."""
    return "" if axis == 0 else f"{name}\0{axis}"


def _dim(value: ir.Value, axis: int, dim: int | ir.SymbolicDim) -> Size | None:
    if isinstance(dim, int):
        return dim
    if dim.value is not None:
        return dim.value
    return symbol(value.name or "", axis) if value.is_graph_input() else None


def _readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """The operators that read ``value``, nearest first, also behind those that only hand its elements on."""
    wave, seen = [value], {value}
    for _ in range(STEPS):
        found = [use for one in wave for use in one.uses()]
        yield from found
        carried = [node for node, slot in found if node.op_type in CARRIERS and (slot == 0 or node.op_type == "Concat")]
        wave = [output for node in carried for output in node.outputs if output not in seen]
        seen.update(wave)


def _setting(value: ir.Value) -> Role | None:
    """The numbers that decide which way the model goes, where ``value`` is one number: a rate, a mode."""
    import onnx_ir

    if dims_of(value) not in ((), (1,)):
        return None
    compared = [node.inputs[1 - slot] for node, slot in _readers(value) if node.op_type == "Equal"]
    held = [onnx_ir.convenience.get_const_tensor(other) for other in compared if other is not None]
    known = dict.fromkeys(int(tensor.numpy().item()) for tensor in held if tensor is not None and tensor.size == 1)
    return Role(turns=(*known, min(known) - 1)) if known else None


Reading = Callable[["ir.Node"], Role | None]


def _role(node: ir.Node, slot: int) -> Role | None:
    reading = ROLES.get((node.op_type, slot))
    if reading is None and node.op_type.startswith("Reduce") and slot == 1:
        return AXES
    return reading(node) if callable(reading) else reading


def _axis(node: ir.Node, default: int, slot: int = 0) -> Size | None:
    """The size of that input along the node's axis."""
    dims, axis = dims_of(node.inputs[slot]), node.attributes.get_int("axis", default)
    return None if dims is None or not -len(dims) <= axis < len(dims) else dims[axis]


def _along(default: int, slot: int = 0) -> Reading:
    """Indices along the axis of another input."""

    def reading(node: ir.Node) -> Role | None:
        size = _axis(node, default, slot)
        return None if size is None else Role(below=size)

    return reading


def _at(slot: int, axis: int, *, whole: bool = False) -> Reading:
    """Indices along one axis of another input, or its ``whole`` length."""

    def reading(node: ir.Node) -> Role | None:
        dims = dims_of(node.inputs[slot])
        size = dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None
        return None if size is None else Role(values=(size,)) if whole else Role(below=size)

    return reading


def _within(node: ir.Node) -> Role | None:
    """Indices of several axes: within the smallest."""
    sizes = [dim for dim in dims_of(node.inputs[0]) or () if isinstance(dim, int)]
    return Role(below=min(sizes)) if sizes else Role(below=1)


def _parts(node: ir.Node) -> Role | None:
    """Equal parts of an axis."""
    size, count = _axis(node, 0), dims_of(node.inputs[1])
    parts = size if not count else count[0]
    if not isinstance(size, int) or not isinstance(parts, int) or parts < 1:
        return None
    return Role(values=(size // parts,)) if size % parts == 0 else None


def _single(node: ir.Node) -> Role | None:
    """The axes of one element."""
    axes = [axis for axis, dim in enumerate(dims_of(node.inputs[0]) or ()) if dim == 1]
    return Role(values=tuple(axes) or (0,))


def _same_sizes(node: ir.Node) -> Role | None:
    dims = dims_of(node.inputs[0])
    return None if dims is None else Role(values=tuple(1 if dim is None else dim for dim in dims))


def _depth(node: ir.Node) -> Role | None:
    depth = node.inputs[1]
    held = None if depth is None else depth.const_value
    return Role(below=10 if held is None else int(held.numpy().reshape(-1)[0]))


def _grid(node: ir.Node) -> Role | None:
    batch = (dims_of(node.inputs[0]) or (1,))[0]
    return Role(values=(1 if batch is None else batch, 1, WINDOW, WINDOW, WINDOW))


AXES: Final = Role(values=tuple(range(16)))
ONE, ZERO = Role(values=(1,)), Role(values=(0,))
ORDER: Final = Role(values=(-1, *[1] * 15))
POSITIVE: Final = Role(positive=True)
ROLES: Final[Mapping[tuple[str, int], Role | Reading]] = {
    ("AffineGrid", 1): _grid,
    ("ArrayFeatureExtractor", 1): _at(0, -1),
    ("BatchNormalization", 4): POSITIVE,
    ("BitShift", 1): Role(below=8),
    ("BlackmanWindow", 0): Role(values=(WINDOW,)),
    ("CenterCropPad", 1): Role(values=(4,)),
    ("Clip", 1): ZERO,
    ("Clip", 2): Role(values=(6,)),
    ("ConstantOfShape", 0): Role(values=(4,)),
    ("CumSum", 1): ZERO,
    ("DFT", 1): Role(values=(WINDOW,)),
    ("DFT", 2): ONE,
    ("DequantizeLinear", 1): POSITIVE,
    ("Div", 1): Role(least=1),
    ("Dropout", 1): Role(values=(0.5,)),
    ("Dropout", 2): ZERO,
    ("Expand", 1): ONE,
    ("Gather", 1): _along(0),
    ("GatherElements", 1): _along(0),
    ("GatherND", 1): _within,
    ("HammingWindow", 0): Role(values=(WINDOW,)),
    ("HannWindow", 0): Role(values=(WINDOW,)),
    ("Loop", 0): Role(values=(3,)),
    ("Loop", 1): ONE,
    ("MelWeightMatrix", 0): Role(values=(WINDOW,)),
    ("MelWeightMatrix", 1): Role(values=(16,)),
    ("MelWeightMatrix", 2): Role(values=(8192,)),
    ("MelWeightMatrix", 3): ZERO,
    ("MelWeightMatrix", 4): Role(values=(4096,)),
    ("Mod", 1): Role(least=1),
    ("NegativeLogLikelihoodLoss", 1): _at(0, 1),
    ("NonMaxSuppression", 2): Role(values=(3,)),
    ("NonMaxSuppression", 3): Role(values=(0.5,)),
    ("NonMaxSuppression", 4): ZERO,
    ("OneHot", 0): _depth,
    ("OneHot", 1): Role(values=(10,)),
    ("Pad", 1): ZERO,
    ("Pad", 3): AXES,
    ("Pow", 1): Role(below=4),
    ("QuantizeLinear", 1): POSITIVE,
    ("Range", 0): ZERO,
    ("Range", 1): Role(values=(WINDOW,)),
    ("Range", 2): ONE,
    ("Reshape", 1): ORDER,
    ("Resize", 1): Role(values=(0,)),
    ("Resize", 2): ONE,
    ("Resize", 3): _same_sizes,
    ("ReverseSequence", 1): ONE,
    ("RoiAlign", 2): _at(0, 0),
    ("STFT", 1): Role(values=(4,)),
    ("STFT", 3): Role(values=(WINDOW,)),
    ("Scatter", 1): _along(0),
    ("ScatterElements", 1): _along(0),
    ("ScatterND", 1): _within,
    ("SequenceAt", 1): ZERO,
    ("SequenceErase", 1): ZERO,
    ("SequenceInsert", 2): ZERO,
    ("Slice", 1): ZERO,
    ("Slice", 2): Role(values=(FAR,)),
    ("Slice", 3): AXES,
    ("Slice", 4): ONE,
    ("SoftmaxCrossEntropyLoss", 1): _at(0, 1),
    ("Split", 1): _parts,
    ("SplitToSequence", 1): _parts,
    ("Squeeze", 1): _single,
    ("Tile", 1): ONE,
    ("TopK", 1): ONE,
    ("Trilu", 1): ZERO,
    ("Unsqueeze", 1): AXES,
    ("Upsample", 1): ONE,
    **{(op, 4): _at(0, 0, whole=True) for op in ("GRU", "LSTM", "RNN")},
    **{("QLinearConv", slot): POSITIVE for slot in (1, 4, 6)},
    **{("QLinearMatMul", slot): POSITIVE for slot in (1, 4, 6)},
}
"""What operators take at which of their inputs, besides the data that they work on."""


def _sizes(value: ir.Value, rank: int) -> Iterator[tuple[int, Size]]:
    """Sizes of the axes of ``value`` that constants behind it imply."""
    pending, seen = [(value, tuple(range(rank)))], {value}
    while pending and len(seen) < 1 << 10:
        at, axes = pending.pop()
        for node, slot in at.uses():
            for axis, size in _implied(node, slot).items():
                if size is not None and -len(axes) <= axis < len(axes):
                    yield axes[axis], size
            beyond = node.outputs[0]
            if beyond in seen or slot != 0:
                continue
            if node.op_type == "Transpose":
                order = node.attributes.get_ints("perm", tuple(reversed(range(len(axes)))))
                if sorted(order) == list(range(len(axes))):
                    pending.append((beyond, tuple(axes[k] for k in order)))
                    seen.add(beyond)
            elif node.op_type in ELEMENTWISE:
                pending.append((beyond, axes))
                seen.add(beyond)


def _implied(node: ir.Node, slot: int) -> Mapping[int, Size | None]:
    """Sizes by axis of the input ``slot`` of ``node`` that follow from the others."""
    op = node.op_type
    dims = [dims_of(operand) for operand in node.inputs]
    if op in ("Conv", "ConvInteger") and slot == 0 and dims[1] and isinstance(dims[1][1], int):
        return {1: dims[1][1] * node.attributes.get_int("group", 1)}
    if op == "ConvTranspose" and slot == 0 and dims[1]:
        return {1: dims[1][0]}
    if op == "MatMul" and slot in (0, 1):
        other = dims[1 - slot]
        return {} if not other else {-1: other[-2 if len(other) > 1 else -1]} if slot == 0 else {-2: other[-1]}
    if op == "Gemm" and slot == 0 and dims[1] and len(dims[1]) == 2:
        inner = dims[1][1 if node.attributes.get_int("transB", 0) else 0]
        return {0 if node.attributes.get_int("transA", 0) else 1: inner}
    if op in ("BatchNormalization", "InstanceNormalization", "GroupNormalization") and slot == 0 and dims[1]:
        return {1: dims[1][0]} if op != "GroupNormalization" else {}
    if op in ("LayerNormalization", "RMSNormalization") and slot == 0 and dims[1]:
        return {axis - len(dims[1]): size for axis, size in enumerate(dims[1])}
    if op in ("GRU", "LSTM", "RNN") and len(dims) > 2 and dims[1] and dims[2]:
        return _recurrent(slot, dims[0], dims[1], dims[2])
    return {}


def _recurrent(
    slot: int, data: tuple[Size | None, ...] | None, weight: tuple[Size | None, ...], state: tuple[Size | None, ...]
) -> Mapping[int, Size | None]:
    """The features of a sequence; directions, batch and hidden size of a state."""
    if slot == 0:
        return {2: weight[-1]}
    if slot in (5, 6):
        return {0: weight[0], 1: data[1] if data else None, 2: state[-1]}
    return {0: data[1]} if slot == 4 and data else {}
