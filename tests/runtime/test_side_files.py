"""Files beside a model are read, or refused, at once and in little memory."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest

from fuzz.side_files import SIDE
from normfold.errors import UsageError
from normfold.measure.stored import read_document
from normfold.models.data import read_arrays
from normfold.runtime import session_profile
from normfold.runtime.side_files import MAX_ARRAY_BYTES, read_json, read_npz

READABLE = {"complex.npz", "datetime.npz", "empty.npz", "nan.npz", "structured.npz", "text.npz", "up.npz"}
SLOW = {"bomb.npz"}


@pytest.mark.parametrize("name", sorted(SIDE.keys() - SLOW - {"stdin"}))
def test_hostile_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    SIDE[name](path)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    if name in READABLE:
        assert all(isinstance(array, np.ndarray) for array in read_arrays(path).values())
    else:
        with pytest.raises(UsageError) as caught:
            read_arrays(path)
        assert caught.value.code == "bad-input"
    with pytest.raises(UsageError) as caught:
        session_profile.read(path)
    assert caught.value.code == "bad-session-profile"
    with pytest.raises(UsageError) as caught:
        read_document(path)
    assert caught.value.code == "bad-measurement"
    assert time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10


@pytest.mark.slow
def test_a_bomb(tmp_path: Path) -> None:
    SIDE["bomb.npz"](tmp_path / "bomb.npz")
    assert (tmp_path / "bomb.npz").stat().st_size < 10 << 20
    with pytest.raises(ValueError, match="2 GiB"):
        read_npz(tmp_path / "bomb.npz")


def test_too_much_is_counted_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normfold.runtime.side_files.MAX_ARRAY_BYTES", 1 << 20)
    assert MAX_ARRAY_BYTES == 2 << 30
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1 << 17), b=np.zeros(1 << 17))
    with pytest.raises(ValueError, match="more than"):
        read_npz(tmp_path / "a.npz")


def test_what_numpy_writes(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b/c": np.array(["x", "yz"]), "d": np.array(3, np.uint8)}
    for save, name in ((np.savez, "plain.npz"), (np.savez_compressed, "small.npz")):
        save(tmp_path / name, **arrays)
        found = read_npz(tmp_path / name)
        assert found.keys() == arrays.keys()
        assert all(np.array_equal(found[key], arrays[key]) for key in arrays)


def test_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": ["ü"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": ["ü"]}
