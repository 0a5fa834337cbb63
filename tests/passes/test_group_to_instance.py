"""GroupNorm to InstanceNorm: exact, wherever the input can be reshaped back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import normfold
from folding import array, model, run

HELD = {"g": array(8), "b": array(8, seed=1)}
LINE = "[norm] y = GroupNormalization <num_groups = 4, epsilon = 1e-3> (x, g, b)"


@pytest.mark.parametrize(
    "inputs", ["float[2,8,5,5] x", "float[N,8,5,5] x", "float[N,8,H,6] x", "float[3,8,7] x", "float[2,8,3,3,3] x"]
)
def test_groups_of_channels(inputs: str) -> None:
    source = model(inputs, [LINE], HELD, opset=21, ir_version=10)
    done = normfold.convert(source, to="instance")
    assert [(one.outcome, one.to, one.label) for one in done.decisions] == [("converted", "instance", "exact")]
    assert done.verification.status == "equivalent"
    shape = [size.dim_value or 4 for size in source.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)}
    wanted, got = run(source, feeds)["y"], run(done.model, feeds)["y"]
    assert np.abs(wanted - got).max() < 1e-5 * np.ptp(wanted)
    operators = [node.op_type for node in done.model.graph.node]
    assert operators == ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]


@pytest.mark.parametrize(
    ("inputs", "dtype", "premise"),
    [("float[N,8,H,W] x", np.float32, "known-sizes"), ("float16[2,8,5,5] x", np.float16, "has-kernel")],
)
def test_refused(inputs: str, dtype: type, premise: str) -> None:
    held = {name: values.astype(dtype) for name, values in HELD.items()}
    source = model(inputs, [LINE], held, opset=21, ir_version=10)
    (decision,) = normfold.convert(source, to="instance", verify=False).decisions
    assert (decision.outcome, [one.premise for one in decision.refused_by]) == ("kept", [premise])


def test_other_norms_say_that_there_is_no_conversion() -> None:
    source = model("float[2,8] x", ["[norm] y = LayerNormalization(x, g, b)"], HELD)
    (decision,) = normfold.convert(source, to="instance", verify=False).decisions
    assert [one.premise for one in decision.refused_by] == ["convertible"]


def test_a_module_has_no_place_for_reshapes() -> None:
    done = normfold.convert(nn.Sequential(nn.GroupNorm(4, 8)).eval(), (torch.randn(2, 8, 5, 5),), to="instance")
    assert [one.premise for one in done.decisions[0].refused_by] == ["needs-structure"]


def test_the_source_stays_as_it_is() -> None:
    source = model("float[2,8,5,5] x", [LINE], HELD, opset=21, ir_version=10)
    before = onnx.ModelProto.FromString(source.SerializeToString())
    normfold.convert(source, to="instance", verify=False)
    assert source == before
