"""What the docstring of every rule shows happens, and the rule is what does it."""

from __future__ import annotations

import importlib
import re
import runpy
from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from descent import Descending
from folding import Example, proven_fold
from normfold.core.driver import fold
from normfold.core.rules import RULES
from routes import sent

HERE = Path(__file__).resolve().parent
SHOWN = re.compile(r"``([^`]+)``[^`]*?becomes\s+``([^`]+)``")
OPERATOR = re.compile(r"[A-Z][A-Za-z]\w*?(?=\d+x\d|\W|$)")


def examples(rule: str) -> tuple[Example, ...]:
    """The models that show it, from the rule's own cases."""
    found: tuple[Example, ...] = runpy.run_path(str(HERE / f"test_{rule}.py"))["EXAMPLES"]
    return found


def shown(rule: str) -> list[tuple[str, str]]:
    """Before and after, as the docstring writes them."""
    doc = importlib.import_module(f"normfold.core.rules.{rule}").__doc__ or ""
    section = doc.partition("Example:\n")[2].partition("\nRefused when:")[0]
    return SHOWN.findall(section)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_what_the_docstring_shows_happens(rule: str) -> None:
    cases = list(zip(shown(rule), examples(rule), strict=True))
    assert cases
    for (before, after), example in cases:
        assert operators(example.source) == Counter(OPERATOR.findall(before))
        if example.sends is not None:
            source, plan, _ = sent(example.source, *example.sends)
            assert plan is not None
            assert rule in plan.rules
            source.commit(plan)
            assert operators(ir.to_proto(source.model)) == Counter(OPERATOR.findall(after))
            continue
        result = proven_fold(example.source, costs=example.costs).result
        assert operators(result) == Counter(OPERATOR.findall(after))
        graph = Descending(ir.from_proto(example.source))
        fold(graph, costs=example.costs)
        assert rule in graph.rules
