"""The tools that the benchmarks compare, each run on one file in a process of its own.

Every peer runs with its own defaults, plus what it needs to fold a norm where its defaults leave that
out. A peer that is not installed reports ``missing``, so that the benchmarks need none of them.

    python benchmarks/peers.py onnxslim model.onnx out.onnx
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

Status = Literal["done", "missing", "crash", "timeout"]
NORMFOLD: Final = "normfold"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one tool: how it ended, how long it took in seconds, and the last words of a failure."""

    tool: str
    status: Status
    seconds: float = 0.0
    error: str = ""


def run_onnxruntime(source: str, target: str) -> None:
    """Write what a session at level *extended* would run; the layout level above it is machine-specific."""
    import common

    common.session(
        Path(source), level="ORT_ENABLE_EXTENDED", threads=None, options={"optimized_model_filepath": target}
    )


def run_onnxsim(source: str, target: str) -> None:
    """Simplify with the defaults, in which folding BN is on."""
    import onnx
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(model, target)


def run_onnxslim(source: str, target: str) -> None:
    """Slim with the defaults."""
    import onnxslim

    onnxslim.slim(source, target)


def run_onnxscript(source: str, target: str) -> None:
    """Optimise, rewrite with the default rules (batch norm rules included) and optimise again."""
    import onnx_ir
    from onnxscript import optimizer, rewriter

    model = rewriter.rewrite(optimizer.optimize(onnx_ir.load(source)))
    onnx_ir.save(optimizer.optimize(model), target)


def run_onnxoptimizer(source: str, target: str) -> None:
    """Run every fuse and elimination pass to the fixed point."""
    import onnx
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source), fixed_point=True), target)


PEERS: Final[dict[str, Callable[[str, str], None]]] = {
    "onnxruntime": run_onnxruntime,
    "onnxsim": run_onnxsim,
    "onnxslim": run_onnxslim,
    "onnxscript": run_onnxscript,
    "onnxoptimizer": run_onnxoptimizer,
}
TOOLS: Final[tuple[str, ...]] = (*PEERS, NORMFOLD)


def versions() -> dict[str, str]:
    """Installed version of every tool; a missing one is ``-``."""
    return {tool: version_of(tool) for tool in TOOLS}


def version_of(tool: str) -> str:
    """Installed version of one distribution, or ``-``."""
    try:
        return metadata.version(tool)
    except metadata.PackageNotFoundError:
        return "-"


def command(tool: str, source: Path, target: Path) -> list[str]:
    """Return the command line that makes ``target`` of ``source``."""
    if tool == NORMFOLD:
        return [sys.executable, "-m", "normfold", "fold", str(source), "-o", str(target), "--json"]
    return [sys.executable, __file__, tool, str(source), str(target)]


def run(tool: str, source: Path, target: Path, limit: float, log: Path | None = None) -> Run:
    """Run one tool on ``source`` within ``limit`` seconds; stdout goes to ``log`` where one is given."""
    if importlib.util.find_spec(tool) is None:
        return Run(tool, "missing")
    import common

    started = time.perf_counter()
    try:
        done = subprocess.run(
            command(tool, source, target),
            capture_output=True,
            text=True,
            timeout=limit,
            env=common.one_thread(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Run(tool, "timeout", round(limit, 2), f"no result within {limit:.0f} s")
    seconds = round(time.perf_counter() - started, 2)
    if log is not None:
        log.write_text(done.stdout)
    if done.returncode == 0 and target.is_file():
        return Run(tool, "done", seconds)
    words = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return Run(tool, "crash", seconds, f"exit {done.returncode}: {words[-1][:300] if words else 'no message'}")


if __name__ == "__main__":
    PEERS[sys.argv[1]](sys.argv[2], sys.argv[3])
