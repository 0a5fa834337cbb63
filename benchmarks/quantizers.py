"""The recipes that quantised models are compared with, each run on one file in a process of its own.

Every recipe reads the same source, which normfold has folded already, and the same calibration data, an ``.npz`` file
of arrays by input name whose first axis counts samples. A recipe whose tool is not installed reports ``missing``. AIMET
(2.42) is not among them: its package comes with a CUDA build of torch in place of the one installed.

    python benchmarks/quantizers.py --list
    python benchmarks/quantizers.py ort-minmax folded.onnx out.onnx calibration.npz
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import common
from peers import Run

BATCH: Final = 32
"""Samples of a batch, where the model's first dimension is free."""
HISTOGRAM_PICTURES: Final = 128
"""Samples for the calibrators of ONNX Runtime that keep every intermediate value in memory."""
ORT: Final[Mapping[str, Any]] = {
    "quant_format": "QDQ",
    "activation_type": "QUInt8",
    "weight_type": "QInt8",
    "per_channel": True,
    "calibrate_method": "MinMax",
}
"""What is known to be fast: unsigned activations, signed weights, a scale for each channel."""
WORDS: Final = 300


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one tool is called: the packages that it needs, its options, and how many samples it sees at most."""

    tool: str
    make: Callable[[Path, Path, Samples, Mapping[str, Any]], None]
    options: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 512
    suffix: str = ".onnx"

    @property
    def unsigned(self) -> bool:
        """Whether it belongs to the best recipes of ``onnxruntime.quantization`` that a result is held against."""
        return self.make in (static, simplified) and self.options.get("activation_type") == "QUInt8"


class Samples:
    """Calibration data: the first ``count`` samples, in batches that ``source`` takes."""

    def __init__(self, file: Path, count: int, source: Path) -> None:
        import numpy as np
        import onnx

        with np.load(file) as archive:
            held = {name: archive[name] for name in archive.files}
        graph = onnx.load_model(source, load_external_data=False).graph
        inputs = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
        self._arrays = {name: array[:count] for name, array in held.items() if name in inputs}
        sizes = {dims[0].dim_value for name, dims in inputs.items() if name in self._arrays and dims}
        self.batch = max(sizes, default=0) or BATCH

    def __iter__(self) -> Iterator[dict[str, Any]]:
        length = min(map(len, self._arrays.values()))
        for start in range(0, length - self.batch + 1, self.batch):
            yield {name: array[start : start + self.batch] for name, array in self._arrays.items()}


class Reader:
    """The same, as ``onnxruntime.quantization`` asks for it."""

    def __init__(self, samples: Samples) -> None:
        self._samples, self._left = samples, iter(samples)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch."""
        return next(self._left, None)

    def rewind(self) -> None:
        """Start again."""
        self._left = iter(self._samples)


def static(source: Path, target: Path, samples: Samples, options: Mapping[str, Any]) -> None:
    """``quantize_static`` of ONNX Runtime, without grouped ConvTranspose where it crashes at them."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    kinds = {
        "quant_format": QuantFormat,
        "activation_type": QuantType,
        "weight_type": QuantType,
        "calibrate_method": CalibrationMethod,
    }
    given = {name: kinds[name][value] if name in kinds else value for name, value in options.items()}
    reader: Any = Reader(samples)
    # One scale for each channel crashes at these.
    left = grouped_transposed(source) if options.get("per_channel") else []
    quantize_static(str(source), str(target), reader, nodes_to_exclude=left, **given)


def grouped_transposed(source: Path) -> list[str]:
    """Names of the grouped ConvTranspose nodes."""
    import onnx

    nodes = onnx.load_model(source, load_external_data=False).graph.node
    groups = {
        node.name: [a.i for a in node.attribute if a.name == "group"] for node in nodes if "Transpose" in node.op_type
    }
    return [name for name, group in groups.items() if group and group[0] > 1]


def simplified(source: Path, target: Path, samples: Samples, options: Mapping[str, Any]) -> None:
    """The same behind onnxsim."""
    import peers

    with tempfile.TemporaryDirectory(prefix="onnxsim_") as folder:
        between = Path(folder) / "simplified.onnx"
        peers.run_onnxsim(str(source), str(between))
        static(between, target, samples, options)


def dynamic(source: Path, target: Path, _samples: Samples, options: Mapping[str, Any]) -> None:
    """``quantize_dynamic`` of ONNX Runtime, only MatMul and Gemm: its convolutions run 20 times slower."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # It transposes weights but not what the file states of their shapes, and its own inference then rejects them.
    del model.graph.value_info[:]
    kept = {name: value for name, value in options.items() if name != "weight_type"}
    quantize_dynamic(model, str(target), weight_type=QuantType[options["weight_type"]], **kept)


def nncf_onnx(source: Path, target: Path, samples: Samples, options: Mapping[str, Any]) -> None:
    """NNCF on the ONNX file."""
    import nncf
    import onnx

    model = onnx.load(source)
    made: Any = nncf.quantize(model, nncf.Dataset(list(samples)), **_of_nncf(model, options, len(list(samples))))
    onnx.save(made, target)


def nncf_openvino(source: Path, target: Path, samples: Samples, options: Mapping[str, Any]) -> None:
    """NNCF on OpenVINO's own representation, which only OpenVINO runs."""
    import nncf
    import onnx
    import openvino

    model: Any = openvino.convert_model(source)
    options = _of_nncf(onnx.load(source), options, len(list(samples)))
    openvino.save_model(nncf.quantize(model, nncf.Dataset(list(samples)), **options), target, compress_to_fp16=False)


def openvino_float(source: Path, target: Path, _samples: Samples, _options: Mapping[str, Any]) -> None:
    """OpenVINO without quantisation; in which type it computes is its own choice."""
    import openvino

    openvino.save_model(openvino.convert_model(source), target, compress_to_fp16=False)


def _of_nncf(model: Any, options: Mapping[str, Any], batches: int) -> dict[str, Any]:
    """Options of ``nncf.quantize``: attention is announced to it, as its manual says."""
    import nncf

    attends = any(node.op_type == "Softmax" for node in model.graph.node)
    return {
        "preset": nncf.QuantizationPreset[options["preset"]],
        "subset_size": batches,
        "model_type": nncf.ModelType.TRANSFORMER if attends else None,
    }


def quark(source: Path, target: Path, samples: Samples, options: Mapping[str, Any]) -> None:
    """AMD Quark with one of its presets."""
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config import Config, get_default_config

    config: Any = Config(global_quant_config=get_default_config(options["preset"]))
    ModelQuantizer(config).quantize_model(str(source), str(target), Reader(samples))


RECIPES: Final[Mapping[str, Recipe]] = {
    "ort-default": Recipe("onnxruntime", static),
    "ort-minmax": Recipe("onnxruntime", static, ORT),
    "ort-percentile": Recipe(
        "onnxruntime", static, {**ORT, "calibrate_method": "Percentile"}, samples=HISTOGRAM_PICTURES
    ),
    "ort-entropy": Recipe("onnxruntime", static, {**ORT, "calibrate_method": "Entropy"}, samples=HISTOGRAM_PICTURES),
    "ort-qoperator": Recipe("onnxruntime", static, {**ORT, "quant_format": "QOperator"}),
    "onnxsim-minmax": Recipe("onnxsim", simplified, ORT),
    "ort-dynamic": Recipe(
        "onnxruntime",
        dynamic,
        {"weight_type": "QInt8", "per_channel": True, "op_types_to_quantize": ["MatMul", "Gemm"]},
    ),
    "nncf": Recipe("nncf", nncf_onnx, {"preset": "MIXED"}),
    "quark": Recipe("quark", quark, {"preset": "U8S8_AAWS"}),
    "openvino": Recipe("openvino", openvino_float, suffix=".xml"),
    "openvino-nncf": Recipe("nncf", nncf_openvino, {"preset": "MIXED"}, suffix=".xml"),
}


def run(recipe: str, source: Path, target: Path, data: Path, limit: float) -> Run:
    """Make ``target`` of ``source`` within ``limit`` seconds, in a process of its own."""
    if importlib.util.find_spec(RECIPES[recipe].tool) is None:
        return Run(recipe, "missing")
    command = [sys.executable, __file__, recipe, *map(str, (source, target, data))]
    return in_process(recipe, command, target, limit)


def in_process(name: str, command: list[str], target: Path, limit: float) -> Run:
    """Run ``command``, which is to write ``target``; how it ended."""
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=common.one_thread(), check=False
        )
    except subprocess.TimeoutExpired:
        return Run(name, "timeout", round(limit, 2), f"no result within {limit:.0f} s")
    seconds = round(time.perf_counter() - started, 2)
    words = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    said = "" if done.returncode == 0 else f"exit {done.returncode}: {words[-1][:WORDS] if words else 'no message'}"
    return Run(name, "done" if target.is_file() else "crash", seconds, said)


def listing() -> str:
    """Every recipe with its options."""
    return "\n".join(f"{name}: {_about(recipe)}" for name, recipe in RECIPES.items())


@functools.cache
def _first_line(make: Callable[..., None]) -> str:
    return (make.__doc__ or "").splitlines()[0]


def _about(recipe: Recipe) -> str:
    options = json.dumps(dict(recipe.options)) if recipe.options else "its defaults"
    return f"{_first_line(recipe.make)} {options}, at most {recipe.samples} samples"


def main() -> int:
    """Entry point of the process that makes one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the recipes and their options")
    parser.add_argument("recipe", nargs="?", choices=RECIPES)
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("target", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    options = parser.parse_args()
    if options.list or options.data is None:
        print(listing())
        return 0 if options.list else 2
    recipe = RECIPES[options.recipe]
    with tempfile.TemporaryDirectory(prefix="quantizer_") as folder:
        part = Path(folder) / f"{options.target.stem}{recipe.suffix}"
        recipe.make(options.source, part, Samples(options.data, recipe.samples, options.source), recipe.options)
        for file in sorted(Path(folder).glob(f"{options.target.stem}.*"), reverse=True):
            (options.target.parent / file.name).write_bytes(file.read_bytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
