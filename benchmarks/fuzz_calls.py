"""Calls the library on mutated models by the thousand, in one process, and lists what it must not have done.

    python benchmarks/fuzz_calls.py --executions 100000          # goes on where it was stopped
    python benchmarks/fuzz_calls.py --again                      # only what was found, once more
    python benchmarks/fuzz_files.py --replay out/fuzz_calls/01-internal/model.onnx

An execution is one call: `inspect`, `fold` (to a file, or of a parsed model) or `convert`, none of which compares, or
the reading of a damaged .npz, session profile or document of figures. ``tests/fuzz/calls.py`` says what counts as
wrong, and what is not covered: ``fuzz_files.py`` gives commands, and the workers that run models, their hostile files.
A call may take 30 s and 4 GiB. Mutations follow from ``--seed`` and the number of the model; ``--log`` holds what was
done, and each finding at once. Findings are grouped by the innermost frame of normfold; those that no longer show when
they are run again do not count. The exit is 1 where any is left.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

import fuzz_files

from fuzz.calls import Case, calls_of, executions
from fuzz.hostile import Finding
from fuzz.mutations import Random

SAID_EVERY: Final = 100
"""Models between two lines of the log."""


def case(seed: int, number: int) -> Case:
    """The model of a number, and its calls."""
    rng = Random(f"calls/{seed}/{number}")
    data, done = fuzz_files.mutated(rng)
    return Case(data, ", ".join(done), calls_of(data, rng))


class Log:
    """What was done so far, in a file that another run goes on with."""

    def __init__(self, path: Path, seed: int) -> None:
        self.next, self.codes, self.found = 0, Counter[str](), list[tuple[int, Finding]]()
        self.path, self.seed = path, seed
        for line in path.read_text().splitlines() if path.exists() else ():
            record = json.loads(line)
            if record["seed"] != seed:
                raise SystemExit(f"{path} is of the seed {record['seed']}; give another --log.")
            if "finding" in record:
                found = record["finding"]
                self.found.append((record["number"], Finding(**{**found, "command": tuple(found["command"])})))
            else:
                self.next, self.codes = record["next"], Counter(record["codes"])
        # What was found behind the last line of figures is found again.
        self.found = [one for one in self.found if one[0] < self.next]

    def write(self, file: TextIO, **record: Any) -> None:
        """One line more."""
        file.write(json.dumps({"seed": self.seed, **record}) + "\n")
        file.flush()

    def run(self, wanted: int, seconds: float) -> None:
        """Go on until so many executions are done, or the time is up."""
        until = time.monotonic() + seconds
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            while self.codes.total() < wanted and time.monotonic() < until:
                block = range(self.next, self.next + SAID_EVERY)
                for execution in executions(partial(case, self.seed), block):
                    self.codes[f"{execution.call}: {execution.code or 'done'}"] += 1
                    if execution.finding:
                        self._found(file, execution.number, execution.finding)
                self.next = block.stop
                self.write(file, next=self.next, executions=self.codes.total(), codes=self.codes)

    def _found(self, file: TextIO, number: int, finding: Finding) -> None:
        if finding.signature not in {known.signature for _, known in self.found}:
            print(f"new: {finding.kind} {finding.place} {finding.message[:120]} [{number}]", flush=True)
        self.found.append((number, finding))
        self.write(file, number=number, finding=asdict(finding))


def again(seed: int, number: int, finding: Finding, data: bytes | None = None) -> Finding | None:
    """What the call of ``finding`` comes to once more, on its model or on ``data`` in place of that."""
    own = case(seed, number)
    made = Case(own.data if data is None else data, own.mutations, finding.command)
    (execution,) = executions(lambda _: made, range(1))
    return execution.finding


def left(log: Log) -> list[fuzz_files.Group]:
    """What was found and still shows, grouped; of each group the smallest model."""
    groups: dict[fuzz_files.Signature, fuzz_files.Group] = {}
    for number, finding in log.found:
        found = again(log.seed, number, finding)
        if found is not None:
            own = case(log.seed, number)
            line = f"{number}: {own.mutations}"
            fuzz_files.group(groups, fuzz_files.Result(line, own.data, (finding.command,), (), (found,)))
    return sorted(groups.values(), key=lambda one: -one.count)


def told(log: Log) -> str:
    """How many executions of each call there were, and what they came to."""
    calls: dict[str, Counter[str]] = {}
    for name, count in log.codes.items():
        call, _, code = name.partition(": ")
        calls.setdefault(call, Counter())[code] += count
    rows = [f"{call:14}{codes.total():8}  {dict(codes.most_common())}" for call, codes in calls.items()]
    return "\n".join([f"{log.codes.total()} executions on {log.next} models", *rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exits 1 where anything that was found still shows."""
    parser = argparse.ArgumentParser(description="Call normfold on mutated models.")
    parser.add_argument("--executions", type=int, default=10_000, help="in all, with those of --log")
    parser.add_argument("--seconds", type=float, default=math.inf, help="nothing is begun later")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    parser.add_argument("--log", type=Path, default=Path("out/fuzz_calls.jsonl"), help="what was done")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz_calls"), help="folder for what is found")
    parser.add_argument("--again", action="store_true", help="only run again what was found")
    options = parser.parse_args(arguments)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    fuzz_files.prepare()
    log = Log(options.log, options.seed)
    if not options.again:
        log.run(options.executions, options.seconds)
    found = left(log)
    print(told(log))
    print(f"{len(log.found)} findings, of which {sum(one.count for one in found)} still show")
    if found:
        print(fuzz_files.table(found))
        numbers = {one.case: int(one.case.partition(":")[0]) for one in found}
        fuzz_files.keep(
            found, options.keep, lambda group, data: again(log.seed, numbers[group.case], group.finding, data)
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
