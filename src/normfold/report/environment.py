"""What results depend on besides the model: versions, execution providers, the processor."""

from __future__ import annotations

import importlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from normfold import __version__

PACKAGES: Final = ("onnx", "onnx-ir", "onnxruntime", "numpy", "ml-dtypes", "protobuf")
OPTIONAL: Final = {"torch": "pip install 'normfold[torch]'"}
"""Packages that some jobs need, and the command that installs each."""
FEATURES: Final = {
    "avx2": "avx2",
    "fma": "fma",
    "avx512f": "avx512f",
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
    providers, unusable = _providers()
    installed = {name: _version(name) for name in (*PACKAGES, *OPTIONAL)}
    return {
        "normfold": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "cpu_features": _cpu_features(),
        "packages": installed,
        "providers": providers,
        "unusable": unusable,
        "missing": [
            {"package": name, "install": command} for name, command in OPTIONAL.items() if installed[name] is None
        ],
    }


def lines(found: dict[str, Any], *, short: bool = False) -> dict[str, str]:
    """The same as names and values for people."""
    head = {"normfold": found["normfold"], "python": found["python"]}
    if short:
        return head
    packages = {name: installed or "not installed" for name, installed in found["packages"].items()}
    missing = {f"to get {entry['package']}": entry["install"] for entry in found["missing"]}
    features = found["cpu_features"]
    return {
        **head,
        **packages,
        **missing,
        **{f"unusable {name}": because for name, because in found["unusable"].items()},
        "execution providers": ", ".join(found["providers"]) or "none",
        "platform": found["platform"],
        "processor": f"{found['processor']}, {found['cpus']} logical",
        "processor features": "unknown" if features is None else ", ".join(features) or "none that matter",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _providers() -> tuple[list[str], dict[str, str]]:
    """Execution providers of the installed ONNX Runtime, or why it cannot be loaded."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        runtime = importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:
        return [], {"onnxruntime": str(error)}
    return list(runtime.get_available_providers()), {}


def _cpu_facts() -> dict[str, str]:
    """Fields of the first processor in Linux's list; empty on other systems."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _colon, value in fields}


def _processor() -> str:
    return _cpu_facts().get("model name") or platform.processor() or platform.machine()


def _cpu_features() -> list[str] | None:
    """Names from `FEATURES` that this processor has; ``None`` where the system does not say."""
    facts = _cpu_facts()
    flags = facts.get("flags") or facts.get("Features")
    if flags is None:
        return None
    present = set(flags.split())
    return [name for flag, name in FEATURES.items() if flag in present]
