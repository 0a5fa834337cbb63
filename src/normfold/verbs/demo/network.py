"""A small trained network and pictures that it has never seen, shipped inside the package.

Its README names the data's origin and licence; ``scripts/train_demo.py`` made both files.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGE: Final = "normfold.verbs.demo"
"""Where the files are."""
FILE: Final = "digits.onnx"
INPUT: Final = "x"
"""Name of the network's only input, float32 [N, 1, 8, 8]."""
OUTPUT: Final = "scores"
"""Name of its only output, float32 [N, 10]: the digit with the highest score wins."""
GREY_LEVELS: Final = 16
"""A picture's pixels are whole numbers from 0 to this."""


def network() -> AbstractContextManager[Path]:
    """Path of the ONNX file, valid inside the ``with`` block."""
    return as_file(files(PACKAGE) / FILE)


def pictures() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The held-out pictures as the network takes them ([N, 1, 8, 8], 0 to 1) and their digits ([N])."""
    import numpy as np

    with as_file(files(PACKAGE) / "digits.npz") as path, np.load(path, allow_pickle=False) as data:
        return data["pictures"].astype(np.float32)[:, None] / GREY_LEVELS, data["labels"].astype(np.int64)
