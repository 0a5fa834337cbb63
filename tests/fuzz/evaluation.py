"""Operators of the reference evaluator, written anew where its own are wrong."""

from __future__ import annotations

import numpy as np
from onnx.reference.op_run import OpRun


class BatchNormalization(OpRun):
    """At inference. The evaluator's own normalises by the batch for opsets from 9 to 13."""

    op_domain = ""

    def _run(self, x, scale, bias, mean, var, epsilon=1e-5, **_):
        scale, bias, mean, var = (part.reshape(-1, *[1] * (x.ndim - 2)) for part in (scale, bias, mean, var))
        return (scale * (x - mean) / np.sqrt(var + epsilon) + bias,)


class ConvTranspose(OpRun):
    """Without auto_pad and output_shape. The evaluator's own fails for one output channel and several positions."""

    op_domain = ""

    def _run(self, x, w, b=None, dilations=None, group=None, output_padding=None, pads=None, strides=None, **_):
        spatial = x.ndim - 2
        strides, dilations = strides or [1] * spatial, dilations or [1] * spatial
        pads, extra = pads or [0] * 2 * spatial, output_padding or [0] * spatial
        reach = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True)]
        steps = [d * (k - 1) for d, k in zip(dilations, w.shape[2:], strict=True)]
        full = [r + s + e for r, s, e in zip(reach, steps, extra, strict=True)]
        grouped = x.reshape(x.shape[0], group, -1, *x.shape[2:])
        kernel = w.reshape(group, -1, *w.shape[1:])
        out = np.zeros((x.shape[0], group, w.shape[1], *full))
        for tap in np.ndindex(*w.shape[2:]):
            starts = [t * d for t, d in zip(tap, dilations, strict=True)]
            places = tuple(slice(a, a + r, s) for a, r, s in zip(starts, reach, strides, strict=True))
            out[:, :, :, *places] += np.einsum("ngi...,gio->ngo...", grouped, kernel[:, :, :, *tap])
        kept = tuple(slice(pads[k], full[k] - pads[k + spatial]) for k in range(spatial))
        out = out.reshape(x.shape[0], -1, *full)[:, :, *kept]
        return (out if b is None else out + b.reshape(-1, *[1] * spatial),)


OPERATORS = [BatchNormalization, ConvTranspose]
