"""A folder of pictures as the input of a model, decoded as they are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from normfold.core.preprocess import Preprocess, Stage
from normfold.errors import EnvironmentUnavailableError, UsageError
from normfold.models.data import Takes

Array = NDArray[Any]
SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
CODE: Final = "bad-data"
FOLD_FIRST: Final = (
    "Fold the preprocessing into the model first, as in normfold fold MODEL -o OUT --preprocess "
    "scale=1/255 --preprocess mean=0.485:0.456:0.406 --preprocess std=0.229:0.224:0.225 --preprocess dtype=uint8 "
    "--preprocess layout=NHWC."
)
MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}
"""How Pillow calls pictures of so many channels."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures below a folder, sorted by path.

    Where all of them lie in sub-folders these are classes, numbered by their names in order, or, where all names are
    numbers, by these. A picture is scaled (bicubic) to cover the model's height and width, and its middle is taken.
    """

    files: tuple[Path, ...]
    classes: tuple[int, ...] | None
    input: str
    size: tuple[int, int] | None
    """Height and width; None where the model leaves them open."""
    channels: int
    stage: Stage
    dtype: np.dtype[Any]
    """What the input takes: bytes, where the model does its own preprocessing."""

    @property
    def count(self) -> int | None:
        """How many pictures."""
        return len(self.files)

    @staticmethod
    def of(folder: Path, taken: Takes, preprocess: Preprocess | None) -> Pictures:
        """The pictures below ``folder`` for the input ``taken``.

        Raises:
            UsageError: ``bad-data``: there are none, or the input takes no pictures; ``bad-preprocess``.
            EnvironmentUnavailableError: ``missing-package``: Pillow is not installed.
        """
        try:
            import PIL.Image as _  # noqa: F401
        except ImportError as error:
            hint = "pip install 'normfold[pictures]'"
            raise EnvironmentUnavailableError("missing-package", "Pictures need the package pillow.", hint) from error
        files = tuple(sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()))
        if not files:
            hint = f"Pictures are files that end in {', '.join(sorted(SUFFIXES))}."
            raise UsageError(CODE, f"The folder {folder} has no pictures.", hint)
        shape = taken.shape or ()
        axis = next((k for k in (-3, -1) if shape[k] in MODES), None)
        if axis is None or taken.dtype is None:
            raise UsageError(CODE, f"Input {taken.name!r} has no axis of 1, 3 or 4 channels: it takes no pictures.")
        spatial = shape[-2:] if axis == -3 else shape[-3:-1]
        size = tuple(one for one in spatial if isinstance(one, int) and one > 0)
        return Pictures(
            files,
            _classes(folder, files),
            taken.name,
            (size[0], size[1]) if len(size) == 2 else None,
            int(shape[axis] or 0),
            _stage(taken, preprocess),
            taken.dtype,
        )

    def read(self, start: int, stop: int | None, size: int) -> Iterator[dict[str, Array]]:
        """Feeds of at most ``size`` pictures, with their classes."""
        end = len(self.files) if stop is None else min(stop, len(self.files))
        for first in range(start, end, size):
            chosen = slice(first, min(first + size, end))
            pixels = [self._decoded(path) for path in self.files[chosen]]
            if len({one.shape for one in pixels}) > 1:
                hint = "Fix the model's height and width, or make the pictures of one size."
                raise UsageError(CODE, "The pictures differ in size, and the model leaves it open.", hint)
            feed = {self.input: self.stage.apply(np.stack(pixels)).astype(self.dtype)}
            if self.classes is not None:
                feed["label"] = np.array(self.classes[chosen], dtype=np.int64)
            yield feed

    def _decoded(self, path: Path) -> Array:
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path) as picture:
                    decoded = picture.convert(MODES[self.channels])
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise UsageError(CODE, f"{path} cannot be decoded: {error}") from error
        if self.size is not None:
            decoded = _covering(decoded, *self.size)
        return np.asarray(decoded).reshape(decoded.height, decoded.width, self.channels)


def _covering(picture: Any, height: int, width: int) -> Any:
    from PIL import Image

    scale = max(height / picture.height, width / picture.width)
    grown = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    if grown != picture.size:
        picture = picture.resize(grown, Image.Resampling.BICUBIC)
    left, top = (grown[0] - width) // 2, (grown[1] - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _stage(taken: Takes, preprocess: Preprocess | None) -> Stage:
    """From decoded bytes in NHWC to what the input takes."""
    if taken.dtype is None or taken.shape is None or len(taken.shape) != 4:
        raise UsageError(CODE, f"Input {taken.name!r} takes no batches of pictures: it needs 4 axes.")
    if preprocess is None:
        if taken.dtype.kind != "u":
            hint = f"{FOLD_FIRST} Or save the preprocessed arrays in an .npz file."
            raise UsageError(CODE, f"How pictures become input {taken.name!r} is not known.", hint)
        preprocess = Preprocess()
    bound = replace(preprocess, layout="NHWC", dtype="uint8", input=None)
    return bound.on(taken.name, taken.shape, taken.dtype if taken.dtype.kind != "u" else np.dtype(np.float32))


def _classes(folder: Path, files: tuple[Path, ...]) -> tuple[int, ...] | None:
    names = [path.relative_to(folder).parts[0] for path in files if len(path.relative_to(folder).parts) > 1]
    if len(names) < len(files):
        return None
    distinct = sorted(set(names))
    if all(name.isascii() and name.isdigit() for name in distinct):
        return tuple(int(name) for name in names)
    return tuple(distinct.index(name) for name in names)
