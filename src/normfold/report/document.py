"""The JSON document of schema ``normfold/1``: the only place where it is put together.

Pure functions from the records of `normfold.records` to plain dictionaries. A figure that is
not finite becomes ``null``, since JSON has no word for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from normfold.errors import NormfoldError
from normfold.records import Decision, Probe, SiteReport, Verification, counts, decision_record, finite

SCHEMA: Final = "normfold/1"

Json = dict[str, Any]


def document(command: str | None, result: Mapping[str, Any], *, ok: bool, error: NormfoldError | None) -> Json:
    """The whole document; ``command`` is null where the command line names no verb."""
    return {
        "schema": SCHEMA,
        "command": command,
        "ok": ok,
        "error": None if error is None else error_record(error),
        "result": dict(result),
    }


def error_record(error: NormfoldError) -> Json:
    """Code, message and way out."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


def fold_record(
    decisions: Iterable[Decision], verification: Verification, *, source: str | None, output: str | None
) -> Json:
    """``result`` of ``fold``; ``output`` is null where nothing was written."""
    listed = tuple(decisions)
    return {
        "source": source,
        "output": output,
        "decisions": [decision_record(decision) for decision in listed],
        "counts": counts(listed),
        "verification": verification_record(verification),
    }


def inspect_record(norms: Iterable[SiteReport], *, source: str | None) -> Json:
    """``result`` of ``inspect``; the counts say what `fold` would reach."""
    listed = tuple(norms)
    return {
        "source": source,
        "norms": [site_record(norm) for norm in listed],
        "counts": counts(norm.would for norm in listed),
    }


def site_record(norm: SiteReport) -> Json:
    """One norm as `inspect` lists it."""
    return {
        "site": norm.site,
        "norm": norm.norm,
        "shape": None if norm.shape is None else list(norm.shape),
        "health": list(norm.health),
        "would": decision_record(norm.would),
    }


def verification_record(proof: Verification) -> Json:
    """The comparison with the source, and the inputs it was made on."""
    return {
        "status": proof.status,
        "because": proof.because,
        "max_abs": finite(proof.max_abs),
        "max_rel": finite(proof.max_rel),
        "rtol": finite(proof.rtol),
        "inputs": [probe_record(probe) for probe in proof.inputs],
        "first_parting": proof.first_divergence,
    }


def probe_record(probe: Probe) -> Json:
    """One input of one run."""
    return {"name": probe.name, "shape": list(probe.shape), "dtype": probe.dtype, "made": probe.made}
