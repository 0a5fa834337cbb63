"""``affine -> LSTM`` becomes ``LSTM``; ``W (a x + d) + Wb = (W a) x + (Wb + W d)``, exactly, in every gate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folding import Example, array, model, norm, only_fold, proven_fold, statistics
from linear_reference import apply, integers, powers
from normfold.core.algebra import Affine, Weight
from normfold.core.algebra.weight import Dense
from normfold.core.laws.gates import push_into_gates

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FEATURES, HIDDEN = 4, 3
SEQUENCE = f"float[5, {FEATURES}, 2] x"


def relu_network(weight: np.ndarray, bias: np.ndarray, recurrent: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The states of an RNN over whole numbers: ``[time, hidden]``."""
    state, states = np.zeros(len(recurrent)), []
    for step in x:
        state = np.maximum(weight @ step + bias + recurrent @ state, 0.0)
        states.append(state)
    return np.stack(states)


@given(st.data(), st.integers(1, 2), st.booleans(), st.booleans())
def test_the_law(data: st.DataObject, directions: int, biased: bool, shifted: bool) -> None:
    out, features = 6, 3
    base = integers(data.draw, directions, out, features)
    bias = integers(data.draw, directions * out) if biased else None
    affine = Affine.of(powers(data.draw, features), integers(data.draw, features) if shifted else 0.0)
    weight, added = push_into_gates(Weight(Dense(base), base.shape, "goi"), bias, affine.scale, affine.shift)
    assert added is not None if biased else shifted or added is None
    x = integers(data.draw, 5, features)
    for k in range(directions):
        own = np.zeros(out) if bias is None else bias.reshape(directions, out)[k]
        new = np.zeros(out) if added is None else added.reshape(directions, out)[k]
        assert np.array_equal(apply(affine, x) @ base[k].T + own, x @ weight.canonical()[k].T + new)


@given(st.data())
def test_the_law_over_time(data: st.DataObject) -> None:
    weight, recurrent = integers(data.draw, 1, 3, 2), np.eye(3)[::-1]
    bias, x = integers(data.draw, 3), integers(data.draw, 6, 2)
    affine = Affine.of(powers(data.draw, 2), integers(data.draw, 2))
    folded, added = push_into_gates(Weight(Dense(weight), weight.shape, "goi"), bias, affine.scale, affine.shift)
    wanted = relu_network(weight[0], bias, recurrent, apply(affine, x))
    assert np.array_equal(relu_network(folded.canonical()[0], added, recurrent, x), wanted)


def test_the_shift_in_the_bias_of_the_state_is_another_function() -> None:
    """A GRU's reset gate, closed here, multiplies the bias of the state."""
    weight, shift, reset = 2.0, 3.0, 0.0
    assert weight * shift + reset * 0.0 != 0.0 + reset * (weight * shift)


def held(op: str, directions: int = 1, *, bias: bool = True, dtype: object = np.float32) -> dict[str, np.ndarray]:
    rows = GATES[op] * HIDDEN
    constants = {
        "w": array(directions, rows, FEATURES, dtype=dtype),
        "r": array(directions, rows, HIDDEN, seed=1, dtype=dtype) / 4,
    }
    if bias:
        constants["z"] = array(directions, 2 * rows, seed=2, dtype=dtype)
    return constants


def network(op: str, attributes: str = "", inputs: str = "w, r, z") -> list[str]:
    call = f"[linear] y, last = {op} <hidden_size = {HIDDEN}{attributes}> (t, {inputs})"
    return [norm("x", "n"), "t = Transpose <perm = [2, 0, 1]> (n)", call]


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_before_and_after(op: str, bias: bool, direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    body = network(op, f', direction = "{direction}"', "w, r, z" if bias else "w, r")
    constants = {**held(op, directions, bias=bias), **statistics(FEATURES)}
    folded = proven_fold(model(SEQUENCE, body, constants))
    assert folded.operators == ["Transpose", op]
    assert folded.decision.rules == ("carry_affine_through_move", "fold_affine_into_recurrent")
    assert folded.decision.into == ("linear",)
    if bias:
        rows = GATES[op] * HIDDEN
        assert np.array_equal(folded.constant("z")[:, rows:], constants["z"][:, rows:])
        assert not np.array_equal(folded.constant("z")[:, :rows], constants["z"][:, :rows])


def test_a_gru_that_resets_the_state_before_its_bias_is_added() -> None:
    body = network("GRU", ", linear_before_reset = 1")
    assert proven_fold(model(SEQUENCE, body, {**held("GRU"), **statistics(FEATURES)})).operators == ["Transpose", "GRU"]


def test_initial_states_lengths_and_peepholes_stay() -> None:
    constants = {**held("LSTM"), **statistics(FEATURES), "lengths": np.array([2, 1, 2, 2, 1], np.int32)}
    constants |= {"h": array(1, 5, HIDDEN, seed=3), "c": array(1, 5, HIDDEN, seed=4), "p": array(1, 9, seed=5)}
    body = network("LSTM", ", clip = 2.0", "w, r, z, lengths, h, c, p")
    folded = proven_fold(model(SEQUENCE, body, constants))
    assert folded.operators == ["Transpose", "LSTM"]
    assert np.array_equal(folded.constant("h"), constants["h"])


@pytest.mark.parametrize("number", [np.inf, np.nan])
def test_refused_because_not_finite(number: float) -> None:
    body = ["[scale] t = Mul(x, k)", "[linear] y, last = RNN <hidden_size = 3> (t, w, r)"]
    constants = held("RNN", bias=False) | {"k": np.array([1, number, 1, 1], np.float32)}
    assert "finite" in only_fold(model(f"float[2, 5, {FEATURES}] x", body, constants)).refused


def test_refused_because_not_per_input_channel() -> None:
    """A scale along the batch."""
    body = [norm("x", "n"), "[linear] y, last = GRU <hidden_size = 3> (n, w, r, z)"]
    folded = proven_fold(model(f"float[2, 5, {FEATURES}] x", body, {**held("GRU"), **statistics(5)}))
    assert "per-input-channel" in folded.refused


def test_refused_because_it_is_an_initial_state() -> None:
    body = [norm("g", "n"), "h = Transpose <perm = [2, 0, 1]> (n)"]
    body.append('[linear] y, last = GRU <hidden_size = 3> (x, w, r, z, "", h)')
    source = model(f"float[2, 5, {FEATURES}] x, float[5, 3, 1] g", body, {**held("GRU"), **statistics(HIDDEN)})
    folded = proven_fold(source)
    assert "initial state" in folded.because("linear-consumer")


def test_refused_because_the_sequence_is_an_initial_state_too() -> None:
    body = [norm("x", "n"), "t = Transpose <perm = [2, 0, 1]> (n)"]
    body.append('[linear] y, last = RNN <hidden_size = 3> (t, w, r, "", "", t)')
    constants = held("RNN", bias=False) | {"w": array(1, 3, 3)}
    folded = proven_fold(model("float[5, 3, 1] x", body, {**constants, **statistics(3)}))
    assert "more than once" in folded.because("linear-consumer")


def test_refused_because_not_representable() -> None:
    body = ["[scale] t = Mul(x, k)", "[linear] y, last = RNN <hidden_size = 3> (t, w, r)"]
    constants = held("RNN", bias=False, dtype=np.float16) | {"k": np.full(FEATURES, 60000, np.float16)}
    source = model(f"float16[2, 5, {FEATURES}] x", body, constants, outputs="float16[] y")
    assert "representable" in only_fold(source).refused


def test_refused_because_the_weight_is_computed() -> None:
    body = network("GRU")
    constants = {**held("GRU"), **statistics(FEATURES)}
    w = constants.pop("w")
    source = model(f"{SEQUENCE}, float[{', '.join(map(str, w.shape))}] w", body, constants)
    assert "constant" in only_fold(source).refused


def test_as_an_exporter_writes_one_whose_batch_comes_first() -> None:
    """The shape of the states is that of a transpose, of which nobody reads the elements."""
    body = [
        "r = Sigmoid(x)",
        norm("r", "n"),
        "seq = Transpose <perm = [2, 0, 1]> (n)",
        "first = Transpose <perm = [0, 2, 1]> (n)",
        "shape = Shape(first)",
        "batch = Gather(shape, zero)",
        "sizes = Concat <axis = 0> (one, batch, hidden)",
        "state = ConstantOfShape(sizes)",
        "[lstm] y = LSTM <hidden_size = 3> (seq, w, k, , , state)",
    ]
    held = {"w": array(1, 12, 4), "k": array(1, 12, 3), **statistics(4)}
    held |= {name: np.array([value]) for name, value in {"zero": 0, "one": 1, "hidden": 3}.items()}
    folded = proven_fold(model("float[N, 4, 5] x", body, held))
    assert folded.decision.outcome == "folded"
    assert folded.decision.into == ("lstm",)


def test_a_norm_of_which_only_the_shape_is_read() -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), "t = Transpose(n)", "to = Shape(t)", "y = Reshape(r, to)"]
    folded = proven_fold(model("float[2, 4, 5] x", body, statistics(4)))
    assert folded.decision.outcome == "kept"
    assert "but for its shape" in folded.because("linear-consumer")


EXAMPLES = (Example(model(SEQUENCE, network("LSTM"), {**held("LSTM"), **statistics(FEATURES)})),)


def networks() -> dict[str, Any]:
    """What both backends are asked."""
    import torch
    from torch import nn

    from shared_cases import FOLDED, KEPT, ROW, Case, net

    def over(recurrent: nn.Module, **modules: nn.Module) -> Any:
        def forward(self: Any, x: torch.Tensor) -> Any:
            return self.rnn(self.bn(x).transpose(1, 2))[0]

        return net(forward, rnn=recurrent, bn=nn.BatchNorm1d(4), **modules)

    def state(self: Any, x: torch.Tensor) -> Any:
        start = self.bn(x.mean(-1)).unsqueeze(0)
        return self.rnn(x.transpose(1, 2), start)[0]

    kinds = {
        "lstm": nn.LSTM(4, 3, batch_first=True),
        "lstm-two-layers-both-directions": nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True),
        "gru": nn.GRU(4, 3, batch_first=True),
        "rnn-tanh": nn.RNN(4, 3, batch_first=True),
        "rnn-relu": nn.RNN(4, 3, nonlinearity="relu", batch_first=True),
    }
    return {
        **{f"bn-{name}": Case(over(module), ROW, (FOLDED,), single=True) for name, module in kinds.items()},
        "bn-gru-without-bias": Case(
            over(nn.GRU(4, 3, bias=False, batch_first=True)), ROW, (FOLDED,), tree=(KEPT,), single=True
        ),
        "bn-gru-state": Case(
            net(state, rnn=nn.GRU(4, 4, batch_first=True), bn=nn.BatchNorm1d(4)),
            ROW,
            (KEPT,),
            "linear-consumer",
            single=True,
        ),
    }
