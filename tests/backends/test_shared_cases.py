"""One set of networks on both backends: folded as modules and, exported, as files, they keep the same norms.

What each way did with each rule is the data of a page (``docs/data/backends.json``), written anew by

    PYTHONPATH=tests python tests/backends/test_shared_cases.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("onnxscript", reason="PyTorch's exporter needs it")

import onnx_ir as ir  # noqa: E402

import normfold  # noqa: E402
from folding import only_fold, run  # noqa: E402
from normfold.backends.onnx import OnnxGraph  # noqa: E402
from normfold.backends.torch import TorchGraph  # noqa: E402
from normfold.core.costs import cost_table  # noqa: E402
from normfold.core.graph import Plan  # noqa: E402
from normfold.records import Decision, Refusal  # noqa: E402
from shared_cases import CASES, Case  # noqa: E402

DATA = Path(__file__).resolve().parents[2] / "docs" / "data" / "backends.json"
EXACT, SINGLE = 1e-9, 1e-5
"""Largest deviation in float64, and where the file runs in float32."""
HINT = "PYTHONPATH=tests python tests/backends/test_shared_cases.py && make docs"


@contextmanager
def watching(kind: type[TorchGraph | OnnxGraph]) -> Iterator[dict[str, set[str]]]:
    """The rules of the plans that graphs of ``kind`` commit while this lasts, and of those that they cannot."""
    seen: dict[str, set[str]] = {"used": set(), "needs-structure": set()}
    commit, unable = kind.commit, kind.unable

    def watched_commit(self: Any, plan: Plan) -> Any:
        seen["used"].update(plan.rules)
        return commit(self, plan)

    def watched_unable(self: Any, plan: Plan) -> Refusal | None:
        refusal = unable(self, plan)
        if refusal is not None and refusal.premise == "needs-structure":
            seen["needs-structure"].update(plan.rules)
        return refusal

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "commit", watched_commit)
        patch.setattr(kind, "unable", watched_unable)
        yield seen


def leaves(result: Any) -> list[np.ndarray]:
    return [leaf.detach().numpy() for leaf in torch.utils._pytree.tree_leaves(result)]


def fold_tree(case: Case) -> tuple[Sequence[Decision], dict[str, set[str]]]:
    """Fold the module, and compare it with its source."""
    net, x = case.network(), case.input()
    with watching(TorchGraph) as seen, torch.no_grad():
        result = normfold.fold(net, (x,))
        close(leaves(net(x)), leaves(result.model(x)), EXACT)
    return result.decisions, seen


def fold_file(case: Case) -> tuple[Sequence[Decision], dict[str, set[str]]]:
    """Export the module, fold that, and compare it with the module."""
    dtype = torch.float32 if case.single else torch.float64
    net, x = case.network().to(dtype), case.input().to(dtype)
    exported = normfold.export(net, (x,), fold=False, verify=False, opset=case.opset).model
    proto = ir.to_proto(exported)
    with watching(OnnxGraph) as seen:
        folded = only_fold(proto, costs=replace(cost_table(), allow_inserted=case.insert))
    feeds = {proto.graph.input[0].name: x.numpy()}
    with torch.no_grad():
        wanted = leaves(net(x))
    for model in (proto, folded.result):
        close(wanted, list(run(model, feeds, reference=not case.single).values()), SINGLE if case.single else EXACT)
    return list(folded.decisions.values()), seen


def close(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray], limit: float) -> None:
    for one, other in zip(wanted, got, strict=True):
        assert one.shape == other.shape
        assert np.ptp(one) > 0.01, "the case proves nothing"
        assert np.abs(other - one).max() <= limit * np.ptp(one)


def cell(decisions: Sequence[Decision], seen: Mapping[str, set[str]]) -> dict[str, Any]:
    premises = {refusal.premise for decision in decisions for refusal in decision.refused_by}
    return {
        "outcomes": [decision.outcome for decision in decisions],
        "premises": sorted(premises),
        **{key: sorted(names) for key, names in seen.items()},
    }


def recorded() -> dict[str, dict[str, Any]]:
    """What the page is made of, by case."""
    if not DATA.is_file():
        return {}
    return {one["case"]: one for one in json.loads(DATA.read_text(encoding="utf-8"))["cases"]}


def quick() -> set[str]:
    """One case for each rule that files have been seen to use; an export takes a second."""
    return set({rule: name for name, one in recorded().items() for rule in one["file"]["used"]}.values())


@pytest.mark.parametrize("name", CASES)
def test_as_a_module(name: str) -> None:
    case, found = CASES[name], cell(*fold_tree(CASES[name]))
    assert tuple(found["outcomes"]) == (case.outcomes if case.tree is None else case.tree)
    premise = case.premise if case.tree is None else case.tree_premise
    assert not premise or premise in found["premises"]
    assert found == recorded()[name]["tree"], HINT


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in quick() else pytest.mark.slow) for name in CASES]
)
def test_as_a_file(name: str) -> None:
    case, found = CASES[name], cell(*fold_file(CASES[name]))
    assert tuple(found["outcomes"]) == case.outcomes
    assert not case.premise or case.premise in found["premises"]
    assert found == recorded()[name]["file"], HINT


def test_the_page_names_every_case_and_no_other() -> None:
    assert list(recorded()) == list(CASES), HINT


def test_the_page_shows_no_gap() -> None:
    """A new rule needs a network that asks about it, or a reason in ``scripts/docs.py`` why there can be none."""
    page = DATA.parents[1] / "reference" / "backends.md"
    assert "no case yet" not in page.read_text(encoding="utf-8")


if __name__ == "__main__":
    rows = [{"case": k, "tree": cell(*fold_tree(v)), "file": cell(*fold_file(v))} for k, v in CASES.items()]
    DATA.write_text(json.dumps({"cases": rows}, indent=1) + "\n", encoding="utf-8")
