"""A module exported for verbs that work on ONNX models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from normfold.errors import UsageError
from normfold.models.source import module_of, scratch_path


@contextmanager
def exported_file(model: Any, example_inputs: Any) -> Iterator[Any]:
    """``model`` itself where it is an ONNX model; for a module, the path of its export, norms and all.

    Raises:
        UsageError: a module comes without ``example_inputs``, or these come without a module.
        NormfoldError: the module cannot be exported.
    """
    module = module_of(model)
    if module is None:
        if example_inputs is not None:
            raise UsageError("usage", "example_inputs are for modules.", "ONNX models take inputs={name: array}.")
        yield model
        return
    if example_inputs is None:
        raise UsageError("usage", "A PyTorch module is exported first, and needs example_inputs=.")
    from normfold.verbs.export import export

    with scratch_path() as path:
        export(module, example_inputs, output=path, fold=False)
        yield path
