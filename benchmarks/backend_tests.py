"""Folds the models of onnx's own backend tests, each compared with its source on the test's own inputs.

    python benchmarks/backend_tests.py --json out/backend_tests.json
    python benchmarks/backend_tests.py --only 'node/test_gather*' --workers 1

The models are those that the installed onnx package carries: *node*, *simple*, *pytorch-converted*, *pytorch-operator*
and the *real* ones that it calls light. Each is inspected, folded without a comparison, folded with one on the test's
own inputs where they are tensors, and with one on generated inputs. What counts:

* **uncoded**: an exception that is no `NormfoldError`, one with the code ``internal``, or a process that died or did
  not end;
* **refused**: an error where ONNX Runtime or onnx's reference evaluator runs the model on the test's own inputs;
* **wrong**: outputs of the result that are not those of its source, on the test's own inputs;
* **ungenerated**: models that no generated inputs fit. This is a figure, not a fault: only a changed model needs them.

Finished cases are kept in ``--cache`` and not run again with ``--resume``. Exit 1 where anything is at fault.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import common
import numpy as np
import onnx

import normfold
from normfold.errors import NormfoldError
from normfold.models.data import UserInputs
from normfold.models.source import onnx_source
from normfold.passes.fold.selection import Selection
from normfold.pipeline.fold_onnx import Request, fold_proven
from normfold.proof.comparison import Comparison, Setup
from normfold.proof.deviation import compare, tolerance
from normfold.proof.files import about
from normfold.runtime import Evaluator
from normfold.runtime.workers.values import EXTENDED_TYPES, to_array, to_value

KINDS: Final = ("node", "simple", "real", "pytorch-converted", "pytorch-operator")
DATA: Final = Path(onnx.__file__).parent / "backend" / "test" / "data"
CASE_SECONDS: Final = 300.0
FAULTS: Final = ("uncoded", "refused", "wrong")
Values = dict[str, Any]
Runs = Callable[[Values], list[Any]]


@dataclass(frozen=True)
class Case:
    """One model, and the sets of inputs of its test, in the order of the graph's."""

    name: str
    read: Callable[[], onnx.ModelProto]
    inputs: Callable[[onnx.ModelProto], list[list[Any]]]


@dataclass
class Record:
    """What one case came to."""

    case: str
    faults: dict[str, str] = field(default_factory=dict)
    """What went wrong, by command; the text starts with one of `FAULTS`."""
    evaluator: str = "none"
    changed: bool = False
    ungenerated: str = ""
    seconds: float = 0.0


def cases() -> Iterator[Case]:
    """All of onnx's backend tests, by kind."""
    from onnx.backend.test.loader import load_model_tests

    for kind in KINDS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tests = load_model_tests(kind=kind)
        for test in tests:
            name = f"{kind}/{test.name}"
            if test.model is not None:
                sets = [[_plain(value) for value in given] for given, _ in test.data_sets or []]
                yield Case(name, lambda test=test: test.model, lambda _, sets=sets: sets)
            elif test.url is not None:
                file = DATA / "light" / Path(test.url).name
                yield Case(name, lambda file=file: onnx.load(file), lambda model: [_dummies(model)])
            else:
                folder = Path(test.model_dir)
                read = lambda folder=folder: onnx.load(folder / "model.onnx")  # noqa: E731
                yield Case(name, read, lambda model, folder=folder: _stored(folder, model))


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value


def _dummies(model: onnx.ModelProto) -> list[Any]:
    """What onnx feeds its light models."""
    held = {tensor.name for tensor in model.graph.initializer}
    shapes = [
        tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        for value in model.graph.input
        if value.name not in held
    ]
    return [(np.arange(np.prod(shape)) / np.prod(shape)).reshape(shape).astype(np.float32) for shape in shapes]


def _stored(folder: Path, model: onnx.ModelProto) -> list[list[Any]]:
    kinds = [value.type for value in model.graph.input]
    return [
        [_loaded(one / f"input_{k}.pb", kinds[k]) for k in range(len(list(one.glob("input_*.pb"))))]
        for one in sorted(folder.glob("test_data_set_*"))
    ]


def _loaded(file: Path, kind: onnx.TypeProto) -> Any:
    if kind.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(file.read_bytes()))
    if kind.HasField("optional_type"):
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(file.read_bytes()))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))


class Runner:
    """A model in this process: in ONNX Runtime, or in the reference evaluator where that does not run it."""

    def __init__(self, model: onnx.ModelProto, evaluator: str = "") -> None:
        self._model, self.evaluator = model, evaluator
        self._run: Runs | None = None

    def outputs(self, feeds: Values) -> list[Any] | None:
        """The outputs for ``feeds``; None where nothing here runs the model."""
        if self._run is None:
            return self._first(feeds)
        return self._run(feeds)

    def _first(self, feeds: Values) -> list[Any] | None:
        makers = {"onnxruntime": _runtime, "onnx.reference": _reference}
        for name, maker in makers.items():
            if self.evaluator in ("", name):
                try:
                    self._run = maker(self._model)
                    values = self._run(feeds)
                except Exception:  # noqa: BLE001, S112 - whatever an evaluator raises, it does not run the model
                    continue
                self.evaluator = name
                return values
        return None


def _runtime(model: onnx.ModelProto) -> Runs:
    session = common.session(model.SerializeToString(), level=common.PLAIN, options={"log_severity_level": 4})
    names = [value.name for value in session.get_outputs()]
    extended = any(value.type in EXTENDED_TYPES for value in (*session.get_inputs(), *session.get_outputs()))

    def run(feeds: Values) -> list[Any]:
        if not extended:
            return list(session.run(names, feeds))
        values = session.run_with_ort_values(names, {name: to_value(array) for name, array in feeds.items()})
        return [to_array(name, value) for name, value in zip(names, values, strict=True)]

    return run


def _reference(model: onnx.ModelProto) -> Runs:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(model)
    return lambda feeds: list(evaluator.run(None, feeds))


def examined(case: Case, evaluator: Evaluator, folder: Path) -> Record:
    """Everything that is done with one case."""
    record, started = Record(case.name), time.monotonic()
    model = case.read()
    file = folder / "model.onnx"
    onnx.save(model, file)
    held = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input]
    names = [name for name in names if name not in held] if len(held) < len(names) else names
    sets = [dict(zip(names, given, strict=False)) for given in case.inputs(model)]
    source = Runner(model)
    answers = [source.outputs(feeds) for feeds in sets]
    runs = bool(answers) and all(answer is not None for answer in answers)
    record.evaluator = source.evaluator if runs else "none"
    _tried(record, "inspect", lambda: normfold.inspect(file), runs=runs)
    folded = _tried(record, "fold", lambda: normfold.fold(file, verify=False, output=folder / "out.onnx"), runs=runs)
    if folded is not None and runs:
        record.changed = any(decision.outcome != "kept" for decision in folded.decisions)
        again = [Runner(model, source.evaluator).outputs(feeds) for feeds in sets[:1]]
        if _apart(answers[:1], again) == "":
            result = Runner(onnx.load(folder / "out.onnx"), source.evaluator)
            apart = _apart(answers, [result.outputs(feeds) for feeds in sets])
            if apart:
                record.faults["result"] = f"wrong: {apart}"
    for number, feeds in enumerate(sets):
        if all(isinstance(array, np.ndarray) for array in feeds.values()):
            given = UserInputs(arrays=feeds)
            _tried(record, f"fold on set {number}", lambda given=given: _proven(evaluator, file, given), runs=runs)
    _tried(record, "fold on generated", lambda: _proven(evaluator, file, UserInputs()), runs=runs)
    record.ungenerated = _tried(record, "generate", lambda: _ungenerated(evaluator, file), runs=False) or ""
    record.seconds = round(time.monotonic() - started, 3)
    return record


def _proven(evaluator: Evaluator, file: Path, given: UserInputs) -> object:
    return fold_proven(evaluator, onnx_source(file), Request(Selection().fold), Setup((), given))


def _ungenerated(evaluator: Evaluator, file: Path) -> str:
    """Why the model does not run on generated inputs; empty where it does."""
    source = onnx_source(file)
    comparison = Comparison(evaluator, about(source.fresh(), Setup(())))
    with source.runnable() as runnable:
        comparison.begin(runnable)
        # Tasks run one after the other.
        evaluator.submit(lambda _: None).result()
        return comparison.finish(runnable).because if comparison.source_fails else ""


def _tried(record: Record, what: str, job: Callable[[], Any], *, runs: bool) -> Any:
    """What ``job`` returns; its error is noted, one with a code only where the model ``runs``."""
    try:
        return job()
    except NormfoldError as error:
        if error.code == "internal":
            record.faults[what] = f"uncoded: {error}"
        elif error.code == "result-differs":
            record.faults[what] = f"wrong: {error}"
        elif runs:
            record.faults[what] = f"refused: {error.code}: {error}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        record.faults[what] = f"uncoded: {type(error).__name__}: {error}"[:500]
    return None


def _apart(sources: Sequence[Any], results: Sequence[Any]) -> str:
    """Where two lists of values differ; empty where they do not."""
    for source, result in zip(sources, results, strict=True):
        if source is None or result is None:
            if source is not result:
                return "one of the two has no value, or does not run"
        elif isinstance(source, list | tuple):
            found = _apart(source, result) if len(source) == len(result) else "lists of other lengths"
            if found:
                return found
        elif isinstance(source, Mapping):
            if source != result:
                return "other mappings"
        else:
            a, b = np.asarray(source), np.asarray(result)
            deviation = compare(a, b, tolerance(a.dtype))
            if deviation.excess > 1:
                return deviation.reason or f"deviates by {deviation.max_rel}"
    return ""


def serve(chosen: Sequence[Case], answers: Connection) -> None:
    """Examine ``chosen`` in this process, and send a record of each."""
    with Evaluator(time_limit=30.0, threads=1) as evaluator, tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(chosen):
            place = Path(folder) / str(number)
            place.mkdir()
            try:
                answers.send(examined(case, evaluator, place))
            except Exception as error:  # noqa: BLE001 - a case that this script cannot read is at fault, too
                answers.send(Record(case.name, {"test": f"uncoded: {type(error).__name__}: {error}"}))
    os._exit(0)


def pool(chosen: Sequence[Case], workers: int) -> Iterator[Record]:
    """A record of each case; one that ends its process, or takes too long, is at fault, and the next one goes on."""
    processes = multiprocessing.get_context("fork")
    shares = [list(chosen[k::workers]) for k in range(workers)]
    live: dict[Connection, tuple[Any, list[Case], float]] = {}

    def begin(share: list[Case]) -> None:
        if share:
            receiving, sending = processes.Pipe(duplex=False)
            process = processes.Process(target=serve, args=(share, sending))
            process.start()
            sending.close()
            live[receiving] = (process, share, time.monotonic())

    for share in shares:
        begin(share)
    while live:
        ready = multiprocessing.connection.wait(list(live), timeout=1.0)
        for pipe, (process, share, since) in list(live.items()):
            try:
                record = pipe.recv() if pipe in ready else None
            except EOFError:
                process.join()
                record = Record(share[0].name, {"process": f"uncoded: it died with exit status {process.exitcode}"})
            if record is None and time.monotonic() - since > CASE_SECONDS:
                process.kill()
                record = Record(share[0].name, {"process": f"uncoded: no end in {CASE_SECONDS:g} s"})
            if record is None:
                continue
            yield record
            live[pipe] = (process, share[1:], time.monotonic())
            if "process" in record.faults or len(share) == 1:
                del live[pipe]
                begin(share[1:])


def main() -> int:
    """Run, print and write; 1 where anything is at fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="glob pattern of cases, such as node/test_gather*")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--resume", action="store_true", help="keep the cases that an earlier run finished")
    parser.add_argument("--cache", type=Path, default=Path("out/backend_tests.jsonl"))
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    chosen = [case for case in cases() if not arguments.only or any(fnmatch(case.name, p) for p in arguments.only)]
    wanted = {case.name for case in chosen}
    arguments.cache.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.cache.read_text().splitlines() if arguments.resume and arguments.cache.exists() else []
    records = [record for line in lines for record in [Record(**json.loads(line))] if record.case in wanted]
    finished = {record.case for record in records}
    started = time.monotonic()
    with arguments.cache.open("a" if arguments.resume else "w") as cache:
        for record in pool([case for case in chosen if case.name not in finished], arguments.workers):
            records.append(record)
            cache.write(json.dumps(asdict(record)) + "\n")
            cache.flush()
    return report(records, time.monotonic() - started, arguments.json)


def report(records: Sequence[Record], seconds: float, file: Path | None) -> int:
    """Print what came of it, and write it to ``file``."""
    counts = Counter(text.partition(":")[0] for record in records for text in record.faults.values())
    for record in sorted(records, key=lambda record: record.case):
        for what, text in record.faults.items():
            print(f"{record.case}: {what}: {text}")
    runs = sum(record.evaluator != "none" for record in records)
    figures = {
        "onnx": onnx.__version__,
        "models": len(records),
        "run": runs,
        "changed": sum(record.changed for record in records),
        **{fault: counts[fault] for fault in FAULTS},
        "ungenerated": sum(bool(record.ungenerated) for record in records if record.evaluator != "none"),
        "seconds": round(seconds, 1),
    }
    print(", ".join(f"{value} {name}" for name, value in figures.items()))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(record) for record in sorted(records, key=lambda record: record.case)]
        file.write_text(json.dumps({**figures, "cases": rows}, indent=1) + "\n")
    return int(any(counts[fault] for fault in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
