"""One kind of norm by the operation of another: exact in float64, whatever the input, in files and in modules."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import normfold
from folding import array, model, run
from normfold.backends.torch.modules import DynamicTanh, FrozenBatchNorm, Regrouped, StaticAffine
from normfold.passes.convert import MATRIX
from normfold.passes.convert.respell import CONVERSION
from torch_nets import define_vision_operators

CHANNELS = 8
EPSILON = 1e-3
HELD = {"g": array(CHANNELS), "b": array(CHANNELS, seed=1)}
GROUPS = "[norm] y = GroupNormalization <num_groups = 4, epsilon = 0.001> (x, g, b)"

INSTANCE = "y = InstanceNormalization <epsilon = 0.001> (x, g, b)"


def bound(x: np.ndarray, axes: tuple[int, ...]) -> float:
    """What float64 allows: a large mean over a small deviation cancels digits in any norm."""
    spread = np.abs(x.mean(axes)) / np.sqrt(x.var(axes) + EPSILON)
    return max(1e-12, 1e-13 * (1 + float(spread.max(initial=0.0))))


def inputs(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Ordinary inputs, and such as bring a norm into trouble."""
    x = np.random.default_rng(0).normal(0, 1, shape)
    return {"ordinary": x, "large mean": x + 1e4, "small": x * 1e-6, "constant": np.full(shape, 3.0), "huge": x * 1e8}


def largest_error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / max(np.ptp(wanted), 1e-300)) if not np.array_equal(got, wanted) else 0.0


def batch(kind: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    norm = kind(CHANNELS, eps=EPSILON)
    norm.running_mean.data = torch.randn(CHANNELS)
    norm.running_var.data = torch.rand(CHANNELS) + 0.1
    return norm


def running_instance() -> nn.Module:
    return batch(lambda channels, eps: nn.InstanceNorm2d(channels, eps, affine=True, track_running_stats=True))


def frozen() -> nn.Module:
    return batch(FrozenBatchNorm)


IMAGE, TOKENS = (3, CHANNELS, 5, 4), (3, 6, CHANNELS)
OVER_GROUPS, OVER_LAST, NOTHING = (2, 3), (-1,), ()

CELLS: list[tuple[Callable[[], nn.Module], str, tuple[int, ...], tuple[int, ...], type[nn.Module]]] = [
    (lambda: nn.GroupNorm(4, CHANNELS, EPSILON), "instance", IMAGE, OVER_GROUPS, Regrouped),
    (lambda: nn.GroupNorm(4, CHANNELS, EPSILON), "layer", IMAGE, OVER_GROUPS, Regrouped),
    (lambda: nn.GroupNorm(4, CHANNELS, EPSILON, affine=False), "layer", IMAGE, OVER_GROUPS, Regrouped),
    (lambda: nn.GroupNorm(CHANNELS, CHANNELS, EPSILON), "instance", IMAGE, OVER_GROUPS, nn.InstanceNorm2d),
    (lambda: nn.InstanceNorm2d(CHANNELS, EPSILON, affine=True), "group", IMAGE, OVER_GROUPS, nn.GroupNorm),
    (lambda: nn.InstanceNorm2d(CHANNELS, EPSILON), "group:size=1", IMAGE, OVER_GROUPS, nn.GroupNorm),
    (lambda: nn.InstanceNorm2d(CHANNELS, EPSILON), "layer", IMAGE, OVER_GROUPS, Regrouped),
    (lambda: nn.LayerNorm(CHANNELS, EPSILON), "group", TOKENS, OVER_LAST, Regrouped),
    (lambda: nn.LayerNorm(CHANNELS, EPSILON, bias=False), "instance", TOKENS, OVER_LAST, Regrouped),
    (lambda: nn.LayerNorm((6, CHANNELS), EPSILON), "group:count=1", TOKENS, (-2, -1), Regrouped),
    (lambda: nn.RMSNorm(CHANNELS, EPSILON), "layer", TOKENS, OVER_LAST, Regrouped),
    (lambda: nn.RMSNorm(CHANNELS, EPSILON), "group", TOKENS, OVER_LAST, Regrouped),
    (lambda: nn.RMSNorm(CHANNELS, EPSILON, elementwise_affine=False), "instance", TOKENS, OVER_LAST, Regrouped),
    (batch, "frozen", IMAGE, NOTHING, FrozenBatchNorm),
    (batch, "static", IMAGE, NOTHING, StaticAffine),
    (lambda: batch(nn.SyncBatchNorm), "batch", IMAGE, NOTHING, nn.BatchNorm2d),
    (lambda: batch(nn.SyncBatchNorm), "frozen", IMAGE, NOTHING, FrozenBatchNorm),
    (frozen, "batch", IMAGE, NOTHING, nn.BatchNorm2d),
    (frozen, "static", IMAGE, NOTHING, StaticAffine),
    (running_instance, "batch", IMAGE, NOTHING, nn.BatchNorm2d),
    (running_instance, "frozen", IMAGE, NOTHING, FrozenBatchNorm),
    (lambda: batch(nn.BatchNorm1d), "frozen", (3, CHANNELS), NOTHING, FrozenBatchNorm),
    (lambda: batch(nn.BatchNorm3d), "static", (3, CHANNELS, 2, 2, 2), NOTHING, StaticAffine),
]


def shaken(norm: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in norm.parameters():
        parameter.data = torch.randn_like(parameter)
    return nn.Sequential(nn.Identity(), nn.Sequential(norm)).double().eval()


@pytest.mark.parametrize(("make", "to", "shape", "axes", "kind"), CELLS)
def test_modules(
    make: Callable[[], nn.Module],
    to: str,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    kind: type[nn.Module],
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    source = shaken(make())
    done = normfold.convert(source, (torch.randn(shape, dtype=torch.float64),), to=to)
    ((decision, norm),) = zip(done.decisions, [done.model[1][0]], strict=True)
    assert (decision.outcome, decision.to, decision.label) == ("converted", to.partition(":")[0], "exact")
    assert done.verification.status == "equivalent"
    assert type(norm) is kind
    for what, x in inputs(shape).items():
        with torch.no_grad():
            wanted, got = (one[1](torch.from_numpy(x)).numpy() for one in (source, done.model))
        assert largest_error(got, wanted) <= bound(x, axes), what
    # Ready to be trained, and restored from a file.
    assert {p.requires_grad for p in norm.parameters()} <= {True}
    done.save(tmp_path / "converted.safetensors")
    restored = normfold.restore(shaken(make()), tmp_path / "converted.safetensors").eval()
    assert type(restored[1][0]) is kind
    x = torch.randn(shape, dtype=torch.float64)
    assert torch.equal(restored(x), done.model(x))


@pytest.mark.parametrize("to", ["frozen", "static"])
def test_fixed_statistics_stay_fixed_in_training(to: str) -> None:
    done = normfold.convert(shaken(batch()), (torch.randn(IMAGE, dtype=torch.float64),), to=to)
    before = {name: tensor.clone() for name, tensor in done.model.state_dict().items()}
    x = torch.randn(IMAGE, dtype=torch.float64)
    wanted = done.model(x)
    assert torch.equal(done.model.train()(x), wanted)
    assert all(torch.equal(before[name], tensor) for name, tensor in done.model.state_dict().items())


def test_a_subclass_keeps_its_activation(tmp_path: Path) -> None:
    """torch's own convert_sync_batchnorm drops it."""
    define_vision_operators()
    timm = pytest.importorskip("timm.layers")

    def make() -> nn.Module:
        torch.manual_seed(0)
        return shaken(batch(timm.BatchNormAct2d))

    x = torch.randn(IMAGE, dtype=torch.float64)
    done = normfold.convert(make(), (x,), to="frozen")
    assert done.decisions[0].outcome == "converted"
    assert [type(one) for one in done.model[1][0]] == [FrozenBatchNorm, nn.Identity, nn.ReLU]
    assert torch.equal(done.model(x), make()(x))
    done.save(tmp_path / "converted.safetensors")
    restored = normfold.restore(make(), tmp_path / "converted.safetensors").eval()
    assert torch.equal(restored(x), done.model(x))


def test_a_converted_module_is_read_again() -> None:
    """What a conversion makes is a norm to the next call."""
    x = torch.randn(IMAGE, dtype=torch.float64)
    source = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), shaken(batch())[1][0]).double().eval()
    done = normfold.convert(source, (x,), to="frozen")
    folded = normfold.fold(done.model, (x,))
    assert [one.outcome for one in folded.decisions] == ["folded"]
    back = normfold.convert(done.model, (x,), to="batch")
    assert type(back.model[1]) is nn.BatchNorm2d
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(back.model.state_dict()[name], tensor)


FILES = [
    (GROUPS, "instance", 21, ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]),
    (GROUPS, "layer", 21, ["Reshape", "LayerNormalization", "Reshape", "Mul", "Add"]),
    (INSTANCE, "layer", 17, ["Reshape", "LayerNormalization", "Reshape", "Mul", "Add"]),
    (
        INSTANCE,
        "layer",
        16,
        ["Reshape", "ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Reshape", "Mul", "Add"],
    ),
]
TRAILING = [
    ("y = LayerNormalization <epsilon = 0.001> (x, g, b)", "instance", 17),
    ("y = LayerNormalization <epsilon = 0.001> (x, g)", "group", 21),
    ("y, m = LayerNormalization <epsilon = 0.001> (x, g)", "instance", 21),
    ("y = RMSNormalization <epsilon = 0.001> (x, g)", "layer", 23),
    ("y = RMSNormalization <epsilon = 0.001> (x, g)", "group", 23),
    ("y = RMSNormalization <epsilon = 0.001> (x, g)", "instance", 23),
]


def converted(source: onnx.ModelProto, to: str) -> onnx.ModelProto:
    done = normfold.convert(source, to=to)
    assert [(one.outcome, one.to, one.label) for one in done.decisions] == [("converted", to, "exact")]
    assert done.verification.status == "equivalent"
    return done.model


def compared(source: onnx.ModelProto, result: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    feeds = {"x": np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)}
    wanted, got = run(source, feeds)["y"], run(result, feeds)["y"]
    assert np.abs(wanted - got).max() < 1e-5 * np.ptp(wanted)


@pytest.mark.parametrize(("line", "to", "opset", "operators"), FILES)
@pytest.mark.parametrize(
    "inputs", ["float[2,8,5,5] x", "float[N,8,5,5] x", "float[N,8,H,6] x", "float[N,8,H,W] x", "float[3,8,7] x"]
)
def test_groups_in_files(inputs: str, line: str, to: str, opset: int, operators: list[str]) -> None:
    source = model(inputs, [line], HELD, opset=opset, ir_version=10)
    result = converted(source, to)
    compared(source, result, tuple(size.dim_value or 4 for size in source.graph.input[0].type.tensor_type.shape.dim))
    shape = ["Shape"] if inputs == "float[N,8,H,W] x" and len(operators) > 1 else []
    # A reshape that changes nothing is cleaned away.
    wanted = [one for one in operators if one != "Reshape" or line != INSTANCE or "[3,8,7]" not in inputs]
    assert Counter(node.op_type for node in result.graph.node) == Counter(wanted + shape)


@pytest.mark.parametrize(("line", "to", "opset"), TRAILING)
@pytest.mark.parametrize("inputs", ["float[2,5,8] x", "float[N,5,8] x", "float[N,T,8] x", "float[3,8] x"])
def test_last_axes_in_files(inputs: str, line: str, to: str, opset: int) -> None:
    held = {name: values for name, values in HELD.items() if f", {name}" in line}
    source = model(inputs, [line], held, opset=opset, ir_version=11 if opset > 21 else 10)
    result = converted(source, to)
    compared(source, result, tuple(size.dim_value or 4 for size in source.graph.input[0].type.tensor_type.shape.dim))
    assert not {node.op_type for node in source.graph.node} & {node.op_type for node in result.graph.node}


def normalised(x: np.ndarray, *, centred: bool, epsilon: float) -> np.ndarray:
    """Over the last axis; the mean of what is left is taken away, too, so that no digits are lost."""
    for _ in range(2 if centred else 0):
        x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)


@pytest.mark.parametrize(
    ("line", "to", "opset", "count", "epsilon"),
    [
        (GROUPS.replace("0.001", "0.5"), "layer", 21, 4, 0.5),
        (GROUPS, "layer", 21, 4, float(np.float32(1e-3))),
        (GROUPS, "instance", 21, 4, float(np.float32(1e-3))),
        (INSTANCE, "layer", 17, CHANNELS, float(np.float32(1e-3))),
        (INSTANCE, "layer", 11, CHANNELS, float(np.float32(1e-3))),
        ("y = LayerNormalization <epsilon = 0.001> (x, g, b)", "instance", 17, 0, float(np.float32(1e-3))),
        ("y = LayerNormalization <epsilon = 0.001> (x, g)", "group", 21, 0, float(np.float32(1e-3))),
        ("y = RMSNormalization <epsilon = 0.5, stash_type = 11> (x, g)", "layer", 23, 0, 0.5),
        ("y = RMSNormalization <epsilon = 0.001, stash_type = 11> (x, g)", "group", 23, 0, float(np.float32(1e-3))),
    ],
)
def test_in_double_precision(line: str, to: str, opset: int, count: int, epsilon: float) -> None:
    held = {name: values.astype(np.float64) for name, values in HELD.items() if f", {name}" in line}
    shape = IMAGE if count else TOKENS
    source = model(
        f"double[{','.join(map(str, shape))}] x", [line], held, outputs="double[] y", opset=opset, ir_version=10
    )
    done = normfold.convert(source, to=to, verify=False)
    assert [one.outcome for one in done.decisions] == ["converted"]
    for what, x in inputs(shape).items():
        flat = normalised(x.reshape(3, count, -1) if count else x, centred="RMS" not in line, epsilon=epsilon)
        spread = (CHANNELS, 1, 1) if count else (CHANNELS,)
        constants = {"g": np.ones(CHANNELS), "b": np.zeros(CHANNELS)} | held
        wanted = flat.reshape(shape) * constants["g"].reshape(spread) + constants["b"].reshape(spread)
        got = run(done.model, {"x": x})["y"]
        assert largest_error(got, wanted) <= bound(x, (2, 3) if count else (-1,)), what


SLACK, UNIT = 4.0, 2.0**-24
"""How many times the source's own deviation from float64 a result may have in float32, and one rounding."""


def floor(x: np.ndarray, wanted: np.ndarray) -> float:
    """Deviation that no float32 norm can be held to: one rounding, of a constant input amplified by 1/sqrt(epsilon)."""
    if np.ptp(x) == 0:
        return float(UNIT * np.abs(x).max() / EPSILON**0.5 * 3)
    return float(UNIT * np.ptp(wanted))


def compared_in_single(
    source: Callable[[np.ndarray], np.ndarray],
    result: Callable[[np.ndarray], np.ndarray],
    exact: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, ...],
) -> None:
    for what, values in inputs(shape).items():
        x = values.astype(np.float32)
        wanted = exact(x.astype(np.float64))
        own, got = (float(np.abs(one(x).astype(np.float64) - wanted).max()) for one in (source, result))
        if np.isnan(own):  # ONNX Runtime takes a GroupNormalization apart, into the root of a negative number.
            own = float(UNIT * np.ptp(wanted) * (1 + np.abs(x).mean() / x.std()))
        assert got <= SLACK * max(own, floor(x, wanted)), (what, got, own)


def called(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    def call(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(x)).numpy())

    return call


def in_stream() -> nn.Module:
    return nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.LayerNorm(CHANNELS, EPSILON), nn.Linear(CHANNELS, 4))


def squashed() -> nn.Module:
    return nn.Sequential(nn.Linear(CHANNELS, CHANNELS), DynamicTanh((CHANNELS,)), nn.Linear(CHANNELS, 4))


@pytest.mark.parametrize(
    ("make", "to", "shape"),
    [
        *((make, to, shape) for make, to, shape, *_ in CELLS),
        (in_stream, "rms", TOKENS),
        (squashed, "tanh", TOKENS),
    ],
)
def test_modules_in_single_precision(make: Callable[[], nn.Module], to: str, shape: tuple[int, ...]) -> None:
    """What is exact in float64 costs no digits in float32 that the source has."""
    torch.manual_seed(0)
    source = shaken(make()).float()
    done = normfold.convert(source, (torch.randn(shape),), to=to)
    assert [(one.outcome, one.label) for one in done.decisions] == [("converted", "exact")]
    exact = copy.deepcopy(source).double()
    compared_in_single(called(source), called(done.model), called(exact), shape)


@pytest.mark.parametrize(
    ("line", "to", "opset", "count"),
    [
        (GROUPS, "instance", 21, 4),
        (GROUPS, "layer", 21, 4),
        (INSTANCE, "layer", 17, CHANNELS),
        (INSTANCE, "layer", 16, CHANNELS),
        ("y = LayerNormalization <epsilon = 0.001> (x, g, b)", "instance", 17, 0),
        ("y = LayerNormalization <epsilon = 0.001> (x, g)", "group", 21, 0),
        ("y = RMSNormalization <epsilon = 0.001> (x, g)", "layer", 23, 0),
        ("y = RMSNormalization <epsilon = 0.001> (x, g)", "instance", 23, 0),
    ],
)
def test_files_in_single_precision(line: str, to: str, opset: int, count: int) -> None:
    held = {name: values for name, values in HELD.items() if f", {name}" in line}
    shape = IMAGE if count else TOKENS
    source = model(f"float[{','.join(map(str, shape))}] x", [line], held, opset=opset, ir_version=10)
    result = converted(source, to)
    spread = (CHANNELS, 1, 1) if count else (CHANNELS,)
    g, b = (held[k].astype(np.float64).reshape(spread) if k in held else float(k == "g") for k in "gb")

    def exact(x: np.ndarray) -> np.ndarray:
        flat = x.reshape(len(x), count, -1) if count else x
        normed = normalised(flat, centred="RMS" not in line, epsilon=float(np.float32(EPSILON)))
        return np.asarray(normed.reshape(shape) * g + b)

    compared_in_single(lambda x: run(source, {"x": x})["y"], lambda x: run(result, {"x": x})["y"], exact, shape)


@pytest.mark.parametrize(
    ("line", "inputs", "dtype", "to", "premise"),
    [
        (GROUPS, "float16[2,8,5,5] x", np.float16, "instance", "has-kernel"),
        (GROUPS, "float[] x", np.float32, "layer", "known-rank"),
        (GROUPS, "float[2,8,5,5] x", np.float32, "group:count=2", "same-groups"),
        (GROUPS, "float[2,8,5,5] x", np.float32, "group:size=4", "same-groups"),
        (GROUPS, "float[2,8,5,5] x", np.float32, "group", "convertible"),
        (INSTANCE, "float[2,8,5,5] x", np.float32, "group", "convertible"),
        (GROUPS, "float[2,8,5,5] x", np.float32, "rms", "meaningful"),
        (GROUPS, "float[2,8,5,5] x", np.float32, "tanh", "meaningful"),
        (GROUPS, "float[2,8,5,5] x", np.float32, "batch", "calibration-data"),
        (GROUPS, "float[2,8,5,5] x", np.float32, "dyt", "training-asked"),
        ("y = LayerNormalization(x, g, b)", "float[2,8] x", np.float32, "layer", "convertible"),
        ("y = LayerNormalization <axis = 1> (x, g, b)", "float[] x", np.float32, "instance", "constant"),
        ("y = LpNormalization(x)", "float[2,8] x", np.float32, "rms", "convertible"),
        (
            "y = BatchNormalization(x, g, b, m, v)",
            "float[2,8] x",
            np.float32,
            "frozen",
            "convertible",
        ),
    ],
)
def test_refused(line: str, inputs: str, dtype: type, to: str, premise: str) -> None:
    held = HELD | {"m": array(8, seed=2), "v": np.abs(array(8, seed=3)) + 1}
    held = {name: values.astype(dtype) for name, values in held.items() if f", {name}" in line}
    source = model(
        inputs, [line], held, opset=21, ir_version=10, outputs="float16[] y" if dtype == np.float16 else "float[] y"
    )
    (decision,) = normfold.convert(source, to=to, verify=False).decisions
    assert (decision.outcome, [one.premise for one in decision.refused_by]) == ("kept", [premise])


@pytest.mark.parametrize(
    ("module", "to", "premise"),
    [
        (nn.BatchNorm2d(CHANNELS), "batch", "convertible"),
        (nn.RMSNorm(4), "layer", "needs-structure"),
        (nn.GroupNorm(4, CHANNELS), "group:count=2", "same-groups"),
    ],
)
def test_modules_refused(module: nn.Module, to: str, premise: str) -> None:
    done = normfold.convert(nn.Sequential(module).eval(), (torch.randn(2, CHANNELS, 5, 4),), to=to)
    assert [one.premise for one in done.decisions[0].refused_by] == [premise]


def test_the_source_stays_as_it_is() -> None:
    source = model("float[2,8,5,5] x", [GROUPS], HELD, opset=21, ir_version=10)
    before = onnx.ModelProto.FromString(source.SerializeToString())
    normfold.convert(source, to="instance", verify=False)
    assert source == before


def test_only_norms_of_the_kind_that_was_named() -> None:
    module = nn.Sequential(nn.GroupNorm(4, CHANNELS), nn.InstanceNorm2d(CHANNELS)).eval()
    done = normfold.convert(module, (torch.randn(IMAGE),), to="layer", source="instance")
    assert [one.outcome for one in done.decisions] == ["kept", "converted"]
    assert [one.premise for one in done.decisions[0].refused_by] == ["selected"]


def test_a_norm_of_the_kind_that_was_asked_for_says_so() -> None:
    done = normfold.convert(nn.Sequential(nn.LayerNorm(8)).eval(), (torch.randn(4, 8),), to="layer")
    (decision,) = done.decisions
    assert decision.outcome == "kept"
    (refusal,) = decision.refused_by
    assert refusal.premise == "convertible"
    assert refusal.because == "a LayerNorm is of the kind that was asked for, 'layer', already"


def test_every_cell_that_is_spelled_is_tested() -> None:
    """By module: the kind that it is, and the kind that it is to become."""
    tested = {(_kind(make()), to.partition(":")[0]) for make, to, *_ in CELLS}
    spelled = {
        (kind, to)
        for kind, row in MATRIX.items()
        for to, ways in row.items()
        if any(cell.conversion is CONVERSION for cell in ways)
    }
    assert spelled - tested <= {("group", "group"), ("running-instance", "static")} | {
        (kind, to) for kind, to in spelled if kind == "static-bln"
    }


def _kind(module: nn.Module) -> str:
    if getattr(module, "track_running_stats", False) and isinstance(module, nn.InstanceNorm2d):
        return "running-instance"
    name = type(module).__name__
    return next(
        kind
        for part, kind in {
            "Frozen": "frozen",
            "Batch": "batch",
            "Group": "group",
            "Instance": "instance",
            "Layer": "layer",
            "RMS": "rms",
        }.items()
        if part in name
    )


class Plus(nn.GroupNorm):
    """A norm whose scale is one more than what it stores."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.group_norm(x, self.num_groups, self.weight + 1, self.bias, self.eps)


class Channels(nn.Module):
    """A norm over channels that come second, as its forward writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(CHANNELS, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / torch.sqrt((centred * centred).mean(1, keepdim=True) + EPSILON) * self.weight


class Scale(nn.Module):
    """Frozen statistics along the last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class FrozenScale(Scale):
    """By its name, a norm with fixed statistics."""


@pytest.mark.parametrize(
    ("module", "to", "premises"),
    [
        (nn.Sequential(Plus(4, CHANNELS)), "layer", {"room"}),
        (nn.Sequential(FrozenScale()), "batch", {"known-rank"}),
    ],
)
def test_what_no_module_can_take_over(module: nn.Module, to: str, premises: set[str]) -> None:
    done = normfold.convert(module.eval(), (torch.randn(2, CHANNELS, 5, 4),), to=to)
    assert {one.premise for decision in done.decisions for one in decision.refused_by} == premises


def test_a_norm_of_the_channels_of_each_position_becomes_one_without_a_mean() -> None:
    module = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), Channels()).eval()
    x = torch.randn(2, CHANNELS, 5, 4)
    done = normfold.convert(module, (x,), to="rms")
    assert [one.label for one in done.decisions] == ["exact"]
    assert type(done.model[1]).__name__ == "PositionNorm"
    assert torch.allclose(done.model(x), module(x), atol=1e-5)
