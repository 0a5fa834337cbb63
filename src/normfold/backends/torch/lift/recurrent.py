"""LSTM, GRU and RNN as `Recurrent`."""

from __future__ import annotations

from normfold.backends.torch.constants import Stored, exact, largest
from normfold.backends.torch.lift.moving import Lift
from normfold.backends.torch.tracer import Op, Value
from normfold.backends.torch.tree import ModuleTree
from normfold.core.algebra import Weight
from normfold.core.views import Recurrent, View


def first_layer(op: Op) -> list[tuple[str, str | None]]:
    """The arguments that hold the weight which reads the input, and its bias, for each direction."""
    directions = 2 if op.arguments["bidirectional"] else 1
    count = sum(name.startswith("params.") for name in op.arguments)
    step = count // (int(op.arguments["num_layers"]) * directions)
    biased = bool(op.arguments["has_biases"])
    # Of every layer and direction: input weight, recurrent weight, input bias, recurrent bias.
    return [(f"params.{k * step}", f"params.{k * step + 2}" if biased else None) for k in range(directions)]


def _recurrent(tree: ModuleTree, op: Op) -> View:
    names = first_layer(op)
    stored = [tree.own(op, "the input weight", weight) for weight, _ in names]
    biases = [None if bias is None else exact(tree.own(op, "the input bias", bias)) for _, bias in names]
    sequence = op.arguments["input"] if "input" in op.arguments else op.arguments["data"]
    states = (value for value in op.inputs if value is not sequence and value.tensor is None)
    inputs: tuple[Value, ...] = (sequence, *states)
    return Recurrent(
        node=op,
        op=op.kind,
        inputs=inputs,
        outputs=op.outputs,
        weights=tuple(Weight(Stored(tensor), (1, *tensor.shape), "goi") for tensor in stored),
        biases=tuple(biases),
        bias_slot=bool(op.arguments["has_biases"]),
        largest=largest(stored[0]),
    )


LIFTS: dict[str, Lift] = dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent)
