"""ONNX models over onnx_ir: lift nodes to views, find the norms, commit plans."""

from normfold.backends.onnx.clean import clean as remove_dead_weight
from normfold.backends.onnx.clean import count_nodes
from normfold.backends.onnx.fuse import fuse
from normfold.backends.onnx.graph import OnnxGraph
from normfold.backends.onnx.norms.sites import may_hold_norm
from normfold.backends.onnx.reading.inference import Inference
from normfold.backends.onnx.reading.inline import inline_norms
from normfold.backends.onnx.reading.stored import stored
from normfold.backends.onnx.write.mending import drop_empty_biases
from normfold.backends.onnx.write.preprocessing import bind, insert

__all__ = [
    "Inference",
    "OnnxGraph",
    "bind",
    "count_nodes",
    "drop_empty_biases",
    "fuse",
    "inline_norms",
    "insert",
    "may_hold_norm",
    "remove_dead_weight",
    "stored",
]
