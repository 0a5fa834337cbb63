"""64-bit Arm under an emulator: the same outputs as here, counts that repeat, and a code for all that goes wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import normfold
import timed
from normfold.cli.application import run
from normfold.errors import NormfoldError
from normfold.measure import Cell, Conditions, Effort, Experiment, SessionProfile, measure, open_candidate
from normfold.measure.documents import cell_record
from normfold.measure.figures import instructions
from normfold.report.schema import BENCH_FILE, schema
from normfold.runtime.targets import LOCAL, Target, arm, edge_tools, find

EMULATOR = Path(arm.__file__).with_name("emulator")
EFFORT = Effort(details=False)
REPEATS = 1e-4
"""What counts of the same run may differ by."""


def here(name: str) -> pytest.MarkDecorator:
    target = find(name)
    return pytest.mark.skipif(bool(target.missing), reason=f"{target.missing}: {target.install}")


def measured(target: Target, path: Path, threads: int = 1, profile: SessionProfile | None = None) -> Cell:
    with target.reached() as reached, open_candidate(path, profile=profile) as model:
        where = Conditions(target=target.name, threads=threads)
        return measure(Experiment((model,), where, EFFORT, target=reached))


def quantised(folder: Path) -> Path:
    """A convolution of bytes: its scales are powers of two, so that only integers are computed."""
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "scale": np.float32(2**-4),
        "zero": np.uint8(128),
        "weight": rng.integers(-127, 128, (16, 16, 3, 3)).astype(np.int8),
        "weight_scale": np.float32(2**-7),
        "weight_zero": np.int8(0),
        "out_scale": np.float32(2**-2),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_d"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w_d"]),
        helper.make_node("Conv", ["x_d", "w_d"], ["y_f"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["y_f", "out_scale", "zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "out_scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 16, 16])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return timed.saved(folder, "quantised", graph)


def plain(folder: Path) -> Path:
    """The same convolution in float32."""
    model = onnx.load(quantised(folder))
    weight = next(one for one in model.graph.initializer if one.name == "weight")
    values = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32) / 128, "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "plain",
        list(model.graph.input),
        list(model.graph.output),
        [values],
    )
    return timed.saved(folder, "plain", graph)


@pytest.mark.slow
@here("arm64")
def test_outputs_are_those_of_this_machine(tmp_path: Path) -> None:
    cell = measured(find("arm64"), plain(tmp_path))
    assert cell.refused is None
    (reading,) = cell.readings
    assert (cell.kind, reading.counts, cell.figures, cell.samples) == ("emulated", {}, (), ())
    assert 0.0 <= reading.deviation <= 1e-6
    assert cell.emulations[0].machine["architecture"] == "aarch64"
    assert "_ns" not in json.dumps(cell_record(cell))


@pytest.mark.slow
@pytest.mark.parametrize("core", [pytest.param(core, marks=here(core)) for core in arm.CORES])
def test_counts_repeat_and_tell_dot_products_apart(
    core: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    models = (str(plain(tmp_path)), str(quantised(tmp_path)))
    assert run(["bench", *models, "--target", core, "--time-limit", "10m", "-o", str(out)]) == 0
    said = capfd.readouterr().out
    assert "the instructions of plain" in said
    assert " ms" not in said
    document = json.loads(out.read_text())
    jsonschema.validate(document, schema(BENCH_FILE))
    assert "latency_ns" not in out.read_text()
    (cell,) = document["cells"]
    fp32, int8 = cell["figures"]
    assert {one["kind"] for one in cell["figures"]} == {"counted"}
    assert fp32["deviation"] <= 1e-6
    assert int8["deviation"] == 0.0
    products = 16 * 16 * 16 * 16 * 9
    assert fp32["counts"]["multiply"] >= products / 4
    assert fp32["counts"]["dot"] == 0
    # Four products for each of four sums in one instruction, where there is such an instruction.
    assert int8["counts"]["dot"] >= (products / 16 if core == "cortex-a76" else 0)
    assert int8["counts"]["dot"] == 0 or core == "cortex-a76"
    for name in ("plain", "quantised"):
        once, again = (instructions(one["counts"][name]) for one in cell["samples"])
        assert abs(once / again - 1) <= REPEATS
    (comparison,) = cell["comparisons"]
    assert comparison["verdict"] == ("fewer" if comparison["ratio"]["value"] < 1 else "more")
    assert {one.comparison.verdict for one in normfold.compare(document, document).figures} == {"equivalent"}


def test_without_the_emulator_there_is_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(edge_tools.FOLDER, str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda _: None)
    for name in ("arm64", *arm.CORES):
        assert run(["env", "--target", name]) == 0
        command = f"apt-get install qemu-user gcc libc6-dev && sh {EMULATOR}/install.sh {tmp_path}/arm64 "
        assert capfd.readouterr().out.startswith(command)
        assert run(["bench", str(timed.products(tmp_path, 2)), "--target", name]) == 3
        said = capfd.readouterr().err
        assert "target-unavailable" in said
        assert command in said


def test_packages_that_are_absent_or_of_another_version_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(edge_tools.FOLDER, str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(arm, "_takes_plugins", lambda: True)
    assert "is not installed" in find("arm64").missing
    assert find("arm64").install.startswith("sh ")
    stamp = tmp_path / "arm64" / "onnxruntime"
    stamp.parent.mkdir()
    stamp.write_text("1.2.3\n")
    assert "is 1.2.3" in find("arm64").missing
    stamp.write_text(find("arm64").install.rpartition(" ")[2] + "\n")
    assert not find("arm64").missing
    assert "plug-in" in find("cortex-a53").missing
    (stamp.parent / "counts.so").touch()
    assert not find("cortex-a53").missing
    monkeypatch.setattr(arm, "_takes_plugins", lambda: False)
    assert (find("cortex-a53").missing, find("cortex-a53").install) == (arm.NO_PLUGINS, "")
    assert not find("arm64").missing


@pytest.mark.parametrize(
    ("program", "code"), [("/nowhere/qemu", "worker-died"), ("import os; os.abort()", "worker-died")]
)
def test_an_emulator_that_does_not_start_or_crashes(tmp_path: Path, program: str, code: str) -> None:
    command = (program,) if program.startswith("/") else (sys.executable, "-c", program)
    cell = measured(replace(LOCAL, kind="emulated", travels=True, command=command), timed.products(tmp_path, 2))
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == (code, 3)
    assert not cell.readings


AWAY = replace(LOCAL, name="away", travels=True)


def test_where_nothing_counts_there_are_no_counts(tmp_path: Path) -> None:
    cell = measured(replace(AWAY, kind="counted"), timed.products(tmp_path, 2))
    assert cell.refused is not None
    assert cell.refused.code == "target-unavailable"
    assert "nothing counts" in cell.refused.message


COUNTING = """
import pathlib
from normfold.runtime.workers import timing
flag = pathlib.Path({flag!r})
many = {second} if flag.exists() else 1_000_000
flag.touch()
def count(worker, request):
    return {{"counts": {{"integer": many // (1 + request["name"].count("30")), "bytes_loaded": 7, "bytes_stored": 0}}}}
timing.VERBS["count"] = count
timing.main()
"""


@pytest.mark.parametrize(("second", "noted"), [(1_000_050, False), (1_010_000, True)])
def test_counts_that_do_not_repeat_are_noted(tmp_path: Path, second: int, *, noted: bool) -> None:
    code = COUNTING.format(flag=str(tmp_path / "flag"), second=second)
    target = replace(AWAY, kind="counted", command=(sys.executable, "-P", "-c", code))
    short, long = timed.products(tmp_path, 2), timed.products(tmp_path, 30)
    with open_candidate(short) as first, open_candidate(long) as last:
        cell = measure(Experiment((first, last), Conditions(target="away"), EFFORT, target=target))
    assert cell.refused is None
    assert [instructions(one.counts) for one in cell.readings] == [1_000_000, 500_000]
    assert cell.comparisons["products30"].verdict == "fewer"
    assert any("between two processes" in words for words in cell.warnings) is noted


def test_other_outputs_are_a_finding_here_too(tmp_path: Path) -> None:
    changes = (
        "from normfold.runtime.workers import timing\n"
        "exact = timing.to_array\n"
        "timing.to_array = lambda name, value: exact(name, value) + (0.01 if name in ('h1', 'y') else 0.0)\n"
        "timing.main()\n"
    )
    off = replace(AWAY, kind="emulated", command=(sys.executable, "-P", "-c", changes))
    cell = measured(off, timed.products(tmp_path, 3))
    assert cell.refused is not None
    assert (cell.refused.code, cell.refused.exit_code) == ("outputs-differ", 1)
    assert "the first value that differs is 'h1'" in cell.refused.message


def test_counts_are_of_one_thread(tmp_path: Path) -> None:
    counting = replace(AWAY, kind="counted")
    for threads, profile in ((2, None), (1, SessionProfile(intra_threads=2))):
        cell = measured(counting, timed.products(tmp_path, 2), threads, profile)
        assert cell.refused is not None
        assert cell.refused.code == "target-unsupported"


def test_what_needs_a_clock_is_refused() -> None:
    emulated, counted = (replace(AWAY, kind=kind) for kind in ("emulated", "counted"))
    counted.check_comparing("cpu")
    LOCAL.check_clock("cpu", "a deadline")
    for refused in (lambda: emulated.check_comparing("cpu"), lambda: emulated.check_clock("cpu", "a deadline")):
        with pytest.raises(NormfoldError) as caught:
            refused()
        assert caught.value.code == "target-unsupported"


def counted_document(counts: Mapping[str, int]) -> dict[str, Any]:
    environment = {"processor": "p", "cpus": 1, "cpu_features": [], "packages": {"onnxruntime": "1"}, "gpus": []}
    cell = {
        "batch": None,
        "threads": 1,
        "use": "server",
        "cpus": [],
        "target": "cortex-a53",
        "machine": {"processor": "Cortex-A53"},
        "control": None,
        "figures": [{"name": "m", "kind": "counted"}],
        "samples": [{"onnxruntime": "1", "counts": {"m": dict(counts)}}] * 2,
    }
    model = {"name": "m", "sha256": None, "session": {"provider": "cpu"}}
    return {"schema": "normfold.bench/1", "environment": environment, "models": [model], "cells": [cell]}


def test_stored_counts_are_fewer_or_more_and_never_faster() -> None:
    few, many = ({"integer": count, "dot": 10, "bytes_loaded": 10**9} for count in (990, 1990))
    (one,) = normfold.compare(counted_document(few), counted_document(many)).figures
    assert (one.comparison.verdict, one.comparison.counted) == ("more", True)
    assert one.comparison.ratio.value == pytest.approx(2.0)
    back = normfold.compare(counted_document(many), counted_document(few))
    assert back.figures[0].comparison.verdict == "fewer"
    assert not back.slower
    assert "executes 0.5x the instructions of m" in str(back)


ENCODED = {
    "91000420": "integer 0 0",  # add x0, x1, #1
    "9b020c20": "integer 0 0",  # madd
    "f9800000": "integer 0 0",  # prfm
    "d503201f": "integer 0 0",  # nop
    "94000001": "branch 0 0",  # bl
    "d65f03c0": "branch 0 0",  # ret
    "b9400020": "load 4 0",  # ldr w0, [x1]
    "a9bf7bfd": "store 0 16",  # stp x29, x30, [sp, #-16]!
    "f8a08020": "load 8 0",  # swpa
    "3dc00020": "vector_load 16 0",  # ldr q0, [x1]
    "ad000420": "vector_store 0 32",  # stp q0, q1, [x1]
    "4c402020": "vector_load 64 0",  # ld1 {v0.16b-v3.16b}, [x1]
    "4d40c820": "vector_load 4 0",  # ld1r {v0.4s}, [x1]
    "4e21cc00": "multiply 0 0",  # fmla v0.4s, v0.4s, v1.4s
    "4f811000": "multiply 0 0",  # fmla by element
    "4e618000": "multiply 0 0",  # smlal2 v0.4s, v0.8h, v1.8h
    "1f020c20": "multiply 0 0",  # fmadd
    "4e819400": "dot 0 0",  # sdot v0.4s, v0.16b, v1.16b
    "6f81e000": "dot 0 0",  # udot by element
    "4e81a400": "dot 0 0",  # smmla
    "4e21d400": "vector 0 0",  # fadd
    "4e616800": "vector 0 0",  # fcvtn2
}
"""Instructions, and what they are: checked against a disassembler over all of ONNX Runtime for arm64."""
PRINTED = """
#include <stdio.h>
#include "classes.h"
int main(void) {
    unsigned code;
    while (scanf("%x", &code) == 1) {
        struct meaning found = meaning_of(code);
        printf("%s %u %u\\n", class_names[found.class], found.loaded, found.stored);
    }
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler: apt-get install gcc libc6-dev")
def test_instructions_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "print.c").write_text(PRINTED)
    command = ["cc", "-Wall", "-Wextra", "-Werror", f"-I{EMULATOR}", "-o", tmp_path / "print", tmp_path / "print.c"]
    subprocess.run(command, check=True)
    printed = subprocess.run([tmp_path / "print"], input="\n".join(ENCODED), capture_output=True, text=True, check=True)
    assert dict(zip(ENCODED, printed.stdout.splitlines(), strict=True)) == ENCODED


def test_the_installer_is_a_program_of_the_shell() -> None:
    subprocess.run(["sh", "-n", EMULATOR / "install.sh"], check=True)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler: apt-get install gcc libc6-dev")
def test_the_plug_in_compiles_without_a_warning(tmp_path: Path) -> None:
    built = tmp_path / "counts.so"
    flags = ["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
    subprocess.run(["cc", *flags, "-o", built, EMULATOR / "counts.c"], check=True)
    assert built.stat().st_size
