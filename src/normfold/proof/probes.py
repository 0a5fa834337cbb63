"""Inputs to compare two models on: ordinary ones, and ones that make norms fail.

A norm's arithmetic breaks where a mean is large beside the spread, where the variance is nearly zero
and where values are large: those are probed besides ordinary inputs. Dimensions that the model leaves
open are guessed, and guessed again where the model does not run on them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from normfold import limits
from normfold.core.preprocess import Stage
from normfold.errors import UsageError
from normfold.models.data import UserInputs
from normfold.proof.hints import Role, Size, hint_of, symbol
from normfold.records import Probe

if TYPE_CHECKING:
    import onnx_ir as ir

Array = NDArray[Any]
Dim = int | str | None
Integers = Literal["range", "binary", "zeros"]

BATCH: Final = (2, 1)
SPATIAL: Final = (64, 224, 32, 128, 256, 299, 512, 16, 8, 1)
CHANNELS: Final = (3, 1, 2, 4)
LENGTHS: Final = (16, 8, 32, 64, 128, 1, 2, 224, 1024, 16000)
"""Sizes to try for dimensions left open, the likeliest first."""

MAX_ATTEMPTS: Final = 120
LIKELY: Final = 1 << 24
"""Elements of an input up to which sizes are tried, unless all of them make more: many open dimensions multiply."""
FEW: Final = 16
"""Floating-point numbers up to which an operand is a setting rather than data."""
LARGEST: Final = 1 << 31
"""Bytes of an input above which it is not made."""
TIME_BUDGET: Final = 0.4
"""Seconds that all the probes of one model may take together, where more than two are made."""
INDICES: Final = 100
"""Integers are drawn below this: most are indices into a vocabulary."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A graph input to be fed. ``dtype`` is object for strings and None for what is not a tensor.

    A dimension is a size, a symbol or None; ``shape`` is None where even the rank is unknown. The integers of a
    ``image`` are never indices.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[Dim, ...] | None
    image: bool = False
    role: Role | None = None
    """What the operators that read it take there."""
    sizes: Mapping[int, Size] = field(default_factory=dict)
    """Sizes of open dimensions, by axis, that follow from the constants behind it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A concrete shape for every input, and how integers are drawn."""

    shapes: Mapping[str, tuple[int, ...]]
    integers: Integers
    guessed: tuple[str, ...] = ()
    """Names of the inputs in whose shape a size was guessed."""
    symbols: Mapping[str, int] = field(default_factory=dict)
    """The sizes of the symbols of dimensions."""


@dataclass(frozen=True, slots=True)
class Feed:
    """One complete set of inputs and the record of how each was made."""

    arrays: dict[str, Array]
    probes: tuple[Probe, ...]


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """The inputs of ``model``'s main graph that have no initializer."""
    inputs = (value for value in model.graph.inputs if value.name not in model.graph.initializers)
    return tuple(_spec(value) for value in inputs)


def _spec(value: ir.Value) -> InputSpec:
    # A tensor will do for what may be left out.
    kind: Any = value.type
    if type(kind).__name__ == "OptionalType":
        kind = kind.elem_type
    dtype = np.dtype(kind.dtype.numpy()) if type(kind).__name__ == "TensorType" else None
    shape = None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
    hint = hint_of(value)
    return InputSpec(value.name or "", dtype, shape, role=hint.role, sizes=hint.sizes)


def raw_spec(spec: InputSpec, stage: Stage) -> InputSpec:
    """The raw image that ``stage`` makes the input ``spec`` of."""
    shape = spec.shape
    if shape is not None and stage.order:
        shape = tuple(shape[k] for k in stage.back)
    return InputSpec(spec.name, stage.raw, shape, image=True)


def check_given(specs: Sequence[InputSpec], given: UserInputs) -> None:
    """Raise `UsageError` ``bad-input`` where what the user gave cannot be what the model takes."""
    by_name = {spec.name: spec for spec in specs}
    for name in given.names:
        if name not in by_name:
            names = ", ".join(by_name) or "none"
            raise UsageError("bad-input", f"The model has no input named {name!r}.", f"Its inputs: {names}.")
    for name, shape in given.shapes.items():
        _check_shape(by_name[name], shape)
    for name, array in given.arrays.items():
        _check_shape(by_name[name], array.shape)
        _check_dtype(by_name[name], array)
        if name in given.shapes and given.shapes[name] != array.shape:
            raise UsageError("bad-input", f"Input {name!r} is given as an array and with another shape.")


def unmakeable(specs: Sequence[InputSpec], given: UserInputs) -> str:
    """Which input can be neither generated nor taken from what the user gave, and why; empty where there is none."""
    for spec in specs:
        if spec.dtype is None:
            return f"input {spec.name!r} is not a tensor, so it cannot be generated"
        if spec.dtype == object and spec.name not in given.arrays:
            return (
                f"input {spec.name!r} takes strings, which cannot be generated: "
                f"pass --inputs FILE.npz with an array named {spec.name!r}"
            )
    return ""


def _check_shape(spec: InputSpec, shape: tuple[int, ...]) -> None:
    if any(size < 0 for size in shape):
        raise UsageError("bad-input", f"Input {spec.name!r} is given a negative size: {shape}.")
    if spec.shape is None:
        return
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise UsageError("bad-input", f"Input {spec.name!r} has shape {_text(spec.shape)}, not {_text(shape)}.")


def _check_dtype(spec: InputSpec, array: Array) -> None:
    if not _can_become(array.dtype, spec.dtype):
        takes = "no tensor" if spec.dtype is None else spec.dtype.name
        raise UsageError("bad-input", f"Input {spec.name!r} takes {takes}, not {array.dtype.name}.")


def _can_become(given: np.dtype[Any], taken: np.dtype[Any] | None) -> bool:
    if taken is None:
        return False
    if taken.kind == "O":
        return given.kind in "OUS"
    if is_float(taken):
        return given == taken or given.kind in "fiub"
    return np.can_cast(given, taken, "same_kind")


def _text(shape: Sequence[Dim]) -> str:
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "scalar"


def layouts(specs: Sequence[InputSpec], given: UserInputs) -> Iterator[Layout]:
    """Layouts to try in turn until the source runs: at most `MAX_ATTEMPTS`, none twice.

    Equal symbols get equal sizes, also where the user's shapes fix them.
    """
    drawn = any(_is_index(spec) and spec.role is None and spec.name not in given.arrays for spec in specs)
    modes: tuple[Integers, ...] = ("range", "binary", "zeros") if drawn else ("range",)
    every = (replace(layout, integers=mode) for layout in _shape_attempts(specs, given) for mode in modes)
    yield from itertools.islice(every, MAX_ATTEMPTS)


def too_large(specs: Sequence[InputSpec], layout: Layout) -> str:
    """Which input of ``layout`` is too large to be made, and how large it is; empty where there is none."""
    for spec in specs:
        shape = layout.shapes[spec.name]
        size = math.prod(shape) * (spec.dtype.itemsize if spec.dtype is not None else 0)
        if size > LARGEST:
            return f"input {spec.name!r} of shape {_text(shape)} takes {size >> 30} GiB"
    return ""


Sizes = dict[str, int]


def _shape_attempts(specs: Sequence[InputSpec], given: UserInputs) -> Iterator[Layout]:
    """Layouts with shapes that no other has, those of likely sizes only where there are any."""
    seen: list[Layout] = []
    for sizes, tried in itertools.product(_sizes(), (_with_states(specs), specs)):
        layout = _layout(tried, given, sizes)
        if all(layout.shapes != other.shapes for other in seen):
            seen.append(layout)
    elements = [max((math.prod(shape) for shape in layout.shapes.values()), default=1) for layout in seen]
    most = max(LIKELY, min(elements))
    yield from (layout for layout, count in zip(seen, elements, strict=True) if count <= most)


def _with_states(specs: Sequence[InputSpec]) -> list[InputSpec]:
    """``specs`` in which an input like ``[layers, ?, hidden]``, beside one with an open batch, is a state of it."""
    batch = next((_symbol(spec, 0) for spec in specs if spec.shape and not isinstance(spec.shape[0], int)), None)
    if batch is None:
        return list(specs)
    return [replace(spec, sizes={1: batch}) if _may_be_state(spec) else spec for spec in specs]


def _may_be_state(spec: InputSpec) -> bool:
    if spec.shape is None or len(spec.shape) != 3 or spec.sizes or not is_float(spec.dtype):
        return False
    layers, batch, hidden = spec.shape
    return isinstance(layers, int) and not batch and isinstance(hidden, int)


def _layout(specs: Sequence[InputSpec], given: UserInputs, sizes: Sizes) -> Layout:
    """The layout in which what is neither given, implied nor said is of ``sizes``, by its role in a shape."""
    fixed = dict(given.shapes) | {name: array.shape for name, array in given.arrays.items()}
    symbols = {
        _symbol(spec, axis): size
        for spec in specs
        if spec.name in fixed and spec.shape is not None
        for axis, size in enumerate(fixed[spec.name])
    }
    dims = [(spec, axis) for spec in specs if spec.name not in fixed for axis in _open(spec)]
    likely = {_symbol(spec, axis): sizes[_role(axis, _dims(spec))] for spec, axis in dims}
    implied = {_symbol(spec, axis): spec.sizes[axis] for spec, axis in dims if axis in spec.sizes}
    for name, size in implied.items():
        if isinstance(size, int):
            symbols.setdefault(name, size)
    for name, size in likely.items():
        if name not in implied and _sum_of(name, likely) is None:
            symbols.setdefault(name, size)
    for name, size in implied.items():
        # Two open dimensions that must be equal: the one that is filled first decides.
        symbols.setdefault(name, symbols.setdefault(str(size), likely[name]))
    for name, size in likely.items():
        symbols.setdefault(name, _sum_of(name, symbols) or size)
    shapes = {
        spec.name: tuple(
            dim if isinstance(dim, int) else symbols.get(_symbol(spec, axis), 1) for axis, dim in enumerate(_dims(spec))
        )
        for spec in specs
    }
    guessed = tuple(dict.fromkeys(spec.name for spec, _ in dims))
    return Layout(shapes | fixed, "range", guessed, symbols)


def _open(spec: InputSpec) -> list[int]:
    return [axis for axis, dim in enumerate(_dims(spec)) if not isinstance(dim, int)]


def _sizes() -> Iterator[Sizes]:
    """Guesses by role: sizes of images and sequences first, then a batch of one, then channels."""
    for batch, channels in ((BATCH[0], CHANNELS[0]), (BATCH[1], CHANNELS[0]), *((BATCH[0], c) for c in CHANNELS[1:])):
        for spatial, length in itertools.zip_longest(SPATIAL, LENGTHS, fillvalue=LENGTHS[0]):
            yield {"batch": batch, "channels": channels, "spatial": spatial, "length": length}


def _symbol(spec: InputSpec, axis: int) -> str:
    """What must be equal wherever it occurs: a symbol, the unnamed batch, else this one dimension."""
    dim = spec.shape[axis] if spec.shape else None
    return dim if isinstance(dim, str) and dim else symbol(spec.name, axis)


def _sum_of(name: str, symbols: Mapping[str, int]) -> int | None:
    """The size of a symbol that is spelt as a sum or product of others; None where it is not."""
    total, terms = 0, [term.strip() for term in name.split("+")]
    if len(terms) == 1 and "*" not in name:
        return None
    for term in terms:
        factors = [factor.strip() for factor in term.split("*")]
        if not all(factor.isdigit() or factor in symbols for factor in factors):
            return None
        total += math.prod(int(factor) if factor.isdigit() else symbols[factor] for factor in factors)
    return total


def _dims(spec: InputSpec) -> tuple[Dim, ...]:
    return (None, None, None, None) if spec.shape is None else spec.shape


def _role(axis: int, shape: Sequence[Dim]) -> str:
    if axis == 0:
        return "batch"
    if len(shape) < 4:
        return "length"
    last = shape[-1]
    channels_last = isinstance(last, int) and last in CHANNELS
    return "channels" if axis == 1 and not channels_last else "spatial"


def is_float(dtype: np.dtype[Any] | None) -> bool:
    """Whether ``dtype`` is a floating-point type, those of ml_dtypes included."""
    return dtype is not None and (dtype.kind == "f" or dtype.name.startswith(("bfloat", "float")))


def finfo(dtype: np.dtype[Any] | str) -> Any:
    """Limits of a floating-point type, as `numpy.finfo`, for those of ml_dtypes too."""
    import ml_dtypes

    limits: Any = ml_dtypes.finfo
    return limits(dtype)


def _is_index(spec: InputSpec) -> bool:
    """Integers of 16 bits or more: likely indices. Bytes are taken for images or quantised values."""
    return spec.dtype is not None and spec.dtype.kind in "iu" and not _has_levels(spec)


def _has_levels(spec: InputSpec) -> bool:
    """Whether an input takes every integer of its type."""
    return spec.dtype is not None and spec.dtype.kind in "iu" and (spec.image or spec.dtype.itemsize == 1)


Random = np.random.Generator
Level = Literal["all", "highest", "lowest"]
Maker = Callable[[Random, tuple[int, ...], float], Array]


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to make floating-point inputs. ``make`` takes the generator, the shape and the scale to use."""

    name: str
    made: str
    make: Maker
    half_scale: float = 1.0
    """Factor in half precision, where the network's insides would overflow."""
    level: Level | None = None
    """Which integers are made of this kind where an input takes every integer of its type."""


KINDS: Final[tuple[Kind, ...]] = (
    Kind("random", "standard normal", lambda rng, shape, _: rng.standard_normal(shape), level="all"),
    Kind("large-mean", "normal around 100", lambda rng, shape, k: 100 * k + rng.standard_normal(shape), 0.1, "highest"),
    Kind("image-like", "uniform in [0, 1]", lambda rng, shape, _: rng.random(shape)),
    Kind("near-constant", "0.5 with noise of 1e-3", lambda rng, shape, _: 0.5 + 1e-3 * rng.standard_normal(shape)),
    Kind("extreme-scale", "normal times 1000", lambda rng, shape, k: 1e3 * k * rng.standard_normal(shape), 0.03),
    Kind("zeros", "zeros", lambda _rng, shape, _: np.zeros(shape), level="lowest"),
)
"""Most telling first: where a run is slow only the first ones are used."""


def kinds_for(specs: Sequence[InputSpec], seconds: float) -> tuple[Kind, ...]:
    """Kinds worth making where one run takes ``seconds``: all within `TIME_BUDGET`, and two at the least."""
    if not any(is_float(spec.dtype) for spec in specs):
        return tuple(kind for kind in KINDS if kind.level) if any(map(_has_levels, specs)) else KINDS[:2]
    return KINDS[: max(2, int(TIME_BUDGET / max(seconds, 1e-6)))]


def nudged(feed: Feed, eps: float, seed: int) -> dict[str, Array]:
    """The feed with every floating-point number moved by one unit of rounding, ``eps``, up or down."""
    rng = np.random.default_rng([seed, len(KINDS)])
    return {name: _nudge(array, eps, rng) if is_float(array.dtype) else array for name, array in feed.arrays.items()}


def _nudge(array: Array, eps: float, rng: Random) -> Array:
    signs = rng.integers(0, 2, array.shape) * 2.0 - 1.0
    return np.asarray(array.astype(np.float64) * (1.0 + eps * signs), dtype=array.dtype)


def make_feed(specs: Sequence[InputSpec], given: UserInputs, layout: Layout, kind: Kind, seed: int) -> Feed:
    """Inputs of one kind; equal arguments give equal inputs.

    An array that the user gave replaces the random probe. In the other probes it stays where it is not
    of floating point, since those are valid indices, masks and texts.
    """
    arrays, probes = {}, []
    for position, spec in enumerate(specs):
        limits.check()
        rng = np.random.default_rng([seed, KINDS.index(kind), position])
        array, made = _make(spec, given, layout, kind, rng)
        arrays[spec.name] = array
        probes.append(Probe(spec.name, array.shape, "string" if array.dtype == object else array.dtype.name, made))
    return Feed(arrays, tuple(probes))


def _make(spec: InputSpec, given: UserInputs, layout: Layout, kind: Kind, rng: Random) -> tuple[Array, str]:
    dtype, shape = spec.dtype, layout.shapes[spec.name]
    if dtype is None:
        raise TypeError(f"input {spec.name!r} is not a tensor")
    if spec.name in given.arrays and (kind is KINDS[0] or not (spec.image or is_float(dtype))):
        return given.arrays[spec.name].astype(dtype), "given"
    guessed = "; sizes guessed" if spec.name in layout.guessed else ""
    if spec.role is not None and not spec.image:
        played = _played(spec.role, dtype, shape, layout, rng, KINDS.index(kind))
        if played is not None:
            return played[0], played[1] + guessed
    if is_float(dtype):
        values = _floats(kind, dtype, shape, rng)
        positive = spec.role is not None and spec.role.positive
        return abs(values) if positive else values, f"{kind.name}: {kind.made}{guessed}"
    if _has_levels(spec):
        array, made = _levels(kind.level or "all", dtype, shape, rng)
    else:
        array, made = _discrete(spec.name, dtype, shape, layout.integers, rng)
    return array, made + guessed


def _played(
    role: Role, dtype: np.dtype[Any], shape: tuple[int, ...], layout: Layout, rng: Random, turn: int
) -> tuple[Array, str] | None:
    """Elements that ``role`` asks for at this ``turn``; None where it leaves them to be drawn."""
    values = role.values if not role.turns else role.turns[turn % len(role.turns) :][:1]
    if values and (dtype.kind in "iub" or math.prod(shape) <= FEW):
        numbers = [layout.symbols.get(value, 1) if isinstance(value, str) else value for value in values]
        limits = None if dtype.kind not in "iu" else np.iinfo(dtype)
        if limits is not None:
            numbers = [min(max(number, limits.min), limits.max) for number in numbers]
        return np.resize(np.asarray(numbers), shape).astype(dtype), "what the operator that reads it takes"
    below = layout.symbols.get(role.below) if isinstance(role.below, str) else role.below
    if dtype.kind not in "iu" or (below is None and not role.least):
        return None
    top = max(role.least + 1, min(INDICES if below is None else below, np.iinfo(dtype).max))
    return rng.integers(role.least, top, shape).astype(dtype), f"integers {role.least} to {top - 1}"


def _floats(kind: Kind, dtype: np.dtype[Any], shape: tuple[int, ...], rng: Random) -> Array:
    scale = kind.half_scale if dtype.itemsize < 4 else 1.0
    bound = float(finfo(dtype).max) / 4
    return np.asarray(np.clip(kind.make(rng, shape, scale), -bound, bound), dtype=dtype)


def _levels(level: Level, dtype: np.dtype[Any], shape: tuple[int, ...], rng: Random) -> tuple[Array, str]:
    """Integers of an image or of quantised values: drawn from all of them, or nothing but one end."""
    info = np.iinfo(dtype)
    if level == "all":
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True), f"integers {info.min} to {info.max}"
    end = info.max if level == "highest" else info.min
    return np.full(shape, end, dtype), f"{end} everywhere"


def _discrete(
    name: str, dtype: np.dtype[Any], shape: tuple[int, ...], integers: Integers, rng: Random
) -> tuple[Array, str]:
    if dtype.kind == "b":
        return rng.random(shape) < 0.5, "random booleans"
    if dtype.kind not in "iu" or integers == "zeros":
        return np.zeros(shape, dtype), "zeros"
    few = integers == "binary" or any(hint in name.lower() for hint in ("mask", "type"))
    top = 2 if few else INDICES
    return rng.integers(0, top, shape).astype(dtype), f"integers 0 to {top - 1}"
