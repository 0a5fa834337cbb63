"""`convert`: make norms of one kind norms of another, and say how exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from normfold.core.costs import DEFAULT, providers
from normfold.errors import UsageError
from normfold.limits import limited
from normfold.measure.scores import UserMetric
from normfold.models.data import Arrays, Shapes
from normfold.models.source import File, OnnxModel, module_of
from normfold.passes.convert import KINDS, Asked, Kind
from normfold.passes.convert.run import Converter
from normfold.passes.fold.selection import Selection
from normfold.pipeline.fold_onnx import External
from normfold.records import Progress, silent
from normfold.runtime.providers import PROVIDERS
from normfold.verbs.calibrating import Calibrating
from normfold.verbs.fold_result import FoldResult
from normfold.verbs.rewriting import Job

STANDARD: Final = 16
"""The last opset before LayerNormalization and RMSNormalization, for which not every provider has a kernel."""


def convert(
    model: OnnxModel | Any,
    example_inputs: Any = None,
    *,
    to: str,
    source: Kind | None = None,
    needs_training: bool = False,
    calibrate: object = None,
    evaluate: object = None,
    metric: str | UserMetric = "top1",
    max_drop: float = 1.0,
    max_offset: float = 1.0,
    distill: float = 0.0,
    opset: int | None = None,
    ep: str = DEFAULT,
    reestimate: bool = False,
    output: File | None = None,
    shapes: Shapes | None = None,
    inputs: Arrays | File | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    verify: bool = True,
    external_data: External = "auto",
    in_place: bool = False,
    dry_run: bool = False,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> FoldResult[Any]:
    """Make the norms of ``model`` norms of the kind ``to``, and write the result to ``output`` if that is given.

    What becomes of which, and how exactly, is listed in docs/convert.md. A LayerNorm becomes an RMSNorm
    (``to="rms"``) where the mean that it subtracts can be taken out of everything that writes its input. A norm that
    cannot become what was asked for stays, with the reason.

    Args:
        model: a path, a ``ModelProto``, an ``onnx_ir.Model`` or an ``nn.Module``; left as it is.
        example_inputs: what an ``nn.Module`` is traced with, as for `fold`; ONNX models need none.
        to: the kind of norm asked for: rms, layer, group, group:count=8, group:size=16, instance, batch, frozen (a
            BatchNorm with fixed statistics), static (an affine map by channel, which is then folded), weight, bln, dyt
            or tanh.
        source: the kind of norms that are to be converted; by default all (``--from`` on the command line).
        needs_training: convert norms, too, where the result computes something else and is only a start for training.
        calibrate: unlabelled inputs to fit to what does not become the same exactly: arrays, files, folders of
            pictures, functions, as docs/convert.md lists them; a fourth of them, at most 64, is held out to judge by.
        evaluate: labelled inputs to judge the result on.
        metric: by which measure: top1, top5, mse, cosine, ``module:function``, or a function.
        max_drop: how much worse the metric may be, in its unit (points of 100 for top1). Where the result is worse,
            the norms that are fitted worst are left as they are.
        max_offset: the largest constant added to a standardised channel in front of a norm with live statistics.
            At 0 nothing that the norm divides by is constant: choose that to train the result.
        distill: seconds of training against the source on the calibration inputs, for modules.
        opset: write norms in operators that this opset has, where the model's own has more: for runtimes that lack
            those; ONNX only.
        ep: the execution provider that norms are written for: the operators that it runs fastest, or standard ones of
            older opsets, which every provider has, where there is no table of its kernels; ONNX only.
        reestimate: with ``to="batch"``, give the BatchNorms of a module the mean and variance that the calibration
            inputs have; those without running statistics get some.
        output: where to write; nothing is written unless the result is proven (or ``verify`` is off). The state of a
            module is written as ``.safetensors``.
        shapes: by input name, for inputs with dynamic dimensions; ONNX only.
        inputs: arrays by input name to compare on, or the path of an ``.npz`` file of them; ONNX only.
        only: glob patterns; norms whose site matches none of them are kept.
        skip: glob patterns; norms whose site matches one of them are kept.
        seed: for the random test inputs.
        custom_ops: libraries of custom operators, loaded to run the model; ONNX only.
        verify: compare the result with the source.
        external_data: whether weights go into a file of their own; "auto" does as the source does; ONNX only.
        in_place: allow ``output`` to be ``model``; convert a module itself instead of a copy.
        dry_run: decide only.
        time_limit: seconds for the whole call; by default 15 minutes. For a module both limits hold between its forward
            passes.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: called with what is being done.

    Returns:
        The model, of the kind that came in, with a decision for every norm: ``converted`` with ``to`` and ``label``,
        or ``kept`` with what stands in the way.

    Raises:
        DiffersError: the result differs from its source.
        UnprovenError: nothing here can run the two.
        NormfoldError: any other reason, with its code.
    """
    asked = Asked.parse(to, needs_training=needs_training or bool(distill))
    options = Calibrating(
        calibrate=calibrate,
        evaluate=evaluate,
        metric=metric,
        max_drop=max_drop,
        max_offset=max_offset,
        distill=distill,
        reestimate=reestimate,
    ).checked()
    if source is not None and source not in KINDS:
        raise UsageError("usage", f"{source!r} is no kind of norm.", f"Choose one of {', '.join(KINDS)}.")
    selection = Selection(tuple(only), tuple(skip))
    newest, note = _written_for(ep, opset)
    job = Job(
        work=Converter(asked, selection, source).convert,
        selection=selection,
        output=output,
        shapes=shapes,
        inputs=inputs,
        seed=seed,
        custom_ops=custom_ops,
        verify=verify,
        external_data=external_data,
        in_place=in_place,
        dry_run=dry_run,
        progress=progress,
        opset=newest,
    )
    with limited(time_limit, memory_limit):
        module = module_of(model)
        if module is not None and ep != DEFAULT:
            raise UsageError("usage", "--ep is for ONNX models: a module runs where its tensors are.")
        if module is not None and (asked.target != "static" or calibrate is not None or reestimate):
            return options.run(job, asked, source, module, example_inputs)
        if module is None and (calibrate is not None or evaluate is not None or reestimate):
            return replace(options.run_file(job, asked, source, model), notes=note)
        return replace(job.run(model, example_inputs), notes=note)


def _written_for(ep: str, opset: int | None) -> tuple[int | None, tuple[str, ...]]:
    """The opset whose operators norms are written in for ``ep``, and what to say about it.

    Raises:
        UsageError: ``usage``, there is no such execution provider.
    """
    if ep not in PROVIDERS:
        raise UsageError("usage", f"There is no execution provider {ep!r}.", f"There are: {', '.join(PROVIDERS)}.")
    if ep in providers():
        return opset, ()
    newest = STANDARD if opset is None else min(opset, STANDARD)
    note = f"there is no table of kernels for {ep}: norms are written in operators that opset {newest} has"
    return newest, (note,)
