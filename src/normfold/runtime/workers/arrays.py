"""Arrays that cross from one process to another: numbered ``.npy`` files and a list that names them.

``.npy`` knows NumPy's own types only, so bfloat16 and the float8 types travel as their bits beside
the type's name, and strings as NumPy text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]

MAP_FROM_BYTES: Final = 1 << 20
"""Files from this size on are mapped instead of read: a run's outputs can be larger than memory."""


class Entry(TypedDict):
    """One array on disk: the value's name, its file, and its type where ``.npy`` cannot say it."""

    name: str
    file: str
    type: str


def write(folder: Path, arrays: Mapping[str, Array]) -> list[Entry]:
    """Write ``arrays`` into the new directory ``folder``."""
    folder.mkdir()
    return [_write_one(folder / f"{index}.npy", name, array) for index, (name, array) in enumerate(arrays.items())]


def read(entries: Iterable[Entry]) -> dict[str, Array]:
    """Arrays by name, in the order of ``entries``; large ones stay on disk until they are touched."""
    return {entry["name"]: _read_one(entry) for entry in entries}


def _write_one(file: Path, name: str, array: Array) -> Entry:
    import numpy as np

    kind = ""
    if array.dtype == object:
        array = array.astype(np.str_)
    elif is_extended(array.dtype):
        kind = array.dtype.name
        array = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    # Not every worker reads arrays whose first index runs fastest.
    np.save(file, np.asarray(array, order="C"), allow_pickle=False)
    return Entry(name=name, file=str(file), type=kind)


def _read_one(entry: Entry) -> Array:
    import numpy as np

    mapped = Path(entry["file"]).stat().st_size >= MAP_FROM_BYTES
    array: Array = np.load(entry["file"], mmap_mode="r" if mapped else None, allow_pickle=False)
    return array.view(extended_type(entry["type"])) if entry["type"] else array


def is_extended(dtype: np.dtype[Any]) -> bool:
    """Whether ``dtype`` is one that NumPy lacks and ml_dtypes adds."""
    return dtype.isbuiltin == 2


def extended_type(name: str) -> np.dtype[Any]:
    """The NumPy type called ``name`` (such as ``bfloat16``) that only ml_dtypes knows."""
    import ml_dtypes
    import numpy as np

    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype
