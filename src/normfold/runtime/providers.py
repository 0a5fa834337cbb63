"""Execution providers: their names, which of them are installed, and which are emulated."""

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
DEFAULT: Final = "cpu"
CPU: Final = PROVIDERS["cpu"]
NVIDIA: Final = ("cuda", "tensorrt", "nvtensorrtrtx")
X86: Final = ("x86_64", "AMD64")
ELSEWHERE: Final = ("qnn",)
"""Providers of processors that no x86 machine has: there, they compile for one and emulate it."""
DEVICES: Final = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda", "ROCMExecutionProvider": "cuda"}
"""Where the tensors of a provider live, in ONNX Runtime's words; others work on the CPU's memory."""


def is_emulated(provider: str, architecture: str) -> bool:
    """Whether a provider, by its short name, only compiles and emulates on machines of this architecture."""
    return provider in ELSEWHERE and architecture in X86


def available() -> list[str]:
    """Providers of the installed ONNX Runtime.

    Raises:
        ImportError, OSError: it cannot be loaded.
    """
    import onnxruntime

    return list(onnxruntime.get_available_providers())
