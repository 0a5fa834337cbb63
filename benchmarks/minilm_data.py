"""Sentences to calibrate and to score a sentence transformer with: those of the standard library's documentation.

`calibration` and `evaluation` are what ``normfold quantize --calibrate minilm_data:calibration`` takes: functions that
yield feeds, one batch each, of sentences of different lengths padded to the longest. The two share no sentence.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

MODULES: Final = (
    "argparse",
    "asyncio",
    "calendar",
    "collections",
    "configparser",
    "csv",
    "datetime",
    "decimal",
    "difflib",
    "email.message",
    "fractions",
    "functools",
    "heapq",
    "http.client",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "pickle",
    "random",
    "re",
    "shutil",
    "statistics",
    "string",
    "subprocess",
    "tarfile",
    "tempfile",
    "textwrap",
    "threading",
    "unittest",
    "urllib.parse",
    "zipfile",
)
SHORTEST: Final = 20
"""Letters of a sentence."""
BATCH: Final = 8
CALIBRATED: Final = 128
EVALUATED: Final = 256


@cache
def sentences() -> tuple[str, ...]:
    """All sentences, in an order that mixes the modules."""
    found: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        texts = [inspect.getdoc(module) or ""]
        texts += [inspect.getdoc(one) or "" for _, one in sorted(vars(module).items(), key=str) if callable(one)]
        for text in texts:
            parts = re.split(r"(?<=[.!?])\s+|\n\n", text)
            found += [" ".join(part.split()) for part in parts if len(part) >= SHORTEST]
    unique = list(dict.fromkeys(found))
    order = np.random.default_rng(3).permutation(len(unique))
    return tuple(unique[index] for index in order)


def feeds(texts: tuple[str, ...]) -> Iterator[dict[str, NDArray[np.int64]]]:
    """Batches of ``texts``, as the network takes them."""
    import minilm

    encode = minilm.tokenizer()
    for start in range(0, len(texts), BATCH):
        yield {name: tensor.numpy() for name, tensor in encode(texts[start : start + BATCH]).items()}


def calibration() -> Iterator[dict[str, NDArray[np.int64]]]:
    """To choose scales on."""
    yield from feeds(sentences()[:CALIBRATED])


def evaluation() -> Iterator[dict[str, NDArray[np.int64]]]:
    """To score results on."""
    yield from feeds(sentences()[CALIBRATED : CALIBRATED + EVALUATED])
