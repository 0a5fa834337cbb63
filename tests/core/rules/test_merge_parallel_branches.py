"""Convolutions of one input that are added become one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from folding import Example, array, model, norm, proven_fold, refused_by, statistics
from normfold.core.rules.merge_parallel_branches import RULE

IMAGE = "float[1, 4, 6, 6] x"
THREE = "[three] a = Conv <pads = [1, 1, 1, 1]> (x, w, c)"
HELD = {"w": array(4, 4, 3, 3), "c": array(4)}


@pytest.mark.parametrize("add", ["Add(a, e)", "Add(e, a)", "Sub(a, e)", "Sub(e, a)", "Sum(a, e)"])
@pytest.mark.parametrize(
    "other",
    [
        "e = Conv(x, u)",
        "e = Conv(x, u, f)",
        "e = Identity(x)",
        "e = Mul(x, k)",
        norm("x", "e"),
        "e = Conv <pads = [1, 1, 1, 1]> (x, w)",
    ],
)
def test_two_branches(other: str, add: str) -> None:
    extra = {"u": array(4, 4, 1, 1, seed=2), "f": array(4, seed=3), "k": array(4, 1, 1, seed=4), **statistics(4)}
    held = HELD | {name: v for name, v in extra.items() if f" {name}," in other or f" {name})" in other}
    folded = proven_fold(model(IMAGE, [THREE, other, f"y = {add}"], held))
    assert folded.operators == ["Conv"]


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_block_of_three_branches(group: int) -> None:
    """RepVGG: 3x3 with norm, 1x1 with norm, norm alone."""
    body = [
        f"[three] a = Conv <pads = [1, 1, 1, 1], group = {group}> (x, w)",
        norm("a", "an", "p"),
        f"[one] e = Conv <group = {group}> (x, u)",
        norm("e", "en", "q"),
        norm("x", "n", "o"),
        "t = Add(an, en)",
        "z = Add(t, n)",
        "y = Relu(z)",
    ]
    held = {"w": array(4, 4 // group, 3, 3), "u": array(4, 4 // group, 1, 1)}
    held |= statistics(4, "p") | statistics(4, "q", seed=20) | statistics(4, "o", seed=40)
    folded = proven_fold(model(IMAGE, body, held))
    assert folded.operators == ["Conv", "Relu"]
    assert {d.outcome for d in folded.decisions.values()} == {"folded"}
    assert len(folded.decisions) == 3


@pytest.mark.parametrize(("large", "small"), [((5, 3), (3, 3)), ((3, 5), (1, 3)), ((5, 5), (1, 1)), ((7, 3), (3, 1))])
def test_kernels_of_other_sizes(large: tuple[int, int], small: tuple[int, int]) -> None:
    body = [
        f"a = Conv <pads = [{large[0] // 2}, {large[1] // 2}, {large[0] // 2}, {large[1] // 2}]> (x, w)",
        f"e = Conv <pads = [{small[0] // 2}, {small[1] // 2}, {small[0] // 2}, {small[1] // 2}]> (x, u)",
        "y = Add(a, e)",
    ]
    assert proven_fold(model(IMAGE, body, {"w": array(3, 4, *large), "u": array(3, 4, *small)})).operators == ["Conv"]


COUNTED = "pads = [1, 1, 1, 1], count_include_pad = 1"


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize(
    ("pool", "host"),
    [
        (f"AveragePool <kernel_shape = [3, 3], {COUNTED}> (#)", "pads = [1, 1, 1, 1]"),
        ("AveragePool <kernel_shape = [3, 3]> (#)", ""),
        ("AveragePool <kernel_shape = [3, 3], strides = [2, 2]> (#)", "strides = [2, 2]"),
        ('AveragePool <kernel_shape = [3, 3], auto_pad = "VALID"> (#)', ""),
        ("AveragePool <kernel_shape = [1, 3], pads = [0, 1, 0, 1], count_include_pad = 1> (#)", "pads = [1, 1, 1, 1]"),
        ("AveragePool <kernel_shape = [1, 1]> (#)", "pads = [1, 1, 1, 1]"),
    ],
)
def test_an_average_pool(pool: str, host: str, group: int) -> None:
    """A diverse branch: norms before and behind the pool; behind padding, the one before it has no shift to lose."""
    held = {"w": array(4, 4 // group, 3, 3), **statistics(4), "k": array(4, 1, 1)}
    conv = ", ".join(filter(None, [host, f"group = {group}"]))
    body = [
        f"a = Conv <{conv}> (x, w)",
        "scaled = Mul(x, k)",
        f"e = {pool.replace('#', 'scaled')}",
        norm("e", "n"),
        "y = Add(n, a)",
    ]
    assert proven_fold(model(IMAGE, body, held)).operators == ["Conv"]


@pytest.mark.parametrize(
    "pool",
    [
        "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (#)",
        "AveragePool <kernel_shape = [3, 3], ceil_mode = 1, pads = [1, 1, 1, 1], count_include_pad = 1> (#)",
        'AveragePool <kernel_shape = [3, 3], auto_pad = "SAME_UPPER", count_include_pad = 1> (#)',
        "AveragePool <kernel_shape = [5, 5], pads = [2, 2, 2, 2], count_include_pad = 1> (#)",
        "MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (#)",
    ],
)
def test_a_pool_that_is_no_such_kernel(pool: str) -> None:
    """Taps that weigh more at the border, taps that the host has not, and no average at all."""
    body = [THREE, f"e = {pool.replace('#', 'x')}", "y = Add(a, e)"]
    assert proven_fold(model(IMAGE, body, HELD)).operators == ["Conv", pool.partition(" ")[0], "Add"]


def test_a_shift_before_a_pool_that_counts_its_padding() -> None:
    pool = f"e = AveragePool <kernel_shape = [3, 3], {COUNTED}> (n)"
    folded = proven_fold(model(IMAGE, [THREE, norm("x", "n"), pool, "y = Add(a, e)"], HELD | statistics(4)))
    assert folded.operators == ["Conv", "BatchNormalization", "AveragePool", "Add"]


def test_an_average_of_averages() -> None:
    pools = [f"{b} = AveragePool <kernel_shape = [3, 3], {COUNTED}> ({a})" for a, b in ("xp", "pe")]
    folded = proven_fold(model(IMAGE, [THREE, *pools, "y = Add(a, e)"], HELD))
    assert folded.operators == ["Conv", "AveragePool", "AveragePool", "Add"]


NOT_MERGED = {
    "other-input": ["a = Conv(x, w)", "r = Relu(x)", "e = Conv(r, u)", "y = Add(a, e)"],
    "other-window": [
        "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w3)",
        "e = Conv <strides = [2, 2]> (x, w2)",
        "y = Add(a, e)",
    ],
    "other-stride": ["a = Conv <strides = [2, 2]> (x, w2)", "e = Conv(x, w4)", "y = Add(a, e)"],
    "other-offset": [
        "a = Conv <strides = [2, 2], pads = [0, 0, 1, 1]> (x, w3)",
        "e = Conv <strides = [2, 2], pads = [1, 1, 0, 0]> (x, u3)",
        "y = Add(a, e)",
    ],
    "read-elsewhere": [
        "a = Conv(x, w)",
        "e = Conv(x, u)",
        "t = Add(a, e)",
        "r = Relu(a)",
        "q = Relu(e)",
        "p = Mul(r, q)",
        "y = Mul(p, t)",
    ],
    "broadcast": ["a = Conv(x, w)", "e = Conv(x, u4)", "y = Add(a, e)"],
    "other-groups": ["a = Conv(x, w)", "e = Conv <group = 2> (x, u2)", "y = Add(a, e)"],
    "a-quotient": ["a = Conv(x, w)", "e = Conv(x, u)", "q = Sigmoid(e)", "y = Div(a, q)"],
    "itself": ["a = Conv(x, w)", "y = Add(a, a)"],
}


WEIGHTS = {
    "w": array(4, 4, 1, 1),
    "u": array(4, 4, 1, 1, seed=2),
    "u1": array(4, 4, 1, 1, seed=3),
    "u2": array(4, 2, 1, 1),
    "u4": array(1, 4, 1, 1),
    "w2": array(4, 4, 2, 2),
    "w3": array(4, 4, 3, 3),
    "w4": array(4, 4, 4, 4),
    "u3": array(4, 4, 3, 3, seed=5),
}


@pytest.mark.parametrize("case", NOT_MERGED)
def test_what_is_not_merged(case: str) -> None:
    text = " ".join(NOT_MERGED[case])
    held = {name: values for name, values in WEIGHTS.items() if f", {name})" in text}
    folded = proven_fold(model(IMAGE, NOT_MERGED[case], held))
    assert folded.operators.count("Conv") == text.count("Conv")


def test_a_tap_at_the_edge_of_a_kernel() -> None:
    """Padded at the begin only, the small kernel lies in the last corner of the large one."""
    body = ["a = Conv <pads = [1, 1, 0, 0]> (x, w3)", "e = Conv(x, w2)", "y = Add(a, e)"]
    source = model(IMAGE, body, {name: WEIGHTS[name] for name in ("w2", "w3")})
    assert proven_fold(source).operators == ["Conv"]


def test_a_norm_that_is_left_out_is_not_merged() -> None:
    folded = proven_fold(model(IMAGE, [THREE, norm("x", "e"), "y = Add(a, e)"], HELD | statistics(4)), skip=["e_norm"])
    assert folded.operators == ["Conv", "BatchNormalization", "Add"]


def test_weights_that_others_read_are_copied() -> None:
    body = [THREE, "e = Conv(x, u)", "y = Add(a, e)", "z = Conv(x, u)", "q = Conv(x, w)"]
    source = model(IMAGE, body, HELD | {"u": array(4, 4, 1, 1)}, outputs="float[] y, float[] z, float[] q")
    folded = proven_fold(source)
    assert folded.operators.count("Conv") == 3


@pytest.mark.parametrize("seed", range(12))
def test_trees_of_branches(seed: int) -> None:
    """Any tree of Add, Sub and Sum over branches of one input."""
    rng = np.random.default_rng(seed)
    held: dict[str, np.ndarray] = {}
    lines: list[str] = []
    values: list[str] = []
    for k in range(int(rng.integers(3, 7))):
        kind = rng.choice(["conv3", "conv1", "norm", "scale", "other", "self"])
        name = f"v{k}"
        if kind == "conv3":
            held[f"w{k}"] = array(4, 4, 3, 3, seed=seed + k)
            lines.append(f"{name} = Conv <pads = [1, 1, 1, 1]> (x, w{k})")
        elif kind == "conv1":
            held[f"w{k}"] = array(4, 4, 1, 1, seed=seed + k)
            lines.append(f"{name} = Conv(x, w{k})")
        elif kind == "norm":
            held |= statistics(4, f"n{k}", seed=seed + 10 * k)
            lines.append(norm("x", name, f"n{k}"))
        elif kind == "scale":
            held[f"k{k}"] = array(4, 1, 1, seed=seed + k)
            lines.append(f"{name} = Mul(x, k{k})")
        elif kind == "other":
            lines.append(f"{name} = Sigmoid(x)")
        else:
            name = "x"
        values.append(name)
    count = 0
    while len(values) > 1:
        first, second = values.pop(int(rng.integers(len(values)))), values.pop(int(rng.integers(len(values))))
        lines.append(f"t{count} = {rng.choice(['Add', 'Sub', 'Sum'])}({first}, {second})")
        values.append(f"t{count}")
        count += 1
    proven_fold(model(IMAGE, [*lines, f"y = Relu({values[0]})"], held))


def test_a_value_that_a_convolution_makes_is_a_branch_of_its_own() -> None:
    body = ["s = Conv(x, u, f)", THREE.replace("(x, ", "(s, "), "t = Add(a, s)", norm("t", "y", "p")]
    held = HELD | {"u": array(4, 4, 1, 1, seed=2), "f": array(4)} | statistics(4, "p")
    assert proven_fold(model(IMAGE, body, held)).operators == ["Conv", "Conv"]


LATER = "then_branch = t () => (float[] o) { o = Add(a, x) }, else_branch = e () => (float[] i) { i = Relu(x) }"
PADDED = "e = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (n)"
ONE = "a = Conv(x, w)"


def refusing(
    body: list[str],
    *more: str,
    inputs: str = IMAGE,
    dtype: object = np.float32,
    kind: str = "float",
    **held: np.ndarray,
) -> onnx.ModelProto:
    text = " ".join(body)
    constants = {name: v.astype(dtype) for name, v in WEIGHTS.items() if f", {name})" in text} | held
    return model(inputs, body, constants, outputs=", ".join(f"{kind}[] {name}" for name in ("y", *more)))


REFUSED = {
    "same-input": [
        refusing([ONE, "r = Relu(x)", "e = Conv(r, u)", "y = Add(a, e)"]),
        refusing([ONE, "e = Sigmoid(x)", "y = Add(a, e)"]),
        refusing([ONE, "r = Relu(x)", norm("r", "e"), "y = Add(a, e)"], **statistics(4)),
    ],
    "single-use": [
        # Each is folded wrongly if nobody asks who else reads the convolution, or what goes into it.
        refusing([ONE, "y = Add(a, x)", "z = Relu(a)"], "z"),
        refusing([ONE, "e = Mul(x, k)", "y = Add(a, e)", "z = Relu(e)"], "z", k=array(4, 1, 1)),
        refusing(
            [ONE, "e = Conv(x, u)", "t = Add(a, e)", "r = Relu(a)", "q = Relu(e)", "p = Mul(r, q)", "y = Mul(p, t)"]
        ),
        refusing([ONE, "m = Mul(x, k)", "e = Identity(m)", "y = Add(a, e)", "z = Relu(m)"], "z", k=array(4, 1, 1)),
        refusing([ONE, "y = Add(a, a)"]),
    ],
    "same-scope": [refusing([ONE, f"y = If (flag) <{LATER}>"], inputs=f"{IMAGE}, bool flag")],
    "not-output": [
        refusing([ONE, "y = Add(a, x)"], "a"),
        refusing([ONE, "e = Mul(x, k)", "y = Add(a, e)"], "e", k=array(4, 1, 1)),
    ],
    "same-channels": [
        refusing([ONE, "e = Conv(x, u4)", "y = Add(a, e)"]),
        refusing([ONE, "e = Conv <group = 2> (x, u2)", "y = Add(a, e)"]),
        refusing(["a = Conv(x, u4)", "y = Add(a, x)"]),
    ],
    "finite": [refusing([ONE, "e = Mul(x, k)", "y = Add(a, e)"], k=np.full((4, 1, 1), np.inf, np.float32))],
    "per-output-channel": [refusing([ONE, "e = Mul(x, k)", "y = Add(a, e)"], k=array(6, 1))],
    "every-tap": [
        refusing(
            [THREE.replace(", c)", ")").replace("w", "w3"), norm("x", "n"), PADDED, "y = Add(a, e)"], **statistics(4)
        )
    ],
    "same-window": [
        refusing(["a = Conv <strides = [2, 2]> (x, w2)", "e = Conv(x, w4)", "y = Add(a, e)"]),
        refusing(
            [
                "a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w3)",
                "e = Conv <strides = [2, 2]> (x, w2)",
                "y = Add(a, e)",
            ]
        ),
    ],
    "representable": [
        refusing(
            [ONE, "e = Mul(x, k)", "y = Add(a, e)"],
            inputs="float16[1, 4, 6, 6] x",
            dtype=np.float16,
            kind="float16",
            w=np.full((4, 4, 1, 1), 6e4, np.float16),
            k=np.full((4, 1, 1), 6e4, np.float16),
        )
    ],
}


def test_a_sum_that_others_read_is_a_term_of_its_own() -> None:
    body = [ONE, "e = Sigmoid(x)", "t = Add(e, x)", "y = Add(a, t)", "z = Relu(t)"]
    source = model(IMAGE, body, {"w": WEIGHTS["w"]}, outputs="float[] y, float[] z")
    assert proven_fold(source).operators == ["Conv", "Sigmoid", "Add", "Add", "Relu"]


def test_a_norm_says_why_it_is_not_merged() -> None:
    body = [ONE, "r = Sigmoid(x)", norm("r", "e"), "y = Add(a, e)"]
    folded = proven_fold(model(IMAGE, body, {"w": WEIGHTS["w"], **statistics(4)}))
    assert "does not read" in folded.because("same-input")


@pytest.mark.parametrize("premise", REFUSED)
def test_refused_because_not(premise: str) -> None:
    """Each of these breaks one premise and no other."""
    for source in REFUSED[premise]:
        assert refused_by(RULE, source) == {premise}


EXAMPLES = (
    Example(
        model(
            IMAGE,
            [THREE, "e = Conv(x, u)", norm("x", "n"), "j = Add(a, e)", "y = Add(j, n)"],
            {**HELD, "u": array(4, 4, 1, 1), **statistics(4)},
        )
    ),
)
