"""Calibration and evaluation data: every form that a user may give, and what is wrong with it."""

import io
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from normfold.core.preprocess import Preprocess
from normfold.errors import UsageError
from normfold.models.dataset import read_dataset

FLOAT = np.dtype(np.float32)
FEEDS = """
import numpy as np

def feeds():
    for n in (3, 5):
        yield {"ids": np.ones((1, n), np.int64), "mask": np.ones((1, n), bool)}
"""


@dataclass(frozen=True)
class Input:
    name: str = "x"
    shape: tuple | None = ("n", 3, 4, 4)
    dtype: np.dtype | None = FLOAT


X = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)
Y = np.arange(5)
PAIR = (Input("ids", ("n", "t"), np.dtype(np.int64)), Input("mask", ("n", "t"), np.dtype(np.bool_)))


def joined(data, size=2):
    return np.concatenate([batch.inputs["x"][: batch.count] for batch in data.batches(size)])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_a_file_come_in_batches(tmp_path, save):
    save(tmp_path / "data.npz", x=X, label=Y, other=1)
    data = read_dataset(tmp_path / "data.npz", [Input()])
    assert (data.count, [batch.count for batch in data.batches(2)]) == (5, [2, 2, 1])
    assert np.array_equal(joined(data), X)
    assert np.array_equal(data.labels(), Y)
    assert np.array_equal(joined(data.part(1, 4)), X[1:4])
    assert np.array_equal(joined(data.part(1).part(1, 9)), X[2:])


def test_uncompressed_arrays_stay_on_the_disk(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.asfortranarray(X), label=Y)
    data = read_dataset(tmp_path / "data.npz", [Input()])
    assert all(isinstance(array, np.memmap) for array in data.samples.arrays.values())
    assert np.array_equal(joined(data), X)


def test_one_array_serves_a_model_of_one_input(tmp_path):
    np.save(tmp_path / "x.npy", X)
    assert np.array_equal(joined(read_dataset(tmp_path / "x.npy", [Input()])), X)
    assert np.array_equal(joined(read_dataset(X, [Input()])), X)
    with pytest.raises(UsageError, match="2 inputs") as error:
        read_dataset(tmp_path / "x.npy", PAIR)
    assert (error.value.code, "ids, mask" in error.value.hint) == ("bad-data", True)


def test_the_digest_is_that_of_the_values(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, label=Y)
    one = read_dataset(tmp_path / "a.npz", [Input()]).digest()
    assert one == read_dataset({"x": X, "label": Y}, [Input()]).digest()
    assert one != read_dataset({"x": X[::-1], "label": Y}, [Input()]).digest()
    assert one != read_dataset({"x": X}, [Input()]).digest()


def test_a_fixed_batch_is_filled_up():
    batches = list(read_dataset(X, [Input(shape=(2, 3, 4, 4))]).batches(32))
    assert [(len(batch.inputs["x"]), batch.count) for batch in batches] == [(2, 2), (2, 2), (2, 1)]
    assert np.array_equal(batches[-1].inputs["x"][0], batches[-1].inputs["x"][1])


def test_feeds_of_a_function_may_be_ragged(tmp_path, monkeypatch):
    (tmp_path / "my_feeds.py").write_text(FEEDS)
    monkeypatch.chdir(tmp_path)
    data = read_dataset("my_feeds:feeds", PAIR)
    assert [batch.inputs["ids"].shape for _ in range(2) for batch in data.batches()] == [(1, 3), (1, 5)] * 2
    assert [batch.inputs["ids"].shape for batch in data.part(1).batches()] == [(1, 5)]


def test_items_of_a_loader_are_inputs_and_labels():
    data = read_dataset([(X[:2], Y[:2]), (X[2:], Y[2:])], [Input()])
    assert np.array_equal(joined(data), X)
    assert np.array_equal(data.labels(), Y)


@pytest.mark.parametrize(
    ("given", "takes", "said"),
    [
        ({"x": X[:0]}, [Input()], "no samples"),
        ({"x": np.where(X > 2, np.nan, X)}, [Input()], "NaN or infinite values, first in sample"),
        ({"x": X[:, :2]}, [Input()], "shape 2 x 2 x 4 x 4; the model takes n x 3 x 4 x 4"),
        ({"y": X}, [Input()], "no array named 'x'"),
        ({"x": X, "label": Y[:3]}, [Input()], "different numbers of samples: x 5, label 3"),
        ({"x": np.float32(1)}, [Input()], "no axes"),
        ({"x": np.array(["a"] * 5)}, [Input()], "type <U1; the model takes float32"),
        ({"ids": np.full((1, 2), 0.5), "mask": np.ones((1, 2), bool)}, PAIR, "type float64; the model takes int64"),
        ({"x": np.full((5, 3, 4, 4), 300)}, [Input(dtype=np.dtype(np.uint8))], "do not fit uint8"),
        ([(X, Y, Y)], [Input()], "3 parts"),
        ([{"y": X}], [Input()], "has no 'x'"),
        (iter([X]), [Input()], "once only"),
        (3, [Input()], "type int holds no samples"),
        (lambda: 1 / 0, [Input()], "ZeroDivisionError"),
    ],
)
def test_what_does_not_fit_is_said(given, takes, said):
    with pytest.raises(UsageError, match=said) as error:
        list(read_dataset(given, takes).batches(2))
    assert error.value.code == "bad-data"


def test_a_near_miss_of_a_name_is_suggested():
    with pytest.raises(UsageError) as error:
        read_dataset({"inputs": X}, [Input("input")])
    assert error.value.hint == "Did you mean 'inputs'?"


@pytest.mark.parametrize("name", ["missing.npz", "missing.npy", "no_such_package:feeds"])
def test_what_is_not_there_is_said(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=name.split(":")[0]) as error:
        read_dataset(name, [Input()])
    assert error.value.code == "bad-data"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04damaged", b"text"])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_damaged_files_are_said(tmp_path, data, suffix):
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="cannot be read as arrays") as error:
        read_dataset(path, [Input()])
    assert error.value.code == "bad-data"


def test_an_array_that_claims_what_follows_it_is_said(tmp_path):
    """An archive whose first array says that it is larger than its part of the file."""
    header, more = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2, 3, 4, 4)})
    np.save(more, X)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + b"1234")
        archive.writestr("y.npy", more.getvalue())
    with pytest.raises(UsageError, match="384 bytes, and there are 4") as error:
        read_dataset(tmp_path / "x.npz", [Input()])
    assert error.value.code == "bad-data"


def test_arrays_cut_short_are_said(tmp_path):
    np.save(tmp_path / "x.npy", X)
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-100])
    with pytest.raises(UsageError, match="cannot be read as arrays"):
        read_dataset(tmp_path / "x.npy", [Input()])


def pictures(folder, names):
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), 10 * k, np.uint8)).save(folder / name)


def test_pictures_are_scaled_cropped_and_preprocessed(tmp_path):
    pictures(tmp_path, ["cat/a.png", "cat/b.png", "dog/c.png"])
    preprocess = Preprocess(mean=0.5, std=0.25, scale=1 / 255)
    data = read_dataset(tmp_path, [Input()], preprocess)
    batch = next(iter(data.batches(8)))
    assert (data.count, batch.inputs["x"].shape, batch.inputs["x"].dtype) == (3, (3, 3, 4, 4), np.float32)
    assert np.allclose(batch.inputs["x"][2], (20 / 255 - 0.5) / 0.25)
    assert batch.labels.tolist() == [0, 0, 1]


def test_folders_named_by_numbers_are_these_classes(tmp_path):
    pictures(tmp_path, ["10/a.png", "9/b.png"])
    data = read_dataset(tmp_path, [Input(dtype=np.dtype(np.uint8))])
    assert data.labels().tolist() == [10, 9]
    assert next(iter(data.batches())).inputs["x"].dtype == np.uint8


def test_a_picture_beside_the_classes_leaves_all_without_labels(tmp_path):
    pictures(tmp_path, ["10/a.png", "b.png"])
    with pytest.raises(UsageError, match="no labels"):
        read_dataset(tmp_path, [Input(dtype=np.dtype(np.uint8))]).labels()


@pytest.mark.parametrize(
    ("names", "takes", "said"),
    [
        ([], Input(), "no pictures"),
        (["a.png"], Input(), "How pictures become input 'x' is not known"),
        (["a.png"], Input(shape=("n", 3)), "3 or 4 axes"),
        (["a.png"], Input(shape=("n", 7, 4, 5)), "no axis of 1, 3 or 4 channels"),
    ],
)
def test_folders_that_do_not_fit_are_said(tmp_path, names, takes, said):
    pictures(tmp_path, names)
    with pytest.raises(UsageError, match=said) as error:
        read_dataset(tmp_path, [takes])
    assert error.value.code == "bad-data"


def test_a_damaged_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"a\.png cannot be decoded"):
        list(read_dataset(tmp_path, [Input(dtype=np.dtype(np.uint8))]).batches())
