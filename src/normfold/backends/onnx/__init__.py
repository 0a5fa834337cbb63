"""ONNX models over onnx_ir: lift nodes to views, find the norms, commit plans."""

from normfold.backends.onnx.graph import OnnxGraph

__all__ = ["OnnxGraph"]
