"""`inspect` of models that are quantised."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser

import nets
import normfold
from normfold.report.blocks import Detail
from normfold.report.text import plain


def quantized() -> onnx.ModelProto:
    """A convolution between quantisers, and one that is not."""
    proto = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> case (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
            xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
            v = DequantizeLinear <axis = 0> (w, ws) c = Conv(xd, v) r = Relu(c) y = Conv(r, f)
        }"""
    )
    constants = {
        "s": np.float32(0.1),
        "z": np.uint8(9),
        "w": np.ones((2, 2, 1, 1), np.int8),
        "ws": np.ones(2, np.float32),
        "f": np.ones((2, 2, 1, 1), np.float32),
    }
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items())
    return proto


def test_what_is_quantised_is_told():
    result = normfold.inspect(quantized())
    wanted = {"operator": "Conv", "form": "qdq", "weight": "int8 per channel", "activation": "uint8", "count": 1}
    assert result.document()["quantization"] == {"parts": [wanted], "floating": {"Conv": 1}}
    text = plain(result.report())
    assert "int8 per channel" in text
    assert "quantised: 1 operation on codes; 1 linear operation in floating point" in text
    assert "per channel" not in plain(result.report(Detail.SUMMARY))


def test_a_model_in_floating_point_is_not_quantised():
    result = normfold.inspect(nets.conv_bn())
    assert result.document()["quantization"] is None
    assert "quantised" not in plain(result.report())
