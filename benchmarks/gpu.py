"""What folding, fp16, a CUDA graph and NHWC are worth on an NVIDIA GPU, beside PyTorch with a CUDA graph and Inductor.

    pip uninstall -y onnxruntime && pip install onnxruntime-gpu torch timm && pip install -e .
    python benchmarks/gpu.py --json out/gpu.json
    python benchmarks/gpu.py --models resnet50 --batches 1

ONNX Runtime's columns are those of `normfold.measure`: IO binding, fresh processes, blocks in random order, every
configuration beside the model as exported. The checks hold: all nodes are placed on the CUDA provider but for those
that are counted in the JSON, and outputs agree with the exported model's on the CPU within ``--rtol`` of their range.
fp16 models are made by ONNX Runtime's own converter; inputs and outputs stay float32. Weights are random, norms of
both signs among them, so rounding grows more on its way than in a trained network; deviations are in the JSON.

PyTorch's columns are medians over fresh processes of the same network in fp16, its branches merged where timm knows
how, in the faster of its two memory formats: one replay of a CUDA graph, or one call of what `torch.compile` made with
Inductor (``max-autotune``, which captures a CUDA graph itself). Each call is waited for, as ONNX Runtime does. Outputs
are compared with the network's own in float32. PyTorch takes and gives fp16: two conversions less.

Without a GPU that both can use, the exit is 3 and says why.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import common

import normfold
from normfold.errors import NormfoldError
from normfold.measure import (
    Candidate,
    Conditions,
    Effort,
    Experiment,
    Interval,
    SessionProfile,
    measure,
    open_candidate,
)
from normfold.report.environment import environment
from normfold.runtime import gpu

if TYPE_CHECKING:
    import torch
    from torch import nn

MODELS: Final = ("resnet50", "mobileone_s0", "levit_128s", "densenet121", "mobilenetv2_100")
SIZE: Final = 224
SEED: Final = 11
CUDA: Final = SessionProfile(provider="cuda")
GRAPH: Final = {"enable_cuda_graph": "1"}
NHWC: Final = {"prefer_nhwc": "1"}
EXPORTED: Final = "exported"
CONFIGURATIONS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    EXPORTED: ("exported", {}),
    "folded": ("folded", {}),
    "folded, graph": ("folded", GRAPH),
    "fp16": ("fp16", {}),
    "fp16, graph": ("fp16", GRAPH),
    "fp16, graph, NHWC": ("fp16", {**GRAPH, **NHWC}),
}
"""Columns of ONNX Runtime: the file, and options of the CUDA provider."""
TORCH: Final = ("torch graph", "Inductor")
WARM_UP: Final = 20
RUNS: Final = 200
NOTHING_TO_RUN_ON: Final = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One network at one batch size; milliseconds."""

    model: str
    batch: int
    milliseconds: dict[str, float] = field(default_factory=dict)
    to_exported: dict[str, Interval] = field(default_factory=dict)
    """Time over that of the exported model, with its interval."""
    deviations: dict[str, float] = field(default_factory=dict)
    """Largest difference of any output, of its range."""
    placed: dict[str, dict[str, int]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    gpu: list[Any] = field(default_factory=list)
    """Clocks, power and throttle reasons before and after each process."""

    @property
    def fastest(self) -> str | None:
        """The fastest column."""
        return min(self.milliseconds, key=self.milliseconds.__getitem__, default=None)


def unavailable() -> str | None:
    """Why nothing can be measured here, if so: a model of one operation is put through all checks."""
    with tempfile.TemporaryDirectory() as folder, open_candidate(_one_operation(Path(folder)), profile=CUDA) as model:
        brief = Effort(first=1, most=1, per_process=0.01, copies=1, details=False, control=False)
        refused = measure(Experiment((model,), Conditions(), brief)).refused
    if refused is not None:
        return f"[{refused.code}] {refused.message}"
    import torch

    return None if torch.cuda.is_available() else "[provider-unavailable] PyTorch sees no GPU that it can use."


def _one_operation(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", [x], [y])
    path = folder / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def network(name: str) -> nn.Module:
    """The architecture with random weights and live statistics, the same each time."""
    import torch
    import zoo

    torch.manual_seed(SEED)
    model = zoo.create(zoo.Architecture(name))
    zoo.enliven(model, SIZE)
    return model


def to_fp16(source: Path, target: Path) -> None:
    """The same with weights and arithmetic in fp16; inputs and outputs stay as they are."""
    import onnx
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx_ir.from_proto(convert_float_to_float16(onnx.load(source), keep_io_types=True))
    # The converter appends the casts of the inputs behind the nodes that read them.
    model.graph.sort()
    onnx_ir.save(model, target)


def files(name: str, batch: int, folder: Path) -> dict[str, Path]:
    """The network as exported, folded, and folded in fp16."""
    import torch

    made = {kind: folder / f"{name}-{batch}-{kind}.onnx" for kind in ("exported", "folded", "fp16")}
    example = torch.randn(batch, 3, SIZE, SIZE)
    program = torch.onnx.export(network(name), (example,), dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError(f"{name} was not exported")
    program.save(str(made["exported"]), external_data=False)
    normfold.fold(made["exported"], output=made["folded"])
    to_fp16(made["folded"], made["fp16"])
    return made


def time_sessions(row: Row, made: dict[str, Path], effort: Effort, rtol: float) -> None:
    """Fill in the columns of ONNX Runtime; one that is refused does not take the others with it."""
    with ExitStack() as opened:
        models = {kind: opened.enter_context(open_candidate(path)) for kind, path in made.items()}
        listed = [
            replace(models[kind], name=name, profile=replace(CUDA, provider_options=options))
            for name, (kind, options) in CONFIGURATIONS.items()
        ]
        if not _together(row, listed, effort, rtol):
            for one in listed[1:]:
                _together(row, [listed[0], one], effort, rtol)


def _together(row: Row, candidates: Sequence[Candidate], effort: Effort, rtol: float) -> bool:
    cell = measure(Experiment(tuple(candidates), Conditions(), effort, rtol=rtol, allow_fallback=True))
    if cell.refused is not None:
        row.refused[candidates[-1].name] = f"{cell.refused.code}: {cell.refused.message}"
        return False
    row.refused.pop(candidates[-1].name, None)
    for figure in cell.figures:
        row.milliseconds[figure.name] = round(figure.latency.value / 1e6, 4)
        row.deviations[figure.name] = figure.deviation
        row.placed[figure.name] = dict(figure.placed)
    row.to_exported.update({name: comparison.ratio for name, comparison in cell.comparisons.items()})
    row.gpu.extend(sample.gpu for sample in cell.samples)
    return True


def time_torch(row: Row, processes: int, rtol: float, limit: float) -> None:
    """Fill in the columns of PyTorch: medians over fresh processes."""
    command = [sys.executable, __file__, "--torch", row.model, "--batches", str(row.batch)]
    found: dict[str, list[float]] = {}
    for _ in range(processes):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            row.refused["torch"] = f"no result within {limit:.0f} s"
            return
        if done.returncode:
            row.refused["torch"] = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
            return
        answer = json.loads(done.stdout.splitlines()[-1])
        row.gpu.append(answer["gpu"])
        for name, (milliseconds, deviation) in answer["columns"].items():
            row.deviations[name] = max(deviation, row.deviations.get(name, 0.0))
            found.setdefault(name, []).append(milliseconds)
    for name, values in found.items():
        if row.deviations[name] > rtol:
            row.refused[name] = f"differs by {row.deviations[name]:.1e} of the output's range"
        else:
            row.milliseconds[name] = round(statistics.median(values), 4)


def torch_columns(name: str, batch: int) -> dict[str, tuple[float, float]]:
    """Milliseconds and deviation of every column of PyTorch, in this process."""
    import torch
    import torch._inductor.config
    from timm.utils.model import reparameterize_model

    model = reparameterize_model(network(name)).eval().cuda()
    example = torch.randn(batch, 3, SIZE, SIZE, device="cuda")
    columns: dict[str, tuple[float, float]] = {}
    with torch.inference_mode():
        wanted = model(example)
        model = model.half()
        for layout in (torch.contiguous_format, torch.channels_last):
            module = model.to(memory_format=layout)
            picture = example.half().to(memory_format=layout)
            compiled = torch.compile(module, mode="max-autotune")
            calls = (_captured(module, picture), partial(compiled, picture))
            for column, prepared in zip(TORCH, calls, strict=True):
                timed = _milliseconds(prepared), _deviation(wanted, prepared())
                columns[column] = min(timed, columns.get(column, timed))
    return columns


def _captured(module: nn.Module, picture: torch.Tensor) -> Callable[[], torch.Tensor]:
    """One call of ``module`` as a CUDA graph."""
    import torch

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            module(picture)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = module(picture)

    def replay() -> torch.Tensor:
        graph.replay()
        return output

    return replay


def _milliseconds(call: Callable[[], object]) -> float:
    """Median of a call that is waited for."""
    import torch

    def waited_for() -> None:
        call()
        torch.cuda.synchronize()

    times = common.in_turns({"call": waited_for}, RUNS, warm_up=WARM_UP)["call"]
    return 1e3 * statistics.median(times)


def _deviation(wanted: torch.Tensor, found: torch.Tensor) -> float:
    span = float(wanted.max() - wanted.min()) or 1.0
    return float((wanted - found.float()).abs().max()) / span


def show(row: Row) -> None:
    """Print one line, the fastest column marked."""
    cells = (
        f"{row.milliseconds[name]:.3f}{'*' if name == row.fastest else ' '}" if name in row.milliseconds else "- "
        for name in (*CONFIGURATIONS, *TORCH)
    )
    print(f"{row.model + ', ' + str(row.batch):22} " + " ".join(f"{cell:>18}" for cell in cells), flush=True)
    for name, why in row.refused.items():
        print(f"{'':22} {name}: {why}", flush=True)


def document(rows: Sequence[Row], rtol: float) -> dict[str, Any]:
    """Everything, with what it was measured on."""
    import torch

    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {
        "benchmark": "gpu",
        "environment": environment(),
        "torch": versions,
        "gpu_after": gpu.look(),
        "rtol": rtol,
        "rows": [{**asdict(row), "fastest": row.fastest} for row in rows],
    }


def main() -> int:
    """Entry point; 3 where there is no GPU to measure on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="names of timm (default: %(default)s)")
    parser.add_argument("--batches", default="1,32", help="batch sizes (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=3, help="of each measurement (default: %(default)s)")
    parser.add_argument("--rtol", type=float, default=0.05, help="of an output's range (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for PyTorch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--torch", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    batches = [int(batch) for batch in options.batches.split(",")]
    if options.torch:
        before = gpu.look()
        columns = torch_columns(options.torch, batches[0])
        print(json.dumps({"columns": columns, "gpu": [before, gpu.look()]}))
        return 0
    if because := unavailable():
        print(f"Error {because}", file=sys.stderr)
        return NOTHING_TO_RUN_ON
    effort = Effort(first=options.processes, most=options.processes, per_process=1.5, copies=1, details=False)
    rows: list[Row] = []
    print(f"{'milliseconds':22} " + " ".join(f"{name:>18}" for name in (*CONFIGURATIONS, *TORCH)))
    for name in options.models.split(","):
        for batch in batches:
            rows.append(Row(name, batch))
            with tempfile.TemporaryDirectory() as folder:
                try:
                    time_sessions(rows[-1], files(name, batch, Path(folder)), effort, options.rtol)
                except NormfoldError as error:
                    rows[-1].refused["onnx"] = f"{error.code}: {error.message}"
            time_torch(rows[-1], options.processes, options.rtol, options.limit)
            show(rows[-1])
            common.write_json(options.json, document(rows, options.rtol))
    return 0


if __name__ == "__main__":
    sys.exit(main())
