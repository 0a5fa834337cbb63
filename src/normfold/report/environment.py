"""What results depend on besides the model: versions, execution providers, the processor."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from normfold._version import __version__
from normfold.report.blocks import Blocks, Detail, KeyValues
from normfold.runtime import energy, gpu, processors, providers

PACKAGES: Final = ("onnx", "onnx-ir", "onnxruntime", "numpy", "ml-dtypes", "protobuf")
OPTIONAL: Final = {"torch": ("pip install 'normfold[torch]'", "folding and exporting an nn.Module")}
"""Packages that some jobs need: the command that installs each, and what for."""
PROVIDERS: Final = {
    "onnxruntime-gpu": (
        "pip uninstall onnxruntime && pip install onnxruntime-gpu",
        "the execution providers cuda and tensorrt, beside an NVIDIA driver",
    ),
    "onnxruntime-ep-openvino": ("pip install onnxruntime-ep-openvino", "the execution provider openvino"),
    "onnxruntime-ep-webgpu": ("pip install onnxruntime-ep-webgpu", "the execution provider webgpu"),
    "onnxruntime-qnn": ("pip install onnxruntime-qnn", "the execution provider qnn"),
}
"""The same for packages that bring execution providers."""
DOT_PRODUCTS: Final = ("avx512_vnni", "avx_vnni", "amx_int8", "asimd dot product", "asimd int8 matrix product")
"""Processor features with dot products of int8."""
FEATURES: Final = {
    "avx2": "avx2",
    "fma": "fma",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "asimd": "asimd",
    "asimddp": "asimd dot product",
    "i8mm": "asimd int8 matrix product",
}
"""Processor flags as Linux spells them that decide which kernels run, and their names here."""


def environment() -> dict[str, Any]:
    """``result`` of ``env``; never fails, an unusable package is named with its reason."""
    found, unusable = _providers()
    installed = {name: _version(name) for name in (*PACKAGES, *OPTIONAL, *PROVIDERS)}
    gpus, meter = gpu.look(), energy.meter()
    return {
        "normfold": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processors.model_name(),
        "cpus": os.cpu_count(),
        "cpu_features": _cpu_features(),
        "packages": installed,
        "providers": found,
        "unusable": unusable,
        "missing": [
            {"package": name, "install": command, "for": purpose}
            for name, (command, purpose) in (OPTIONAL | PROVIDERS).items()
            if installed[name] is None
        ],
        "gpus": [] if isinstance(gpus, str) else gpus,
        "no_gpu": gpus if isinstance(gpus, str) else None,
        "no_energy": meter if isinstance(meter, str) else None,
    }


def report(found: dict[str, Any], detail: Detail = Detail.NORMAL) -> Blocks:
    """The same for people."""
    return (KeyValues(tuple(lines(found, short=detail == Detail.SUMMARY).items())),)


def lines(found: dict[str, Any], *, short: bool = False) -> dict[str, str]:
    """The same as names and values for people."""
    head = {"normfold": found["normfold"], "python": found["python"]}
    if short:
        return head
    packages = {name: installed for name, installed in found["packages"].items() if installed}
    missing = {f"no {entry['package']}": f"{entry['install']}   for {entry['for']}" for entry in found["missing"]}
    features = found["cpu_features"]
    return {
        **head,
        **packages,
        **{f"unusable {name}": because for name, because in found["unusable"].items()},
        "execution providers": ", ".join(found["providers"]) or "none",
        "platform": found["platform"],
        "processor": f"{found['processor']}, {found['cpus']} logical",
        "processor features": "unknown"
        if features is None
        else ", ".join(features) or "none of those that matter to kernels",
        "int8 arithmetic": _int8(features),
        "gpu": ", ".join(entry["name"] for entry in found["gpus"]) or found["no_gpu"],
        "energy": "RAPL counters" if found["no_energy"] is None else found["no_energy"],
        **missing,
    }


def _int8(features: list[str] | None) -> str:
    """The instructions for int8 dot products, which decide whether quantised models are any faster."""
    if features is None:
        return "unknown"
    if found := [name for name in features if name in DOT_PRODUCTS]:
        return ", ".join(found)
    return "no int8 dot product: quantised models gain little, and U8S8 can saturate on AVX2"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _providers() -> tuple[list[str], dict[str, str]]:
    """Execution providers of the installed ONNX Runtime, or why it cannot be loaded."""
    try:
        return providers.available(), {}
    except (ImportError, OSError) as error:
        return [], {"onnxruntime": str(error)}


def _cpu_features() -> list[str] | None:
    """Names from `FEATURES` that this processor has; ``None`` where the system does not say."""
    facts = processors.facts()
    flags = facts.get("flags") or facts.get("Features")
    if flags is None:
        return None
    present = set(flags.split())
    return [name for flag, name in FEATURES.items() if flag in present]
