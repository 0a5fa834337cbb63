"""Norms written out in elementary operations, against the same decompositions as onnxscript functions."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest

import normfold
from folding import array, model, run

pytest.importorskip("onnxscript", reason="it comes with the extra torch")
decompositions = importlib.import_module("decompositions")

CHANNELS = 8
HELD = {"g": array(CHANNELS).astype(np.float64), "b": array(CHANNELS, seed=1).astype(np.float64)}
IMAGE, TOKENS = (3, CHANNELS, 5, 4), (3, 6, CHANNELS)
EPSILON = 0.5
GROUPS = "y = GroupNormalization <num_groups = 4, epsilon = 0.5> (x, g, b)"
INSTANCE = "y = InstanceNormalization <epsilon = 0.5> (x, g, b)"
LAYER = "y = LayerNormalization <epsilon = 0.5> (x, g, b)"
RMS = "y = RMSNormalization <epsilon = 0.5, stash_type = 11> (x, g)"


def referred(
    function: Callable[..., object], shape: tuple[int, ...], constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """A model that calls the onnxscript ``function`` on ``x`` and ``constants``, in float64."""
    proto = function.to_function_proto()
    held = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    kinds = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, size)
        for name, size in (("x", shape), ("y", None))
    ]
    call = onnx.helper.make_node(proto.name, ["x", *constants], ["y"], domain=proto.domain)
    graph = onnx.helper.make_graph([call], "reference", kinds[:1], kinds[1:], held)
    opsets = [onnx.helper.make_opsetid(proto.domain, 1), *proto.opset_import]
    return onnx.helper.make_model(graph, functions=[proto], opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("line", "to", "function", "shape", "opset"),
    [
        (GROUPS, "layer", decompositions.group_norm, IMAGE, 21),
        (GROUPS, "instance", decompositions.group_norm, IMAGE, 21),
        (INSTANCE, "layer", decompositions.group_norm, IMAGE, 17),
        (INSTANCE, "layer", decompositions.group_norm, IMAGE, 11),
        (LAYER, "instance", decompositions.layer_norm, TOKENS, 17),
        (LAYER, "group", decompositions.layer_norm, TOKENS, 21),
        (RMS, "layer", decompositions.rms_norm, TOKENS, 23),
        (RMS, "group", decompositions.rms_norm, TOKENS, 23),
    ],
)
def test_what_is_written_out_is_the_function(
    line: str, to: str, function: Callable[..., object], shape: tuple[int, ...], opset: int
) -> None:
    held = {name: values for name, values in HELD.items() if f", {name}" in line}
    text = f"double[{','.join(map(str, shape))}] x"
    source = model(text, [line], held, outputs="double[] y", opset=opset, ir_version=10)
    done = normfold.convert(source, to=to, verify=False)
    assert [(one.outcome, one.label) for one in done.decisions] == [("converted", "exact")]
    groups = {GROUPS: 4, INSTANCE: CHANNELS}.get(line)
    column = (CHANNELS, 1, 1) if groups else (CHANNELS,)
    constants = {"epsilon": np.asarray(EPSILON), **{name: values.reshape(column) for name, values in held.items()}}
    constants |= {"rows": np.asarray([0, groups, -1])} if groups else {}
    x = np.random.default_rng(0).normal(3, 2, shape)
    wanted = run(referred(function, shape, constants), {"x": x})["y"]
    got = run(done.model, {"x": x})["y"]
    assert np.abs(got - wanted).max() <= 1e-12 * np.ptp(wanted)
