"""The JSON document: what it holds, and that the published schema says so."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import jsonschema
import pytest

from normfold.cli.command import CommandResult
from normfold.core.premises import PREMISES
from normfold.errors import CODES, ModelFileError
from normfold.records import Decision, Outcome, Probe, Refusal, SiteReport, Status, Verification, verification_record
from normfold.report import schema
from normfold.verbs.fold_result import FoldResult
from normfold.verbs.inspect import InspectResult

FOLDED = Decision("bn1", "BatchNormalization", "folded", into=("conv1",), rules=("fold_affine_into_producer",))
KEPT = Decision(
    "bn2", "BatchNormalization", "kept", refused_by=tuple(Refusal(name, "It is not so.") for name in list(PREMISES)[:1])
)
PROOF = Verification(
    "equivalent", max_abs=1e-6, max_rel=float("inf"), rtol=1e-4, inputs=(Probe("x", (1, 3), "float32", "random"),)
)


def whole(answer: CommandResult) -> dict:
    """The document as a reader gets it, valid under the published schema."""
    parsed = json.loads(answer.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    jsonschema.validate(parsed, schema.schema())
    return parsed


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.schema())


def test_the_schema_lists_every_code_and_premise() -> None:
    assert schema.schema() == schema.renewed(), "run python -m normfold.report.schema"
    assert schema.schema()["$defs"]["code"]["enum"] == list(CODES)


def test_fold_document() -> None:
    record = FoldResult(None, (FOLDED, KEPT), PROOF, source="a.onnx", output="b.onnx").document()
    parsed = whole(CommandResult("fold", record))
    assert parsed["ok"] is True
    assert parsed["error"] is None
    assert parsed["result"]["counts"] == {
        "norms": 2,
        "folded": 1,
        "part_folded": 0,
        "lowered": 0,
        "converted": 0,
        "quantized": 0,
        "kept": 1,
        "scales": 0,
    }
    assert parsed["result"]["decisions"][0]["into"] == ["conv1"]
    assert parsed["result"]["verification"]["max_rel"] is None
    assert parsed["result"]["verification"]["inputs"] == [
        {"name": "x", "shape": [1, 3], "dtype": "float32", "made": "random"}
    ]


@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_every_outcome_is_in_the_schema(outcome: Outcome) -> None:
    record = FoldResult(None, (replace(KEPT, outcome=outcome),), PROOF).document()
    assert whole(CommandResult("fold", record))["result"]["counts"][outcome.replace("-", "_")] == 1


@pytest.mark.parametrize("status", get_args(Status))
def test_every_status_is_in_the_schema(status: Status) -> None:
    record = FoldResult(None, (), replace(PROOF, status=status, budget=0.01)).document()
    assert whole(CommandResult("fold", record))["result"]["verification"]["budget"] == 0.01


def test_inspect_document() -> None:
    norm = SiteReport("bn1", "BatchNormalization", ("N", 3, None), ("2 of 3 variances are 0",), FOLDED)
    parsed = whole(CommandResult("inspect", InspectResult((norm,)).document()))
    assert parsed["result"]["norms"][0]["shape"] == ["N", 3, None]
    assert parsed["result"]["norms"][0]["would"]["outcome"] == "folded"


def test_a_finding_is_not_ok_and_has_a_result_but_no_error() -> None:
    record = {"source": "a", "other": "b", "verification": verification_record(Verification("different"))}
    parsed = whole(CommandResult("verify", record, exit_code=1))
    assert parsed["ok"] is False
    assert parsed["error"] is None
    assert parsed["result"]["verification"]["status"] == "different"


def test_an_error_document() -> None:
    parsed = whole(
        CommandResult("fold", exit_code=2, error=ModelFileError("empty-file", "Nothing in it.", "Look again."))
    )
    assert parsed["error"] == {"code": "empty-file", "message": "Nothing in it.", "hint": "Look again."}
    assert parsed["result"] == {}


@pytest.mark.parametrize(
    "change",
    [
        {"error": None},
        {"command": "melt"},
        {"schema": "normfold/2"},
        {"error": {"code": "made-up", "message": "", "hint": ""}},
        {"extra": 1},
    ],
)
def test_the_schema_refuses(change: dict) -> None:
    good = json.loads(
        CommandResult("fold", exit_code=2, error=ModelFileError("empty-file", "Nothing in it.")).to_json()
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good | change, schema.schema())
