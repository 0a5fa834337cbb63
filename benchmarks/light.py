"""Gives the light models of the onnx package weights that matter.

The package ships them with every weight the same constant, so that their outputs hardly depend on the input and
a wrong fold can hide. Here each constant gets random values that suit its role; the graph stays as it is, with
weights as Constant nodes and initializers, except that a closing Softmax is taken out, which would saturate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

SEED: Final = 20
ROLES: Final[dict[tuple[str, int], str]] = {
    ("Conv", 1): "weight",
    ("Conv", 2): "shift",
    ("Gemm", 1): "weight",
    ("Gemm", 2): "shift",
    ("BatchNormalization", 1): "scale",
    ("BatchNormalization", 2): "shift",
    ("BatchNormalization", 3): "shift",
    ("BatchNormalization", 4): "variance",
    ("Mul", 1): "scale",
    ("Add", 1): "shift",
}
"""Operation and input position to the role of the constant that stands there."""


def revive(model: onnx.ModelProto) -> None:
    """Replace the constants of ``model``, in place, by random values of the same shapes."""
    import numpy as np
    from onnx import helper, numpy_helper

    generator = np.random.default_rng(SEED)
    graph = model.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    roles = dict(constant_roles(graph))
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.output[0] in roles:
            name = node.output[0]
            shape = tuple(int(size) for size in shapes[node.input[0]])
            value = numpy_helper.from_array(draw(roles[name], shape, generator), name)
            node.CopyFrom(helper.make_node("Constant", [], [name], value=value))
    for tensor in graph.initializer:
        if tensor.name in roles:
            values = draw(roles[tensor.name], tuple(tensor.dims), generator)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    drop_closing_softmax(graph)


def constant_roles(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Yield the name of every constant whose role is known, also of those that reach it through Unsqueeze."""
    origin = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Unsqueeze"}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if (role := ROLES.get((node.op_type, place))) is not None:
                yield origin.get(name, name), role


def draw(role: str, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
    """Random float32 values that keep activations in range: He's for weights, one scale in ten negative."""
    import numpy as np

    values: NDArray[Any]
    if role == "weight":
        values = generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif role == "scale":
        values = generator.uniform(0.5, 1.5, shape) * np.where(generator.random(shape) < 0.1, -1, 1)
    elif role == "variance":
        values = generator.uniform(0.5, 1.5, shape)
    else:
        values = generator.normal(0, 0.2, shape)
    return values.astype(np.float32)


def drop_closing_softmax(graph: onnx.GraphProto) -> None:
    """Make the input of a Softmax that is the graph's output the output itself."""
    last = graph.node[-1]
    if last.op_type != "Softmax" or last.output[0] != graph.output[0].name:
        return
    before = next(node for node in graph.node if last.input[0] in node.output)
    before.output[list(before.output).index(last.input[0])] = last.output[0]
    graph.node.remove(last)
