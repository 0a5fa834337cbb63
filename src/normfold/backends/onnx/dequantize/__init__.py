"""Quantised models from elsewhere: what is quantised in them, and the same networks in floating point."""

from normfold.backends.onnx.dequantize.found import quantization_of
from normfold.backends.onnx.dequantize.operators import dequantize

__all__ = ["dequantize", "quantization_of"]
