"""Times of nodes and size of the arena, from the file that ONNX Runtime's profiler writes."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final

SUFFIX: Final = "_kernel_time"


def node_times(file: Path) -> dict[str, Any]:
    """Rows of name, operator, provider, runs, median microseconds, longest first; peak and size of the arena in bytes.

    Nodes are those that ran: after ONNX Runtime's own fusions. Removes ``file``.
    """
    events = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(SUFFIX)]
    rows: dict[tuple[str, str, str], list[int]] = {}
    for event in kernels:
        key = (event["name"].removesuffix(SUFFIX), event["args"]["op_name"], event["args"]["provider"])
        rows.setdefault(key, []).append(event["dur"])
    nodes = [[*key, len(durations), statistics.median(durations)] for key, durations in rows.items()]
    return {
        "nodes": sorted(nodes, key=lambda row: -row[4]),
        "arena_peak": _largest(kernels, "mem_in_use_peak"),
        "arena_size": _largest(kernels, "mem_arena_held"),
    }


def _largest(kernels: list[dict[str, Any]], field: str) -> int | None:
    return max((int(event["args"][field]) for event in kernels if field in event["args"]), default=None)
