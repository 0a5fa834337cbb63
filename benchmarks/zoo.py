"""Builds the model zoo that the benchmarks run on: real architectures with every norm left in place.

Two sources, both without downloads: the light models that the onnx package carries, and timm and
torchvision architectures with random weights and *live* statistics. Gamma and beta are randomised
first (one gamma in ten negative) and the running statistics measured afterwards, so that activations
stay in range through any depth while no norm is close to the identity.

    python benchmarks/zoo.py                      # everything that is not cached yet, into out/zoo
    python benchmarks/zoo.py --only resnet50 --only levit_128s --list
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import common
import light

if TYPE_CHECKING:
    import torch
    from torch import nn

FOLDER: Final = Path("out/zoo")
OPSET: Final = 17
LIGHT_SIZE: Final = 224
SEED: Final = 20
SMALLEST_VARIANCE: Final = 1e-3
"""Floor of a running variance, relative to the mean square of its running means."""
VISION_OPERATORS: Final = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    (
        "qroi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    ),
)
Source = Literal["timm", "torchvision", "light"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One network to export: its name in its package, and the side of its square input in pixels."""

    name: str
    size: int = 224
    source: Source = "timm"


ARCHITECTURES: Final[tuple[Architecture, ...]] = (
    Architecture("resnet50"),
    Architecture("mobileone_s0"),
    Architecture("repvgg_a0"),
    Architecture("levit_128s"),
    Architecture("fastvit_t8"),
    Architecture("dpn68"),
    Architecture("xcit_nano_12_p16_224"),
    Architecture("resnetv2_50"),
    Architecture("densenet121"),
    Architecture("efficientformerv2_s0"),
    Architecture("inception_v3", 160),
    Architecture("convmixer_768_32", 112),
    Architecture("mobilenetv2_100"),
    Architecture("mobilenetv3_small_100"),
    Architecture("mobilenetv3_large_100"),
    Architecture("efficientnet_b0"),
    Architecture("regnetx_002"),
    Architecture("regnety_002"),
    Architecture("ghostnet_100"),
    Architecture("shufflenet_v2_x0_5", source="torchvision"),
    Architecture("googlenet", source="torchvision"),
    Architecture("vgg11_bn", 128),
    Architecture("dla34"),
    Architecture("hrnet_w18_small", 128),
    Architecture("res2net50_26w_4s", 128),
    Architecture("legacy_seresnet18"),
    Architecture("skresnet18"),
    Architecture("resnest14d"),
    Architecture("cspdarknet53", 128),
    Architecture("mobilevit_xxs", 256),
    Architecture("convnext_atto"),
    Architecture("vit_tiny_patch16_224"),
    Architecture("swin_tiny_patch4_window7_224"),
    Architecture("poolformer_s12"),
    Architecture("edgenext_xx_small", 256),
    Architecture("efficientvit_b0"),
    Architecture("repghostnet_050"),
    Architecture("repvit_m1_0"),
    Architecture("tinynet_e"),
    Architecture("gernet_s"),
    Architecture("selecsls42b"),
    Architecture("rexnet_100"),
    Architecture("hardcorenas_a"),
    Architecture("mnasnet_050"),
    Architecture("fbnetc_100"),
    Architecture("legacy_xception", 160),
    Architecture("ese_vovnet19b_slim_dw"),
    Architecture("resnetv2_50x1_bit", 128),
    Architecture("dm_nfnet_f0", 128),
    Architecture("coat_lite_tiny"),
    Architecture("visformer_tiny"),
    Architecture("fasternet_t0"),
    Architecture("starnet_s1"),
    Architecture("swiftformer_xs"),
    Architecture("shvit_s1"),
    Architecture("resmlp_12_224"),
    Architecture("botnet26t_256", 256),
    Architecture("pit_ti_224"),
    Architecture("pvt_v2_b0"),
    Architecture("inception_next_atto"),
)


@dataclass(frozen=True, slots=True)
class Built:
    """What became of one export: a file, or the reason why there is none."""

    name: str
    source: Source
    path: str | None
    norms: int
    """BatchNormalization nodes in the file."""
    modules: int
    """Batch norm modules in the network; differs from ``norms`` where one is never or repeatedly called."""
    exporter: str
    seconds: float
    sensitivity: float = 0.0
    """Relative change of the output over that of the input: rounding errors grow by about this much."""
    error: str | None = None


def light_models() -> Iterator[Path]:
    """The light models inside the installed onnx package, in alphabetical order."""
    import onnx

    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    yield from sorted(folder.glob("*.onnx"))


@cache
def define_vision_operators() -> Any:
    """Declare torchvision's compiled operators, which a CPU torch does not bring, so that it can be imported.

    Once for each process; the library stays alive, for its declarations would vanish with it.
    """
    from torch import library

    declared: Any = library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in VISION_OPERATORS:
        declared.define(schema)
    return declared


def create(architecture: Architecture) -> nn.Module:
    """Return the network with random weights, in train mode.

    Raises whatever the package raises where it does not know the name.
    """
    define_vision_operators()
    model: nn.Module
    if architecture.source == "torchvision":
        import torchvision

        extra = {"aux_logits": False} if architecture.name == "googlenet" else {}
        model = torchvision.models.get_model(architecture.name, weights=None, **extra)
    else:
        import timm

        model = timm.create_model(architecture.name, pretrained=False, exportable=True)
    return model.train()


def batch_norms(model: nn.Module) -> list[Any]:
    """Every batch norm module of ``model`` that keeps running statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def enliven(model: nn.Module, size: int, *, batches: int = 2, batch: int = 8) -> None:
    """Randomise every affine and measure the running statistics; leaves ``model`` in eval mode."""
    import torch

    randomise_parameters(model)
    norms = batch_norms(model)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    silence_randomness(model)
    with torch.no_grad():
        for _ in range(batches):
            model(pictures(batch, size))
        for norm in norms:
            norm.running_var.clamp_(min=SMALLEST_VARIANCE * float(norm.running_mean.square().mean()))
    model.eval()


def pictures(count: int, size: int) -> torch.Tensor:
    """Random pictures [count, 3, size, size] that differ: noise at several scales, contrasts and colours.

    White noise alone gives all pictures the same pooled features, hence variances near zero behind a
    global pool, and a network that blows up every rounding error.
    """
    import torch

    total = torch.randn(count, 3, 1, 1)
    for cells in (2, 7, 28, size):
        noise = torch.randn(count, 3, cells, cells) * torch.rand(count, 1, 1, 1)
        total = total + torch.nn.functional.interpolate(noise, size=(size, size), mode="nearest")
    return total


def randomise_parameters(model: nn.Module) -> None:
    """Randomise affines and LayerScales, and give weights that start at zero a value."""
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, parameter in model.named_parameters():
        if is_layer_scale(name):
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    for module in model.modules():
        if isinstance(module, (_BatchNorm, nn.LayerNorm, nn.GroupNorm)):
            randomise_affine(module)
    with torch.no_grad():
        for parameter in model.parameters():
            if bool((parameter == 1).all()):  # the scale of a norm with a class of its own
                randomise_scale(parameter)


def is_layer_scale(name: str) -> bool:
    """Whether a parameter's name is that of a LayerScale, which starts near zero and would hide every error."""
    leaf = name.rsplit(".", 1)[-1]
    return leaf.startswith(("gamma", "layer_scale", "ls"))


def randomise_affine(norm: Any) -> None:
    """Gamma uniform in 0.5..1.5 with one in ten negative, beta normal with deviation 0.2."""
    import torch

    if norm.weight is None:
        return
    with torch.no_grad():
        randomise_scale(norm.weight)
        if norm.bias is not None:
            norm.bias.normal_(0.0, 0.2)


def randomise_scale(scale: torch.Tensor) -> None:
    """Fill a scale with values uniform in 0.5..1.5, one in ten negative."""
    import torch

    scale.uniform_(0.5, 1.5)
    scale.mul_(torch.where(torch.rand_like(scale) < 0.1, -1.0, 1.0))


def silence_randomness(model: nn.Module) -> None:
    """Switch dropout and stochastic depth to eval: they would distort the statistics."""
    for module in model.modules():
        if "Drop" in type(module).__name__:
            module.eval()


def export(model: nn.Module, size: int, path: Path) -> str:
    """Write ``model`` to ``path`` with its norms preserved and return the name of the exporter that managed it."""
    import torch

    example = torch.randn(1, 3, size, size)
    common: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    try:
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=OPSET,
            **common,
        )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as refusal:
        print(f"torchscript exporter: {str(refusal).splitlines()[0]}", file=sys.stderr)
        program = torch.onnx.export(model, (example,), dynamo=True, optimize=False, verbose=False, **common)
        if program is None:
            raise
        program.save(str(path), external_data=False)
        return "dynamo"
    return "torchscript"


def count_batch_norms(path: Path) -> int:
    """Number of BatchNormalization nodes at the top level of the file and in its functions."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    return sum(node.op_type == "BatchNormalization" for body in bodies for node in body)


def check_output(path: Path, size: int) -> float:
    """How much the network blows up a small change of its input: output change over input change, both relative.

    Raises ValueError where the first output is not finite or is constant.
    """
    import numpy as np

    session = common.session(path)
    name = session.get_inputs()[0].name
    generator = np.random.default_rng(SEED)
    feed = generator.standard_normal((1, 3, size, size), np.float32)
    result = session.run(None, {name: feed})[0]
    spread = float(np.ptp(result))
    if not np.isfinite(result).all() or spread < 1e-3 * float(np.abs(result).max()):
        raise ValueError(f"degenerate output: range {spread:.3g}")
    step = 1e-4
    moved = session.run(None, {name: feed + np.float32(step) * generator.standard_normal(feed.shape, np.float32)})[0]
    return float(np.abs(moved - result).max()) / spread / step


def build_here(architecture: Architecture, folder: Path) -> Built:
    """Export one architecture in this process; the file appears under its name only when it is complete."""
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    started = time.perf_counter()
    model = create(architecture)
    modules = len(batch_norms(model))
    enliven(model, architecture.size)
    path = folder / f"{architecture.name}.onnx"
    draft = path.with_suffix(".draft")
    exporter = export(model, architecture.size, draft)
    sensitivity = check_output(draft, architecture.size)
    norms = count_batch_norms(draft)
    draft.rename(path)
    seconds = round(time.perf_counter() - started, 1)
    return Built(
        architecture.name, architecture.source, path.name, norms, modules, exporter, seconds, round(sensitivity, 2)
    )


def build_apart(architecture: Architecture, folder: Path, limit: float) -> Built:
    """Export one architecture in a process of its own, within ``limit`` seconds, and record a failure as one."""
    record = folder / f"{architecture.name}.json"
    if (cached := read_record(record)) is not None:
        return cached
    command = [sys.executable, __file__, "--folder", str(folder), "--here", architecture.name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=common.one_thread(), check=False
        )
        error = None if done.returncode == 0 else last_line(done.stderr) or f"exit {done.returncode}"
    except subprocess.TimeoutExpired:
        error = f"no result within {limit:.0f} s"
    if error is None:
        built = Built(**json.loads(done.stdout.splitlines()[-1]))
    else:
        built = Built(architecture.name, architecture.source, None, 0, 0, "-", 0.0, error=error)
    for leftover in folder.glob(f"{architecture.name}.draft*"):
        leftover.unlink()
    common.write_json(record, asdict(built))
    return built


def read_record(record: Path) -> Built | None:
    """Return the cached outcome of an earlier successful build, if its file is still there."""
    if not record.is_file():
        return None
    built = Built(**json.loads(record.read_text()))
    return built if built.path is not None and (record.parent / built.path).is_file() else None


def last_line(text: str) -> str:
    """Return the last line of ``text`` that is not blank, or an empty string."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def add_light(source: Path, folder: Path) -> Iterator[Built]:
    """Copy one light model into the zoo; where it has norms, add a ``live_`` twin with random weights."""
    import onnx

    target = folder / source.name
    if not target.is_file():
        shutil.copyfile(source, target)
    norms = count_batch_norms(target)
    yield Built(target.stem, "light", target.name, norms, norms, "onnx", 0.0)
    if not norms:
        return
    twin = folder / source.name.replace("light_", "live_")
    if not twin.is_file():
        model = onnx.load(source)
        light.revive(model)
        onnx.save(model, twin)
    sensitivity = check_output(twin, LIGHT_SIZE)
    yield Built(twin.stem, "light", twin.name, norms, norms, "onnx", 0.0, round(sensitivity, 2))


def build(folder: Path, only: Sequence[str] = (), limit: float = 240.0) -> Iterator[Built]:
    """Bring ``folder`` up to date and yield one record for each network, in the order of the zoo.

    ``only`` restricts it to these names; an unknown one raises ValueError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lights = list(light_models())
    known = {architecture.name for architecture in ARCHITECTURES} | {path.stem for path in lights}
    if unknown := sorted(set(only) - known):
        raise ValueError(f"not in the zoo: {', '.join(unknown)}")
    wanted = set(only) or known
    for path in lights:
        if path.stem in wanted:
            yield from add_light(path, folder)
    yield from (build_apart(a, folder, limit) for a in ARCHITECTURES if a.name in wanted)


def show(records: Iterable[Built]) -> bool:
    """Print one line for each record as it arrives and return whether all were built."""
    complete = True
    for record in records:
        complete &= record.error is None
        remark = record.error or ("" if record.norms == record.modules else f"{record.modules} modules")
        figures = f"{record.norms:4} norms  {record.exporter:12} {record.seconds:6.1f} s  x{record.sensitivity:<8g}"
        line = f"{record.name:30} {figures} {remark}"
        print(line.rstrip(), flush=True)
    return complete


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 when a network could not be built."""
    parser = argparse.ArgumentParser(description="Build the model zoo of the benchmarks.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="cache folder (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="build this network only")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for one export (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--here", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join([*(path.stem for path in light_models()), *(a.name for a in ARCHITECTURES)]))
        return 0
    if options.here:
        architecture = next(a for a in ARCHITECTURES if a.name == options.here)
        print(json.dumps(asdict(build_here(architecture, options.folder))))
        return 0
    return 0 if show(build(options.folder, options.only, options.limit)) else 1


if __name__ == "__main__":
    sys.exit(main())
