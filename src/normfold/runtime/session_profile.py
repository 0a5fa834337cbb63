"""Settings of a session: the file format ``normfold.session/1``, and the settings as a worker gets them.

A session profile holds only what differs from ONNX Runtime's defaults::

    {
      "schema": "normfold.session/1",
      "provider": "cpu",
      "provider_options": {},
      "intra_threads": 2,
      "inter_threads": 1,
      "options": {"graph_optimization_level": "ORT_ENABLE_ALL", "enable_mem_pattern": true},
      "config": {"session.intra_op.allow_spinning": "0"},
      "disabled_optimizers": ["SkipLayerNormFusion"]
    }

Every field but ``schema`` may be left out; ``intra_threads`` is null where the caller is to choose.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

from normfold.errors import UsageError
from normfold.runtime.providers import NVIDIA, PROVIDERS
from normfold.runtime.side_files import read_json

SCHEMA: Final = "normfold.session/1"
Use = Literal["server", "edge"]

OPTIONS: Final[dict[str, tuple[object, ...]]] = {
    "graph_optimization_level": (
        "ORT_DISABLE_ALL",
        "ORT_ENABLE_BASIC",
        "ORT_ENABLE_EXTENDED",
        "ORT_ENABLE_LAYOUT",
        "ORT_ENABLE_ALL",
    ),
    "execution_mode": ("ORT_SEQUENTIAL", "ORT_PARALLEL"),
    "enable_mem_pattern": (True, False),
    "enable_mem_reuse": (True, False),
    "enable_cpu_mem_arena": (True, False),
    "use_deterministic_compute": (True, False),
}
"""Attributes of ``onnxruntime.SessionOptions`` that a profile may set, and their values."""
CONFIG: Final = frozenset(
    {
        "ep.dynamic.workload_type",
        "mlas.enable_gemm_fastmath_arm64_bfloat16",
        "optimization.enable_cast_chain_elimination",
        "optimization.enable_gelu_approximation",
        "session.disable_aot_function_inlining",
        "session.disable_cpu_ep_fallback",
        "session.disable_double_qdq_remover",
        "session.disable_prepacking",
        "session.disable_quant_qdq",
        "session.dynamic_block_base",
        "session.enable_dq_matmulnbits_fusion",
        "session.enable_quant_qdq_cleanup",
        "session.force_spinning_stop",
        "session.graph_optimizations_loop_level",
        "session.inter_op.allow_spinning",
        "session.intra_op.allow_spinning",
        "session.intra_op_thread_affinities",
        "session.qdq_matmulnbits_accuracy_level",
        "session.qdqisint8allowed",
        "session.set_denormal_as_zero",
        "session.use_device_allocator_for_initializers",
    }
)
"""Entries of a session's configuration that a profile may set: none of them names a file or a library."""
_NVIDIA_RTX: Final = ("device_id", "enable_cuda_graph", "nv_max_workspace_size", "nv_detailed_build_log")
PROVIDER_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "cpu": (),
    "cuda": (
        "arena_extend_strategy",
        "cudnn_conv1d_pad_to_nc1d",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "device_id",
        "do_copy_in_default_stream",
        "enable_cuda_graph",
        "enable_skip_layer_norm_strict_mode",
        "fuse_conv_bias",
        "gpu_mem_limit",
        "prefer_nhwc",
        "sdpa_kernel",
        "tunable_op_enable",
        "tunable_op_tuning_enable",
        "use_ep_level_unified_stream",
        "use_tf32",
    ),
    "tensorrt": (
        "device_id",
        "trt_auxiliary_streams",
        "trt_bf16_enable",
        "trt_builder_optimization_level",
        "trt_context_memory_sharing_enable",
        "trt_cuda_graph_enable",
        "trt_dla_core",
        "trt_dla_enable",
        "trt_fp16_enable",
        "trt_int8_enable",
        "trt_layer_norm_fp32_fallback",
        "trt_max_partition_iterations",
        "trt_max_workspace_size",
        "trt_min_subgraph_size",
        "trt_sparsity_enable",
        "use_tf32",
    ),
    "nvtensorrtrtx": _NVIDIA_RTX,
    "openvino": ("device_type", "disable_dynamic_shapes", "num_of_threads", "num_streams", "precision"),
    "dnnl": ("threads", "use_arena"),
    "xnnpack": ("intra_op_num_threads",),
    "webgpu": ("enableGraphCapture", "forceCpuNodeNames", "preferredLayout", "validationMode"),
    "qnn": ("backend_type", "htp_graph_finalization_optimization_mode", "htp_performance_mode", "vtcm_mb"),
    "migraphx": ("device_id", "migraphx_bf16_enable", "migraphx_exhaustive_tune", "migraphx_fp16_enable"),
    "coreml": ("AllowLowPrecisionAccumulationOnGPU", "EnableOnSubgraphs", "MLComputeUnits", "ModelFormat"),
    "dml": ("device_id", "disable_metacommands", "performance_preference"),
    "acl": ("enable_fast_math",),
    "cann": ("device_id", "enable_cann_graph", "op_select_impl_mode", "precision_mode"),
}
"""Options of each execution provider that a profile may set: none of them names a file or a library."""
PRECISION: Final = "precision"
"""Option of the execution providers whose precision can be chosen."""
PRECISIONS: Final = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""What it can be, and the types."""
MAX_THREADS: Final = 1024
SPINNING: Final = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning")
STOP_SPINNING: Final = "session.force_spinning_stop"
OF_A_POOL: Final = (*SPINNING, STOP_SPINNING, "session.intra_op_thread_affinities")
"""Entries without effect on a session that takes its threads from a shared pool."""


@dataclass(frozen=True, slots=True)
class SessionProfile:
    """Settings of a session; what is empty is ONNX Runtime's default."""

    provider: str = "cpu"
    provider_options: Mapping[str, str] = field(default_factory=dict)
    intra_threads: int | None = None
    inter_threads: int = 1
    options: Mapping[str, object] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    disabled_optimizers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise `UsageError` ``bad-session-profile`` where a setting is unknown or has no such value."""
        if self.provider not in PROVIDERS:
            raise _bad(f"no execution provider {self.provider!r}", f"There are: {', '.join(PROVIDERS)}.")
        for name, value in self.options.items():
            if not any(type(value) is type(known) and value == known for known in OPTIONS.get(name, ())):
                known = ", ".join(map(str, OPTIONS.get(name, ()))) or f"no such option; there are {', '.join(OPTIONS)}"
                raise _bad(f"option {name!r} cannot be {value!r}", f"It can be: {known}.")
        if not all(isinstance(text, str) for text in (*self.provider_options.values(), *self.config.values())):
            raise _bad("values of config and provider_options are strings", 'Such as "0" for off.')
        _check_known("config", self.config, CONFIG)
        _check_known("provider_options", self.provider_options, PROVIDER_OPTIONS[self.provider])
        if not all(isinstance(name, str) for name in self.disabled_optimizers):
            raise _bad("disabled_optimizers are names")
        for threads in (self.intra_threads, self.inter_threads):
            if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
                raise _bad(f"{threads!r} is not a number of threads", f"From 1 to {MAX_THREADS}.")

    @property
    def spins_on_its_own(self) -> bool:
        """Whether it says something about its threads, so that it cannot borrow those of a shared pool."""
        return self.inter_threads > 1 or any(key in self.config for key in OF_A_POOL)

    @property
    def on_nvidia(self) -> bool:
        """Whether the provider runs on an NVIDIA GPU."""
        return self.provider in NVIDIA

    @property
    def computes_in_tf32(self) -> bool:
        """Whether products of float32 are rounded to ten bits, as these providers do unless told otherwise."""
        return self.on_nvidia and self.provider_options.get("use_tf32", "1") != "0"

    @property
    def rounds_to(self) -> str | None:
        """Coarsest type in which float32 values are computed, as far as the settings say; None: in their own."""
        if self.computes_in_tf32:
            return "float16"  # its mantissa is of the same length
        stated = PRECISIONS.get(self.provider_options.get(PRECISION, ""))
        return None if stated == "float32" else stated

    def to_json(self) -> dict[str, Any]:
        """As in a file."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        copied = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
        return {"schema": SCHEMA, **copied, "disabled_optimizers": list(self.disabled_optimizers)}


def from_json(document: object) -> SessionProfile:
    """A profile from its document.

    Raises:
        UsageError: ``bad-session-profile``, it is none.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise _bad(f"its schema is not {SCHEMA}")
    known = {entry.name for entry in fields(SessionProfile)}
    if strange := sorted(set(document) - known - {"schema"}):
        raise _bad(f"unknown field {strange[0]!r}", f"Fields are: {', '.join(sorted(known))}.")
    for name, kind in (
        ("provider", str),
        ("options", dict),
        ("config", dict),
        ("provider_options", dict),
        ("disabled_optimizers", list),
    ):
        if not isinstance(document.get(name, kind()), kind):
            raise _bad(f"{name} is no {kind.__name__}")
    values = {name: value for name, value in document.items() if name != "schema"}
    return SessionProfile(**values | {"disabled_optimizers": tuple(values.get("disabled_optimizers", ()))})


def read(path: str | os.PathLike[str]) -> SessionProfile:
    """The profile in a file; raises as `from_json`."""
    try:
        return from_json(read_json(path))
    except (OSError, ValueError) as error:
        raise UsageError("bad-session-profile", f"{path} cannot be read: {error}") from error
    except UsageError as error:
        raise UsageError(error.code, f"{path}: {error.message}", error.hint) from error


def _check_known(field_name: str, given: Mapping[str, str], known: Collection[str]) -> None:
    """A setting that is not known may write a file, load a library or run one."""
    if strange := sorted(set(given) - set(known)):
        raise _bad(f"{field_name} has no {strange[0]!r}", f"It can have: {', '.join(sorted(known)) or 'nothing'}.")


def _bad(because: str, hint: str = "") -> UsageError:
    return UsageError("bad-session-profile", f"The session profile is invalid: {because}.", hint)


@dataclass(frozen=True, slots=True)
class Threading:
    """What the sessions of one process share: a pool of ``pool`` threads (0: each has its own), and why."""

    pool: int
    note: str = ""


def threading_of(profiles: Sequence[SessionProfile], threads: int, use: Use) -> Threading:
    """One pool for all where they want the same: idle sessions whose threads spin would slow the others down."""
    if use == "edge":
        return Threading(0)
    counts = {profile.intra_threads or threads for profile in profiles}
    if counts == {1}:
        return Threading(0)
    if len(counts) == 1 and not any(profile.spins_on_its_own for profile in profiles):
        return Threading(counts.pop())
    return Threading(0, "sessions have threads of their own, which therefore stop spinning at the end of each run")


def session_request(
    profile: SessionProfile, threads: int, use: Use, threading: Threading, custom_ops: Sequence[str] = ()
) -> dict[str, Any]:
    """``session`` of a worker's requests."""
    config = dict(profile.config)
    if use == "edge":
        config = {**dict.fromkeys(SPINNING, "0"), **config}
    elif not threading.pool:
        config = {STOP_SPINNING: "1", **config}
    return {
        "provider": PROVIDERS[profile.provider],
        "provider_options": dict(profile.provider_options),
        "intra_threads": profile.intra_threads or threads,
        "inter_threads": profile.inter_threads,
        "options": dict(profile.options),
        "config": config,
        "disabled_optimizers": list(profile.disabled_optimizers),
        "custom_ops": [str(Path(library).absolute()) for library in custom_ops],
    }


def in_precision(profile: SessionProfile, precision: str) -> SessionProfile:
    """``profile`` with a precision of `PRECISIONS`.

    Raises:
        UsageError: its execution provider has none to choose.
    """
    able = [name for name, options in PROVIDER_OPTIONS.items() if PRECISION in options]
    if profile.provider not in able or precision not in PRECISIONS:
        message = f"The execution provider {profile.provider} cannot be told to compute in {precision}."
        hint = f"{' and '.join(able)} can: {', '.join(PRECISIONS)}. Others compute in the types of the model."
        raise UsageError("usage", message, hint)
    return replace(profile, provider_options={**profile.provider_options, PRECISION: precision})


def on(provider: str, profile: SessionProfile | None = None) -> SessionProfile:
    """``profile``, or the default one, on ``provider``."""
    return replace(profile or SessionProfile(), provider=provider)
