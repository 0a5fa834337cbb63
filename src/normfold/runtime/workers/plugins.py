"""Execution providers that come in packages of their own."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from normfold.runtime.workers.protocol import RefusedError, sentence


class Plugin(NamedTuple):
    """A package in which a provider comes that is not part of ONNX Runtime itself."""

    module: str
    package: str
    """As pip installs it."""
    usual: Mapping[str, str] = {}
    """Options that it needs to do anything."""


PLUGINS: Final = {
    "OpenVINOExecutionProvider": Plugin("onnxruntime_ep_openvino", "onnxruntime-ep-openvino"),
    "WebGpuExecutionProvider": Plugin("onnxruntime_ep_webgpu", "onnxruntime-ep-webgpu"),
    "QNNExecutionProvider": Plugin("onnxruntime_qnn", "onnxruntime-qnn", {"backend_type": "htp"}),
}


def plug_in(provider: str) -> bool:
    """Register a provider that comes in a package of its own; whether there is such a package, and it is installed.

    Raises:
        RefusedError: its library cannot be loaded, or finds no device.
    """
    import onnxruntime

    if provider not in PLUGINS:
        return False
    try:
        package = importlib.import_module(PLUGINS[provider].module)
        onnxruntime.register_execution_provider_library(provider, package.get_library_path())
    except ModuleNotFoundError:
        return False
    except Exception as error:
        raise RefusedError("provider", f"{provider} could not be loaded: {sentence(error)}") from error
    if not devices(provider):
        raise RefusedError("provider", f"{provider} found no device that it could use")
    return True


def settings(provider: str, options: Mapping[str, str]) -> dict[str, str]:
    """Options of a session in the plug-in's own words: OpenVINO's takes its precision in a document."""
    found = {**PLUGINS[provider].usual, **options}
    if provider == "OpenVINOExecutionProvider" and "precision" in found:
        hint = {"INFERENCE_PRECISION_HINT": found.pop("precision")}
        found["load_config"] = json.dumps({"CPU": hint})
    return found


def devices(provider: str) -> list[Any]:
    """Devices that a plugged-in provider can use."""
    import onnxruntime

    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
