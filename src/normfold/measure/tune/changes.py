"""Changes to the settings of a session: one `Change` a setting, so that a search can combine them.

Which optimisers to try switching off is not a list of this package: ONNX Runtime says which ones changed the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from normfold.runtime.session_profile import SPINNING, SessionProfile, Use

LEVELS: Final = ("ORT_ENABLE_EXTENDED", "ORT_ENABLE_BASIC")
"""Below the default, which optimises as much as it can; the first leaves out layouts for this processor."""
LEVEL: Final = "level"
"""The knob of `LEVELS`."""
ON: Final = "1"
OFF: Final = "0"


@dataclass(frozen=True, slots=True)
class Change:
    """One departure from the default settings; of those that turn the same ``knob`` a session can have one."""

    name: str
    knob: str
    settings: Mapping[str, Any]
    """Fields of `SessionProfile`; mappings and tuples are added to what is there."""
    threads: bool = False
    """Whether it is about threads, so that its sessions cannot share theirs with others."""


Changes = tuple[Change, ...]
DEFAULT: Final = "(default)"


def name_of(changes: Sequence[Change]) -> str:
    """Name of a set of changes."""
    return " + ".join(change.name for change in changes) or DEFAULT


def applied(profile: SessionProfile, changes: Iterable[Change]) -> SessionProfile:
    """``profile`` with all the changes."""
    for change in changes:
        profile = replace(
            profile, **{name: _added(getattr(profile, name), value) for name, value in change.settings.items()}
        )
    return profile


def _added(before: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {**before, **value}
    return (*before, *value) if isinstance(value, tuple) else value


def possible_changes(
    provider: str, use: Use, threads: int, counts: Sequence[int], processors: int, optimizers: Sequence[str]
) -> Changes:
    """Every change worth trying.

    Args:
        provider: the execution provider, by its short name.
        use: "edge" sessions never spin.
        threads: threads of the default settings.
        counts: numbers of threads that may be tried; none where the number is fixed.
        processors: those that the session may use.
        optimizers: names of the optimisers that change the model and can be switched off.
    """
    found = [*_graph(optimizers), *_memory()]
    if provider == "cpu":
        found += _threads(use, threads, counts, processors)
    if provider in ("cuda", "tensorrt", "nvtensorrtrtx"):
        found += _graph_capture(provider)
    if provider == "cuda":
        found += _cuda()
    return tuple(found)


def _graph(optimizers: Sequence[str]) -> Iterator[Change]:
    for name in optimizers:
        yield Change(f"no {name}", f"optimizer {name}", {"disabled_optimizers": (name,)})
    for level in LEVELS if optimizers else ():
        yield Change(level, LEVEL, {"options": {"graph_optimization_level": level}})


def _memory() -> Iterator[Change]:
    yield Change("no memory pattern", "pattern", {"options": {"enable_mem_pattern": False}})
    yield Change("no arena", "arena", {"options": {"enable_cpu_mem_arena": False}})


def _threads(use: Use, threads: int, counts: Sequence[int], processors: int) -> Iterator[Change]:
    for count in counts:
        if count != threads:
            yield Change(
                f"{count} threads" if count > 1 else "1 thread", "threads", {"intra_threads": count}, threads=True
            )
    if counts and processors > 1:
        both = {"options": {"execution_mode": "ORT_PARALLEL"}, "inter_threads": 2}
        yield Change("branches in parallel", "mode", both, threads=True)
    if threads > 1:
        yield Change("smaller shares of work", "blocks", {"config": {"session.dynamic_block_base": "4"}})
    if threads > 1 and use == "server":
        yield Change("no spinning", "spinning", {"config": dict.fromkeys(SPINNING, OFF)}, threads=True)


def _graph_capture(provider: str) -> Iterator[Change]:
    option = "enable_cuda_graph" if provider != "tensorrt" else "trt_cuda_graph_enable"
    yield Change("CUDA graph", "capture", {"provider_options": {option: ON}})


def _cuda() -> Iterator[Change]:
    yield Change("NHWC", "layout", {"provider_options": {"prefer_nhwc": ON}})
    for search in ("HEURISTIC", "DEFAULT"):
        chosen = {"provider_options": {"cudnn_conv_algo_search": search}}
        yield Change(f"convolutions by {search.lower()}", "search", chosen)
    yield Change("small workspace", "workspace", {"provider_options": {"cudnn_conv_use_max_workspace": OFF}})
