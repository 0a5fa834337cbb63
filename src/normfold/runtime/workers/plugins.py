"""Execution providers that come in packages of their own."""

from __future__ import annotations

import importlib
from typing import Any, Final

from normfold.runtime.workers.protocol import RefusedError, sentence

PLUGINS: Final = {
    "OpenVINOExecutionProvider": "onnxruntime_ep_openvino",
    "WebGpuExecutionProvider": "onnxruntime_ep_webgpu",
    "QNNExecutionProvider": "onnxruntime_qnn",
}
"""Modules of the packages in which providers come that are not part of ONNX Runtime itself."""


def plug_in(provider: str) -> bool:
    """Register a provider that comes in a package of its own; whether there is such a package, and it is installed.

    Raises:
        RefusedError: its library cannot be loaded, or finds no device.
    """
    import onnxruntime

    if provider not in PLUGINS:
        return False
    try:
        package = importlib.import_module(PLUGINS[provider])
        onnxruntime.register_execution_provider_library(provider, package.get_library_path())
    except ModuleNotFoundError:
        return False
    except Exception as error:
        raise RefusedError("provider", f"{provider} could not be loaded: {sentence(error)}") from error
    if not devices(provider):
        raise RefusedError("provider", f"{provider} found no device that it could use")
    return True


def devices(provider: str) -> list[Any]:
    """Devices that a plugged-in provider can use."""
    import onnxruntime

    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
