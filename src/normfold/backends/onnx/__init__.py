"""ONNX models over onnx_ir: lift nodes to views, find the norms, commit plans."""

from normfold.backends.onnx.graph import OnnxGraph
from normfold.backends.onnx.write.preprocessing import bind

__all__ = ["OnnxGraph", "bind"]
