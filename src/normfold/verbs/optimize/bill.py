"""The bill of materials of an optimised model, in CycloneDX's JSON (ECMA-424): what it was made of, and by what."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from normfold._version import __version__
from normfold.pipeline.stages import Json

SPACE: Final = uuid.UUID("f8a5c3b2-6c0e-5d8e-9f52-3d1a7c9b4e60")
"""Of the serial numbers: the same model gets the same one."""
VERSION: Final = "1.6"


def bill(found: Json) -> Json:
    """The CycloneDX document of the model that ``found`` is about."""
    data, packages = list(_data(found)), list(_packages(found))
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(SPACE, found['sha256'])}",
        "version": 1,
        "metadata": {
            "timestamp": found["started"],
            "tools": {"components": [{"type": "application", "name": "normfold", "version": __version__}]},
            "component": _model(found, [one["bom-ref"] for one in data]),
        },
        "components": [*data, *packages],
        "dependencies": [{"ref": "model", "dependsOn": [one["bom-ref"] for one in data]}],
    }


def _model(found: Json, data: list[str]) -> Json:
    source = found["source"]
    steps = "; ".join(f"{one['stage']}: {one['says']}" for one in found["stages"] if one["outcome"] == "kept")
    ancestor = {
        "type": "machine-learning-model",
        "name": Path(source["name"]).name if source["name"] else source["kind"],
        "hashes": [_hash(source["path_sha256"] or source["sha256"])],
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": "model.onnx",
        "version": found["sha256"][:12],
        "hashes": [_hash(found["sha256"])],
        "pedigree": {"ancestors": [ancestor], "notes": steps},
        "modelCard": {
            "modelParameters": {"datasets": [{"ref": ref} for ref in data]},
            "quantitativeAnalysis": {"performanceMetrics": list(_figures(found))},
        },
    }


def _figures(found: Json) -> Iterator[Json]:
    yield _figure("latency in milliseconds", found["figures"]["after"]["ms"])
    compared = found["times"].get(found["chosen"])
    if compared is not None:
        yield _figure("time over that of the source", compared["ratio"])
    accuracy = found["accuracy"]
    if accuracy is not None:
        yield {"type": accuracy["metric"], "value": f"{accuracy['after']:.6g}"}
        yield _figure(f"difference of {accuracy['metric']} from the source's", accuracy["difference"])


def _figure(name: str, bounds: Json) -> Json:
    value = {"type": name, "value": f"{bounds['value']:.6g}"}
    if bounds["low"] is None or bounds["high"] is None:
        return value
    interval = {"lowerBound": f"{bounds['low']:.6g}", "upperBound": f"{bounds['high']:.6g}"}
    return {**value, "confidenceInterval": interval}


def _data(found: Json) -> Iterator[Json]:
    for purpose in ("calibrate", "evaluate"):
        sha256 = found["data"][purpose]
        if sha256 is not None:
            name = found["configuration"][purpose]
            yield {"type": "data", "bom-ref": purpose, "name": name, "hashes": [_hash(sha256)]}


def _packages(found: Json) -> Iterator[Json]:
    for name, version in found["environment"]["packages"].items():
        if version is not None:
            purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
            yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _hash(sha256: str) -> Json:
    return {"alg": "SHA-256", "content": sha256}
