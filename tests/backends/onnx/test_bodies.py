"""Norms in branches, loops and local functions: folded there, where all they need stands there, too."""

from __future__ import annotations

import numpy as np
import pytest

from folding import array, model, norm, only_fold, proven_fold, statistics

IMAGE = "float[1, 4, 5, 5] x"
HELD = {"w": array(3, 4, 1, 1), **statistics(3)}


def branch(name: str, output: str, *lines: str) -> str:
    return f"{name} = {name}_body () => (float[1, 3, 5, 5] {output}) {{ " + "\n".join(lines) + " }"


def conditional(then: str, otherwise: str) -> str:
    return f"[cond] y = If(flag) <{then}, {otherwise}>"


ELSE = branch("else_branch", "q", "q = Conv(x, u)")


def test_both_in_a_branch() -> None:
    then = branch("then_branch", "t", "[linear] h = Conv(x, w)", norm("h", "t"))
    folded = proven_fold(
        model(f"bool flag, {IMAGE}", conditional(then, ELSE), {**HELD, "u": array(3, 4, 1, 1, seed=9)}), feeds=feeds()
    )
    (decision,) = folded.decisions.values()
    assert decision.outcome == "folded"
    assert decision.site == "cond/then_branch/t_norm"
    assert decision.into == ("cond/then_branch/linear",)


def feeds(flag: bool = True) -> dict[str, np.ndarray]:
    return {"flag": np.array(flag), "x": array(1, 4, 5, 5, seed=1)}


def test_a_weight_that_both_branches_read() -> None:
    then = branch("then_branch", "t", "[linear] h = Conv(x, w)", norm("h", "t"))
    otherwise = branch("else_branch", "q", "q = Conv(x, w)")
    source = model(f"bool flag, {IMAGE}", conditional(then, otherwise), HELD)
    for flag in (True, False):
        folded = proven_fold(source, feeds=feeds(flag))
        assert folded.decision.outcome == "folded"


def test_both_branches_have_a_norm() -> None:
    then = branch("then_branch", "t", "[linear] h = Conv(x, w)", norm("h", "t"))
    otherwise = branch("else_branch", "q", "[linear] g = Conv(x, w)", norm("g", "q"))
    source = model(f"bool flag, {IMAGE}", conditional(then, otherwise), HELD)
    for flag in (True, False):
        folded = proven_fold(source, feeds=feeds(flag))
        assert {d.outcome for d in folded.decisions.values()} == {"folded"}
        assert {d.into for d in folded.decisions.values()} == {
            ("cond/then_branch/linear",),
            ("cond/else_branch/linear",),
        }


def test_a_norm_in_a_branch_after_a_convolution_outside() -> None:
    """The convolution runs whichever branch is taken."""
    then = branch("then_branch", "t", norm("h", "t"))
    otherwise = branch("else_branch", "q", "q = Conv(x, u)")
    body = ["[linear] h = Conv(x, w)", conditional(then, otherwise)]
    folded = proven_fold(model(f"bool flag, {IMAGE}", body, {**HELD, "u": array(3, 4, 1, 1, seed=9)}), feeds=feeds())
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"same-scope", "not-output"}
    assert "Conv 'linear'" in folded.because("same-scope")


def test_a_convolution_that_a_branch_reads_as_well() -> None:
    then = branch("then_branch", "t", "t = Relu(h)")
    otherwise = branch("else_branch", "q", "q = Neg(h)")
    body = [
        "[linear] h = Conv(x, w)",
        norm("h", "n"),
        conditional(then, otherwise).replace(" y ", " z "),
        "y = Add(n, z)",
    ]
    folded = proven_fold(model(f"bool flag, {IMAGE}", body, HELD), feeds=feeds())
    assert folded.decision.outcome == "kept"
    assert "single-use" in folded.refused


def test_a_norm_whose_output_a_branch_reads() -> None:
    """Backwards it folds all the same: the branch gets the same values."""
    then = branch("then_branch", "t", "t = Relu(n)")
    otherwise = branch("else_branch", "q", "q = Neg(n)")
    body = ["[linear] h = Conv(x, w)", norm("h", "n"), conditional(then, otherwise)]
    folded = proven_fold(model(f"bool flag, {IMAGE}", body, HELD), feeds=feeds())
    assert folded.decision.into == ("linear",)


def test_a_norm_whose_consumer_stands_in_a_branch() -> None:
    then = branch("then_branch", "t", "[linear] t = Conv(n, w)")
    otherwise = branch("else_branch", "q", "q = Conv(n, w)")
    body = ["r = Sigmoid(x)", norm("r", "n"), conditional(then, otherwise)]
    held = {"w": array(3, 4, 1, 1), **statistics(4)}
    folded = proven_fold(model(f"bool flag, {IMAGE}", body, held), feeds=feeds())
    assert folded.decision.outcome == "kept"
    assert folded.refused == {"linear-producer", "not-output"}
    assert "subgraph" in folded.because("not-output")


LOOP = """
[loop] last, y = Loop(count, go, x) <body = step (int64 i, bool c, float[1, 4, 5, 5] state)
    => (bool c2, float[1, 4, 5, 5] next, float[1, 4, 5, 5] seen) {
  c2 = Identity(c)
  [linear] h = Conv(state, w)
  [n] next0 = BatchNormalization(h, s, b, m, v)
  next = Tanh(next0)
  seen = Relu(next)
}>
"""


def test_in_a_loop() -> None:
    held = {"w": array(4, 4, 1, 1), "count": np.array(3), "go": np.array(True), **statistics(4)}
    folded = proven_fold(model(IMAGE, LOOP, held, outputs="float[] y"))
    assert folded.decision.outcome == "folded"
    assert folded.decision.site == "loop/body/n"


def test_in_a_loop_after_a_convolution_of_the_state() -> None:
    """What goes around is not what came before: the norm reads the state, which no operation of the body makes."""
    text = (
        LOOP.replace("h = Conv(state, w)", "h0 = Conv(state, w)")
        .replace("(h, s", "(state, s")
        .replace("Tanh(next0)", "Add(next0, h0)")
    )
    held = {"w": array(4, 4, 1, 1), "count": np.array(2), "go": np.array(True), **statistics(4)}
    folded = proven_fold(model(IMAGE, text, held, outputs="float[] y"))
    assert folded.decision.outcome != "part-folded"


SCAN = """
[scan] y = Scan <num_scan_inputs = 1, body = step (float[4, 5] row) => (float[3, 5] out) {
  [linear] h = MatMul(w, row)
  [scale] t = Mul(h, k)
  out = Add(t, d)
}> (x)
"""


def test_in_a_scan() -> None:
    folded = proven_fold(model("float[6, 4, 5] x", SCAN, {"w": array(3, 4), "k": array(3, 1), "d": array(3, 1)}))
    assert folded.decision.outcome == "folded"
    assert folded.decision.into == ("scan/body/linear",)


FUNCTION = """
<domain: "local", opset_import: ["" : 17]>
block (fx, fw, fs, fb, fm, fv) => (fy) {
  [linear] fh = Conv(fx, fw)
  [n] fy = BatchNormalization <epsilon = 0.001> (fh, fs, fb, fm, fv)
}
"""
IMPORTS = '"local" : 1'
CALL = "[call] y = local.block(x, w, s, b, m, v)"


def test_a_function_called_once() -> None:
    folded = proven_fold(model(IMAGE, CALL, HELD, functions=FUNCTION, imports=IMPORTS))
    assert folded.operators == ["Conv"]
    assert folded.decision.site == "call/n"
    assert folded.decision.into == ("call/linear",)


def test_a_function_called_twice_with_different_constants() -> None:
    held = {"w": array(4, 4, 1, 1), "u": array(4, 4, 1, 1, seed=3), **statistics(4), **statistics(4, "q", seed=30)}
    body = ["[one] t = local.block(x, w, s, b, m, v)", "z = Tanh(t)", "[two] y = local.block(z, u, qs, qb, qm, qv)"]
    folded = proven_fold(model(IMAGE, body, held, functions=FUNCTION, imports=IMPORTS))
    assert folded.operators == ["Conv", "Tanh", "Conv"]
    assert {d.site: d.into for d in folded.decisions.values()} == {"one/n": ("one/linear",), "two/n": ("two/linear",)}


def test_a_function_called_twice_with_the_same_constants() -> None:
    held = {"w": array(4, 4, 1, 1), **statistics(4)}
    body = ["[one] t = local.block(x, w, s, b, m, v)", "z = Tanh(t)", "[two] y = local.block(z, w, s, b, m, v)"]
    folded = proven_fold(model(IMAGE, body, held, functions=FUNCTION, imports=IMPORTS))
    assert folded.operators == ["Conv", "Tanh", "Conv"]
    assert {d.outcome for d in folded.decisions.values()} == {"folded"}


NESTED = """
<domain: "local", opset_import: ["" : 17, "local" : 1]>
outer (ox, ow, os, ob, om, ov) => (oy) {
  [inner] oh = local.block(ox, ow, os, ob, om, ov)
  oy = Relu(oh)
}
"""


def test_nested_functions() -> None:
    body = "[call] y = local.outer(x, w, s, b, m, v)"
    folded = proven_fold(model(IMAGE, body, HELD, functions=FUNCTION + NESTED, imports=IMPORTS))
    assert folded.operators == ["Conv", "Relu"]
    assert folded.decision.site == "call/inner/n"


def test_a_function_inside_a_branch() -> None:
    then = branch("then_branch", "t", "[call] t = local.block(x, w, s, b, m, v)")
    source = model(
        f"bool flag, {IMAGE}",
        conditional(then, ELSE),
        {**HELD, "u": array(3, 4, 1, 1, seed=9)},
        functions=FUNCTION,
        imports=IMPORTS,
    )
    folded = proven_fold(source, feeds=feeds())
    assert folded.decision.outcome == "folded"
    assert folded.decision.site == "cond/then_branch/call/n"


def test_unnamed_nodes_in_a_function() -> None:
    text = FUNCTION.replace("[linear] ", "").replace("[n] ", "")
    folded = proven_fold(model(IMAGE, CALL.replace("[call] ", ""), HELD, functions=text, imports=IMPORTS))
    assert folded.decision.site == "y/fy"
    assert folded.decision.into == ("y/fh",)


def test_the_norm_after_a_call_folds_into_the_function_it_is_inlined_from() -> None:
    body = ["[call] t = local.block(x, w, s, b, m, v)", "[scale] y = Mul(t, k)"]
    folded = proven_fold(model(IMAGE, body, HELD | {"k": array(3, 1, 1)}, functions=FUNCTION, imports=IMPORTS))
    assert folded.operators == ["Conv"]


OWN_CONSTANTS = """
<domain: "local", opset_import: ["" : 17]>
block (fx) => (fy) {
  fw = Constant <value = float[2, 4, 1, 1] {1.0, 2.0, -1.0, 0.5, 1.5, -2.0, 3.0, 1.0}> ()
  fk = Constant <value = float[2, 1, 1] {2.0, -0.5}> ()
  [linear] fh = Conv(fx, fw)
  [scale] ft = Mul(fh, fk)
  fy = Add(ft, fk)
}
"""


@pytest.mark.parametrize("calls", [1, 2])
def test_a_chain_of_constants_in_a_function(calls: int) -> None:
    """No norm operator, so the function stays; what it holds is folded in it, for all calls at once."""
    body = ["[one] y = local.block(x)", "[two] z = local.block(x)"][:calls]
    outputs = "float[] y, float[] z" if calls == 2 else "float[] y"
    folded = proven_fold(model(IMAGE, body, {}, functions=OWN_CONSTANTS, imports=IMPORTS, outputs=outputs))
    assert {d.outcome for d in folded.decisions.values()} == {"folded"}


MATRIX_CONSTANTS = """
<domain: "local", opset_import: ["" : 17]>
block (fx) => (fy) {
  fw = Constant <value = float[2, 3] {1.0, 2.0, -1.0, 0.5, 1.5, -2.0}> ()
  fk = Constant <value = float[3] {2.0, -0.5, 3.0}> ()
  [linear] fh = MatMul(fx, fw)
  [shift] ft = Add(fh, fk)
  [scale] fy = Mul(ft, fk)
}
"""


def test_a_shift_in_a_function() -> None:
    folded = proven_fold(
        model("float[5, 7, 2] x", "[one] y = local.block(x)", {}, functions=MATRIX_CONSTANTS, imports=IMPORTS)
    )
    assert folded.decision.outcome == "folded"


def test_a_function_of_another_opset() -> None:
    """It cannot be inlined, and what its operators mean is another opset's matter: it stays as it is."""
    text = FUNCTION.replace('"" : 17', '"" : 8')
    folded = only_fold(model(IMAGE, CALL, HELD, functions=text, imports=IMPORTS))
    assert folded.decision.outcome == "kept"
    assert "same-opset" in folded.refused
    assert "opset" in folded.because("same-opset")
    assert len(folded.result.functions) == 1


def test_a_function_of_another_opset_that_calls_one_with_a_norm() -> None:
    outer = NESTED.replace('"" : 17', '"" : 16')
    body = "[call] y = local.outer(x, w, s, b, m, v)"
    folded = proven_fold(model(IMAGE, body, HELD, functions=FUNCTION + outer, imports=IMPORTS), reference=True)
    assert folded.decision.outcome == "kept"
    assert "same-opset" in folded.refused


def test_a_function_without_norms_stays() -> None:
    text = FUNCTION + '<domain: "local", opset_import: ["" : 17]> plain (px) => (py) { py = Relu(px) }'
    body = ["[call] t = local.block(x, w, s, b, m, v)", "y = local.plain(t)"]
    folded = proven_fold(model(IMAGE, body, HELD, functions=text, imports=IMPORTS))
    assert folded.operators == ["Conv", "plain"]
    assert [f.name for f in folded.result.functions] == ["plain"]


def test_an_attribute_that_a_function_passes_on() -> None:
    text = FUNCTION.replace("block (fx", "block <eps> (fx").replace("epsilon = 0.001", "epsilon : float = @eps")
    folded = proven_fold(
        model(IMAGE, CALL.replace("local.block(", "local.block <eps = 0.5> ("), HELD, functions=text, imports=IMPORTS)
    )
    assert folded.operators == ["Conv"]
    assert folded.decision.outcome == "folded"
