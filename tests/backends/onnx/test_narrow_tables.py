"""Tables read by index, stored in eight bits."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from normfold.backends.onnx.integers.tables import narrow_tables


def model(body: str, table: np.ndarray) -> onnx.ModelProto:
    proto = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> case (int64[N, T] x) => (float[N, T, C] y) {{ {body} }}'
    )
    proto.graph.initializer.append(numpy_helper.from_array(table, "table"))
    return proto


def table(rows: int = 2000, width: int = 64) -> np.ndarray:
    generator = np.random.default_rng(0)
    # Rows of sizes that one scale for all could not hold.
    return (generator.standard_normal((rows, width)) * 10.0 ** generator.uniform(-3, 3, (rows, 1))).astype(np.float32)


def narrowed(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    rewritten = ir.from_proto(proto)
    count = narrow_tables(rewritten)
    result = ir.to_proto(rewritten)
    onnx.checker.check_model(result, full_check=True)
    return result, count


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize(
    "body",
    [
        "y = Gather(table, x)",
        "a = Gather(table, x) y = Neg(a)",
        "a = Gather(table, x) b = Gather(table, x) y = Add(a, b)",
    ],
)
def test_each_row_is_within_half_a_step_of_its_own(body):
    held = table()
    proto = model(body, held)
    result, count = narrowed(proto)
    assert count == 1
    assert result.ByteSize() < 0.3 * proto.ByteSize()
    x = np.random.default_rng(1).integers(0, len(held), (3, 7))
    twice = 2 if "Add" in body else 1
    step = twice * np.abs(held).max(axis=1)[x] / 127
    assert (np.abs(run(proto, x) - run(result, x)) <= 0.51 * step[..., None]).all()


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        ("y = Gather(table, x)", 100),  # too small
        ("a = Gather <axis = 1> (table, x) y = Transpose <perm = [1, 2, 0]> (a)", 2000),  # columns
        ("a = Gather(table, x) t = Transpose(table) y = MatMul(a, u)", 2000),  # read whole as well
    ],
)
def test_what_is_no_large_table_of_rows_stays(body, rows):
    body = body.replace("u)", "t)")
    proto = model(body, table(rows))
    result, count = narrowed(proto)
    assert count == 0
    assert [node.op_type for node in result.graph.node] == [node.op_type for node in proto.graph.node]
