"""Makes one operation of ONNX Runtime's own of written-out attention.

It comes after the folds and after the cleaning: neither sees into the operation.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir

from normfold.backends.onnx import Inference, count_nodes
from normfold.backends.onnx import fuse as fuse_attention
from normfold.passes.clean import renamed
from normfold.passes.rewritten import Rewritten


def fuse(attempt: Rewritten[onnx_ir.Model], inference: Inference) -> Rewritten[onnx_ir.Model]:
    """Fuse the attention in the model of ``attempt``, in place; its pairs and its records then name what is left."""
    found = fuse_attention(attempt.model, inference)
    if not found.fusions:
        return replace(attempt, fused=())
    after = renamed(attempt, found.moved, count_nodes(attempt.model))
    return replace(after, changed=True, fused=found.fusions)
