"""The square: folding a module and exporting it, and exporting it and folding the file, come to the same.

For timm, torchvision and transformers architectures with random weights and live statistics (see `zoo.py`) this folds
the module, exports the result, exports the source, folds that, and asks:

- do both leave the same norms, site by site, but for those that the module tree cannot express (``needs-structure``)
  and those that a bias takes which the file would need an operation for (``does-not-pay``);
- does folding the first export, too, leave no more than folding the source's export: folding early loses nothing;
- does the folded module agree with its source in float64, and do both files with it in float32, in ONNX Runtime;
- does ``torch.export`` take the folded module.

    python benchmarks/square.py                          # every row that is not in docs/data/square.json yet
    python benchmarks/square.py --names 'res*' --again
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import common
import zoo

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from torch import nn

    from normfold.records import Decision
    from normfold.verbs.fold_result import FoldResult

RECORD: Final = Path(__file__).resolve().parents[1] / "docs" / "data" / "square.json"
EXACT: Final = 1e-9
"""Largest deviation from the source, of the output's range, in float64."""
CLOSE: Final = 1e-4
"""The same in float32."""
CAST: Final = 1e-6
"""The same for a module in float64 whose own code casts what changes to float32."""
ALIKE: Final = 4.0
"""How many times as far as the source's own export a file may be from the source, in float32."""
MORE: Final[tuple[zoo.Architecture, ...]] = (
    *(
        zoo.Architecture(name, 128)
        for name in (
            "lcnet_050",
            "mobilenetv1_100",
            "mobilenetv4_conv_small",
            "semnasnet_075",
            "spnasnet_100",
            "mixnet_s",
            "tf_efficientnet_b0",
            "mobilenet_edgetpu_v2_xs",
            "hgnetv2_b0",
            "ghostnetv2_100",
            "dla46_c",
            "resnet10t",
            "resnet18",
            "ecaresnet26t",
            "resnetv2_18",
            "cs3darknet_focus_s",
            "ese_vovnet19b_dw",
            "nf_regnet_b0",
            "convnextv2_atto",
            "mambaout_femto",
            "lcnetv2_small",
            "gernet_m",
            "fbnetv3_b",
            "selecsls42",
        )
    ),
    *(
        zoo.Architecture(name)
        for name in (
            "efficientvit_m0",
            "deit_tiny_patch16_224",
            "mixer_s32_224",
            "gmixer_12_224",
            "cait_xxs24_224",
            "convit_tiny",
            "gcvit_xxtiny",
            "tiny_vit_5m_224",
            "efficientformer_l1",
            "lowformer_b0",
            "vit_relpos_small_patch16_224",
            "twins_pcpvt_small",
        )
    ),
    *(
        zoo.Architecture(name, 128, "torchvision")
        for name in (
            "mobilenet_v2",
            "mobilenet_v3_small",
            "mnasnet0_5",
            "shufflenet_v2_x1_0",
            "regnet_y_400mf",
            "convnext_tiny",
            "swin_t",
        )
    ),
)
"""Architectures beyond those of the zoo, at the sizes that take least time."""
WORDS: Final = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CAUSAL_WORDS: Final = {**WORDS, "intermediate_size": 128, "use_cache": False}
VISION: Final = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
WAVES: Final = {
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
TRANSFORMERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "Bert": {**WORDS, "intermediate_size": 128},
    "Roberta": {**WORDS, "intermediate_size": 128},
    "DistilBert": {"vocab_size": 200, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    "MobileBert": {**WORDS, "embedding_size": 32, "intra_bottleneck_size": 32, "intermediate_size": 64},
    "GPT2": {"vocab_size": 200, "n_embd": 64, "n_layer": 2, "n_head": 4, "use_cache": False},
    **{key: {**CAUSAL_WORDS, "num_key_value_heads": 2} for key in ("Llama", "Qwen2", "Mistral")},
    **{key: {**CAUSAL_WORDS, "num_key_value_heads": 2, "head_dim": 16} for key in ("Qwen3", "Gemma", "Gemma2")},
    **dict.fromkeys(("GPTNeoX", "Phi", "Electra", "Albert", "Deberta", "Nystromformer"), CAUSAL_WORDS),
    "OPT": {**CAUSAL_WORDS, "ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 64},
    "Mamba": {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "use_cache": False},
    "T5Encoder": {"vocab_size": 200, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    **dict.fromkeys(("ViT", "DeiT"), VISION),
    **{key: {**VISION, "image_size": 224, "patch_size": 32} for key in ("CLIPVision", "SiglipVision", "Dinov2")},
    "Wav2Vec2": {**VISION, **WAVES},
    "Hubert": {**VISION, **WAVES},
    "Swin": {"embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]},
    "EfficientNet": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "MobileNetV1": {"depth_multiplier": 0.25},
    "PoolFormer": {},
    "ResNet": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "embedding_size": 16},
    "RegNet": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "groups_width": 16, "embedding_size": 16},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "ConvNext": {"hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]},
    "Segformer": {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]},
}
"""Small models of the transformers package: the class is the name and ``Model``, these are its configuration."""
SOUND: Final = frozenset({"Wav2Vec2", "Hubert"})


@dataclass(frozen=True, slots=True)
class Row:
    """What one architecture has shown.

    ``module`` and ``file`` count what became of its norms on either way; ``structure``, ``dear``, ``bare`` and
    ``partings`` are those of `Meeting`. ``left`` are the norms left (by `norm_count`) when folding first, when folding
    the file, and both. ``casts`` says that what changed in the module in float64 passes a narrower type there.
    """

    name: str
    source: str
    module: dict[str, int] = field(default_factory=dict)
    file: dict[str, int] = field(default_factory=dict)
    structure: int = 0
    dear: int = 0
    bare: int = 0
    partings: list[str] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    casts: bool = False
    seconds: float = 0.0
    failed: str | None = None

    @property
    def verdict(self) -> str:
        """``failed``, ``wrong``, ``parts``, or ``equal``."""
        if self.failed is not None:
            return "failed"
        limit = max(CLOSE, ALIKE * self.errors["exported"])
        if self.errors["module, float64"] > (CAST if self.casts else EXACT) or max(self.errors.values()) > limit:
            return "wrong"
        return "parts" if self.partings or self.left["both"] > self.left["exported, folded"] else "equal"


@dataclass(frozen=True, slots=True)
class Subject:
    """A network in evaluation mode, and what it is called with."""

    module: nn.Module
    inputs: dict[str, Any]

    def run(self, module: nn.Module) -> list[np.ndarray]:
        """The tensors that ``module``, of this make, returns."""
        import torch

        precise = next(module.parameters()).dtype == torch.float64
        with torch.no_grad():
            result = module(**(doubled(self.inputs) if precise else self.inputs))
        return [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]  # noqa: SLF001


def doubled(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """``inputs`` in float64, but for whole numbers."""
    return {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}


def vision(architecture: zoo.Architecture) -> Subject:
    """A network of the zoo."""
    module = zoo.create(architecture)
    zoo.enliven(module, architecture.size)
    name = next(iter(inspect.signature(module.forward).parameters))
    return Subject(module, {name: zoo.pictures(2, architecture.size)})


def transformer(name: str) -> Subject:
    """A small model of the transformers package, its class ``nameModel``."""
    import torch

    zoo.define_vision_operators()
    import transformers

    config = getattr(transformers, f"{name.removesuffix('Encoder')}Config")(**TRANSFORMERS[name])
    module = getattr(transformers, f"{name}Model")(config)
    if module.main_input_name == "pixel_values":
        zoo.enliven(module, 224)
        return Subject(module, {"pixel_values": zoo.pictures(2, 224)})
    zoo.randomise_parameters(module)
    with torch.no_grad():
        for parameter in (p for path, p in module.named_parameters() if p.ndim == 1 and "norm" in path.lower()):
            # Norms of the package's own make, which are not among those that were randomised.
            parameter.uniform_(0.5, 1.5)
    if name in SOUND:
        return Subject(module.eval(), {"input_values": torch.randn(2, 1600)})
    return Subject(module.eval(), {"input_ids": torch.randint(3, WORDS["vocab_size"], (2, 9))})


def subjects() -> dict[str, tuple[str, Callable[[], Subject]]]:
    """Name to the package that it is from and what builds it."""
    found = {a.name: (a.source, lambda a=a: vision(a)) for a in (*zoo.ARCHITECTURES, *MORE)}
    return {**found, **{f"{name}Model": ("transformers", lambda name=name: transformer(name)) for name in TRANSFORMERS}}


def measure(name: str) -> Row:
    """Go round the square with one architecture, in this process."""
    import torch

    import normfold

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(zoo.SEED)
    started = time.perf_counter()
    source, make = subjects()[name]
    subject = make()
    folded, exact = folded_in_double(subject)
    first, second = exported(folded.model.float(), subject), exported(subject.module, subject)
    plain = deviation(subject, second)
    after = normfold.fold(second, verify=False)
    both = normfold.fold(first.clone(), verify=False)
    meeting = Meeting.of(folded.decisions, after.decisions)
    if meeting.structure:
        # Where one norm stays for want of structure, those that wait for it stay, too: leave it alone in the file.
        without = normfold.fold(second, verify=False, skip=meeting.structure)
        meeting = replace(Meeting.of(folded.decisions, without.decisions), structure=meeting.structure)
    return Row(
        name,
        source,
        tally(folded.decisions),
        tally(after.decisions),
        len(meeting.structure),
        meeting.dear,
        meeting.bare,
        meeting.partings,
        {"folded, exported": left(first), "exported, folded": left(after.model), "both": left(both.model)},
        {
            "module, float64": exact,
            "torch.export": through_torch_export(folded.model, subject),
            "exported": plain,
            "folded, exported": deviation(subject, first),
            "exported, folded": deviation(subject, after.model),
        },
        folded.verification is not None and (folded.verification.rtol or 0.0) > EXACT,
        round(time.perf_counter() - started, 1),
    )


def tally(decisions: Iterable[Decision]) -> dict[str, int]:
    """Norms by outcome."""
    return dict(Counter(decision.outcome for decision in decisions))


def folded_in_double(subject: Subject) -> tuple[FoldResult, float]:
    """The module folded, and proven, where rounding plays no part, and how far it is from the source."""
    import copy

    import normfold

    module = copy.deepcopy(subject.module).double()
    result = normfold.fold(module, doubled(subject.inputs))
    return result, worst(subject.run(module), subject.run(result.model))


def through_torch_export(module: nn.Module, subject: Subject) -> float:
    """How far the program that ``torch.export`` makes of the folded module is from the source."""
    import torch

    program = torch.export.export(module, (), subject.inputs).module()
    return worst(subject.run(subject.module), subject.run(program))


def exported(module: nn.Module, subject: Subject) -> ir.Model:
    """``module`` as ONNX, with its norms."""
    import normfold

    return normfold.export(module, subject.inputs, fold=False, verify=False).model


@dataclass(frozen=True, slots=True)
class Meeting:
    """The decisions on both ways, site by site.

    ``structure`` are sites in the file of norms for which the module tree has no place. ``dear`` counts those that go
    into a bias that their Linear gets, where the file would need an operation more, ``bare`` the norms of the file that
    are no module, ``partings`` name all other differences.
    """

    structure: list[str]
    dear: int
    bare: int
    partings: list[str]

    @staticmethod
    def of(module: Iterable[Decision], file: Iterable[Decision]) -> Meeting:
        """Match the two by the path of the module, which the exporter calls the nodes after."""
        mine, other = by_path(module), by_path(file)
        structure, partings, dear = [], [], 0
        for path, here in mine.items():
            there = other.get(path)
            if there is None or sorted(d.outcome for d in here) == sorted(d.outcome for d in there):
                continue
            if refused(here, "needs-structure"):
                structure += [decision.site for decision in there]
            elif refused(there, "does-not-pay"):
                dear += len(here)
            else:
                partings.append(f"{path}: {told(here)}; in the file {told(there)}")
        return Meeting(structure, dear, sum(len(there) for path, there in other.items() if path not in mine), partings)


def by_path(decisions: Iterable[Decision]) -> dict[str, list[Decision]]:
    """Decisions by the module that they are about, whichever of its calls."""
    found: dict[str, list[Decision]] = {}
    for decision in decisions:
        found.setdefault(re.split("[:@]", decision.site)[0], []).append(decision)
    return found


def refused(decisions: Iterable[Decision], premise: str) -> bool:
    """Whether ``premise`` keeps one of them."""
    return any(refusal.premise == premise for decision in decisions for refusal in decision.refused_by)


def told(decisions: Sequence[Decision]) -> str:
    """What was decided, and by which premises."""
    if not decisions:
        return "no norm"
    words = []
    for decision in decisions:
        premises = dict.fromkeys(refusal.premise for refusal in decision.refused_by)
        words.append(" ".join([decision.norm, decision.outcome, *premises]))
    return ", ".join(words)


def left(model: ir.Model) -> int:
    """Norms left, by the neutral counter."""
    import norm_count
    import onnx_ir as ir

    return norm_count.census(ir.to_proto(model)).norms


def deviation(subject: Subject, model: ir.Model) -> float:
    """How far a file, in ONNX Runtime, is from the module that it comes from."""
    import onnx_ir as ir

    session = common.session(ir.to_proto(model).SerializeToString(), level=common.PLAIN)
    feeds = {value.name: subject.inputs[value.name].numpy() for value in session.get_inputs()}
    return worst(subject.run(subject.module), session.run(None, feeds))


def worst(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """The largest deviation of an output, relative to its range."""
    import numpy as np

    pairs = zip(wanted, got, strict=True)
    found = max(float(np.abs(a - b).max()) / (float(np.ptp(a)) or 1.0) for a, b in pairs)
    if not np.isfinite(found):
        raise ValueError("an output is not finite")
    return float(f"{found:.2g}")


def measure_apart(name: str, limit: float) -> Row:
    """Measure in a process of its own, within ``limit`` seconds; a failure is a row, too."""
    command = [sys.executable, __file__, "--here", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=common.one_thread(), check=False
        )
        error = None if done.returncode == 0 else zoo.last_line(done.stderr) or f"exit {done.returncode}"
    except subprocess.TimeoutExpired:
        error = f"no result within {limit:.0f} s"
    if error is not None:
        return Row(name, subjects()[name][0], failed=error)
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def read(path: Path) -> dict[str, Row]:
    """The rows of an earlier run."""
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["models"]
    return {row["name"]: Row(**{key: value for key, value in row.items() if key != "verdict"}) for row in rows}


def write(path: Path, rows: Mapping[str, Row]) -> None:
    """Write the rows in the order of `subjects`."""
    ordered = [{**asdict(rows[name]), "verdict": rows[name].verdict} for name in subjects() if name in rows]
    versions = {name: version(name) for name in ("torch", "onnxscript", "timm", "torchvision", "transformers")}
    document = {"benchmark": "square", "versions": versions, "models": ordered}
    common.write_json(path, document)


def show(row: Row) -> None:
    """One line for the row, and one for each parting."""
    if row.failed is not None:
        print(f"{row.name:32} failed: {row.failed}", flush=True)
        return
    norms = " ".join(f"{count} {outcome}" for outcome, count in row.module.items())
    errors = "  ".join(f"{error:.0e}" for error in row.errors.values())
    lefts = "/".join(str(count) for count in row.left.values())
    extra = f"{row.structure} need structure, {row.dear} dear, {row.bare} bare"
    print(f"{row.name:32} {row.verdict:7} {norms:40} left {lefts:12} {extra:36} {errors}  {row.seconds} s", flush=True)
    for parting in row.partings[:5]:
        print(f"    {parting}", flush=True)


def main() -> int:
    """Entry point; exits 1 where an architecture parts, is wrong or fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", default="*", metavar="GLOB", help="these architectures only")
    parser.add_argument("--again", action="store_true", help="measure rows anew that are there already")
    parser.add_argument("--json", type=Path, default=RECORD, help="where the rows are kept (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one (default: %(default)s)")
    parser.add_argument("--here", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(asdict(measure(options.here))))
        return 0
    rows = read(options.json)
    for name in (name for name in subjects() if fnmatch(name, options.names)):
        if options.again or name not in rows or rows[name].failed is not None:
            rows[name] = measure_apart(name, options.limit)
            write(options.json, rows)
        show(rows[name])
    return int(any(row.verdict != "equal" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
