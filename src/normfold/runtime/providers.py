"""Execution providers: their names, and which of them are installed."""

from __future__ import annotations

from typing import Final

PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "nvtensorrtrtx": "NvTensorRTRTXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "dml": "DmlExecutionProvider",
    "acl": "ACLExecutionProvider",
    "cann": "CANNExecutionProvider",
}
"""Short names, and ONNX Runtime's."""
CPU: Final = PROVIDERS["cpu"]
NVIDIA: Final = ("cuda", "tensorrt", "nvtensorrtrtx")
DEVICES: Final = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda", "ROCMExecutionProvider": "cuda"}
"""Where the tensors of a provider live, in ONNX Runtime's words; others work on the CPU's memory."""


def available() -> list[str]:
    """Providers of the installed ONNX Runtime.

    Raises:
        ImportError, OSError: it cannot be loaded.
    """
    import onnxruntime

    return list(onnxruntime.get_available_providers())
