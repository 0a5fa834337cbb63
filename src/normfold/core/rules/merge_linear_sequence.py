"""Merge a pointwise convolution into the convolution before or behind it.

What it does:
    ``Conv1x1 -> ConvKxK`` and ``ConvKxK -> Conv1x1`` with nothing in between become one convolution with the product
    of the two kernels.

When it holds:
    Both have as many groups, nothing else reads what is between them, and the product costs no more than the larger
    of the two did: the channels between them are at least as many as those that take their place.

Example:
    ``Conv1x1(16 to 64) -> Conv3x3(64 to 32)`` becomes ``Conv3x3(16 to 32)``.

Refused when:
    The second one pads what the first one shifts (``every-tap``), or something else reads the value in between
    (``single-use``).

Law: `normfold.core.laws.sequence`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from normfold.core.algebra import Weight, trim
from normfold.core.algebra.affine import Array
from normfold.core.algebra.weight import Dense
from normfold.core.graph import Graph
from normfold.core.laws.sequence import product
from normfold.core.plan import Bypass, Plan, SetView
from normfold.core.rules.rule import Rewrite
from normfold.core.views import Linear


def _plans(graph: Graph, second: Linear) -> Iterable[Plan]:
    first = _before(graph, second)
    if first is None:
        return
    if _is_pointwise(first) and first.weight.in_per_group <= first.weight.out_per_group:
        shifts = first.bias is not None and bool(first.bias.any())
        merged = None if shifts and not second.whole_taps else _merged(second, first, host=second)
        if merged is not None:
            merged = replace(merged, in_sizes=first.in_sizes)
            edits = (SetView(merged), Bypass(first.node, first.inputs[0]))
            yield Plan(edits, into=(second.node,), rules=(RULE.name,))
    elif _is_pointwise(second) and second.weight.out_per_group <= second.weight.in_per_group:
        merged = _merged(second, first, host=first)
        if merged is not None:
            between = first.outputs[0]
            yield Plan(
                (SetView(replace(merged, out_sizes=second.out_sizes)), Bypass(second.node, between, same=True)),
                changed=(between,),
                into=(first.node,),
                rules=(RULE.name,),
            )


def _before(graph: Graph, second: Linear) -> Linear | None:
    """The convolution that ``second``, which is one, alone reads."""
    producer = graph.producer(second.inputs[0])
    first = None if producer is None else graph.view(producer)
    if not isinstance(first, Linear) or first.refusals or second.refusals:
        return None
    if first.window is None or second.window is None or first.weight.groups != second.weight.groups:
        return None
    alone = len(graph.consumers(first.outputs[0])) == 1 and graph.escapes(first.outputs[0]) is None
    return first if alone and graph.same_scope(first.node, second.node) else None


def _is_pointwise(view: Linear) -> bool:
    window = view.window
    return window is not None and not any(
        (size, stride, begin, end) != (1, 1, 0, 0)
        for size, stride, begin, end in zip(window.kernel, window.strides, window.begins, window.ends, strict=True)
    )


def _merged(second: Linear, first: Linear, host: Linear) -> Linear | None:
    """``host`` with the constants of both; ``None`` where its type cannot hold them."""
    kernel = product(second.weight.canonical(), first.weight.canonical())
    bias = _bias(second, first)
    if max(float(np.abs(values).max(initial=0.0)) for values in (kernel, bias)) > host.largest:
        return None
    kept = bias if bias.any() or host.bias is not None else None
    return replace(host, weight=Weight(Dense(kernel), kernel.shape, "goi"), bias=kept)


def _bias(second: Linear, first: Linear) -> Array:
    shift = np.zeros(()) if first.bias is None else first.bias.reshape(-1)
    through = second.weight.contract(shift if shift.size > 1 else shift.reshape(()))
    own = np.zeros(()) if second.bias is None else second.bias
    return trim(through.reshape(-1, *[1] * len(second.weight.taps)) + own)


RULE = Rewrite(name="merge_linear_sequence", view=Linear, plans=_plans)
