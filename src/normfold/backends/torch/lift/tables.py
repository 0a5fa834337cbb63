"""Embedding, and a parameter that is repeated for each sample, as `Embedding`."""

from __future__ import annotations

from normfold.backends.torch.constants import Stored, largest
from normfold.backends.torch.lift.moving import Lift
from normfold.backends.torch.tracer import Op
from normfold.backends.torch.tree import ModuleTree
from normfold.core.algebra import Affine, Table
from normfold.core.premises import LINEAR_PRODUCER, ROW_AXIS
from normfold.core.views import Embedding, NotLifted, View


def _embedding(tree: ModuleTree, op: Op) -> View:
    """A row for every index. ``padding_idx`` concerns gradients only; ``max_norm`` changes the table in the call."""
    stored = tree.own(op, "the table", "weight")
    return Embedding(
        node=op,
        op=op.kind,
        inputs=(op.arguments["indices"],),
        outputs=op.outputs,
        table=Table(Stored(stored), tuple(stored.shape), Affine.of()),
        largest=largest(stored),
    )


def _bag(tree: ModuleTree, op: Op) -> View:
    raise NotLifted(LINEAR_PRODUCER, f"{tree.label(op)} adds rows up, and an empty bag is zero whatever the rows are")


def _expand(tree: ModuleTree, op: Op) -> View:
    """A parameter that is repeated along its first axis, as a class token for each sample: a table of one row."""
    source = op.arguments["weight"]
    if source.tensor is None or not source.names:
        raise NotLifted(LINEAR_PRODUCER, f"{tree.label(op)} repeats what is no parameter")
    stored, repeated = tree.own(op, "the parameter", "weight"), op.outputs[0].shape
    if stored.ndim < 2 or len(stored) != 1 or repeated[1 - stored.ndim :] != tuple(stored.shape[1:]):
        raise NotLifted(ROW_AXIS, f"{tree.label(op)} does not repeat its parameter along the first axis alone")
    return Embedding(
        node=op,
        op=op.kind,
        inputs=(),
        outputs=op.outputs,
        table=Table(Stored(stored), tuple(stored.shape), Affine.of()),
        largest=largest(stored),
    )


LIFTS: dict[str, Lift] = {"embedding": _embedding, "embedding_bag": _bag, "expand": _expand}
