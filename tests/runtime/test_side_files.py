"""Files beside a model are read, or refused, at once and in little memory."""

from __future__ import annotations

import io
import resource
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fuzz.side_files import SIDE
from normfold.errors import UsageError
from normfold.measure.stored import read_document
from normfold.models.data import read_arrays
from normfold.runtime import session_profile
from normfold.runtime.side_files import MAX_ARRAY_BYTES, map_npy, map_npz, read_json, read_npz

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


def _claiming(shape: tuple[int, ...], data: bytes) -> bytes:
    """An ``.npy`` file whose header says ``shape``, of bytes, whatever follows."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize("shape", [(64,), (1 << 40, 1 << 40), (-8,)])
def test_an_array_is_not_mapped_beyond_its_own_bytes(shape: tuple[int, ...], tmp_path: Path) -> None:
    """What follows in the archive is another array's."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", _claiming(shape, b"12345678"))
        archive.writestr("secret.npy", _claiming((64,), b"x" * 64))
    with pytest.raises(ValueError, match=r"bytes, and there are 8"):
        map_npz(tmp_path / "a.npz")
    (tmp_path / "a.npy").write_bytes(_claiming(shape, b"12345678"))
    with pytest.raises(ValueError, match=r"bytes, and there are 8"):
        map_npy(tmp_path / "a.npy")


def test_an_array_that_fits_is_mapped(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", _claiming((8,), b"12345678"))
        archive.writestr("none.npy", _claiming((0, 3), b""))
    found = map_npz(tmp_path / "a.npz")
    assert (bytes(found["a"]), found["none"].shape) == (b"12345678", (0, 3))
