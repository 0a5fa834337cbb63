"""What the processor's integer instructions do, found out by running them.

Without VNNI, x86 multiplies unsigned by signed bytes in pairs whose sums are cut off at 16 bits: the sum of two large
products is then wrong. Weights of seven bits avoid that. Nothing but a run tells: ONNX Runtime chooses its kernels as
it is loaded.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from normfold.errors import EnvironmentUnavailableError
from normfold.runtime.workers.evaluation_client import Runnable, WorkerClient
from normfold.runtime.workers.process import Failed

INNER: Final = 64
OUTER: Final = 16
LARGEST: Final = 255, 127
"""An unsigned activation and a signed weight."""
SECONDS: Final = 60.0


@cache
def saturates() -> bool:
    """Whether sums of products of unsigned activations and signed weights are cut off at 16 bits on this processor.

    Raises:
        EnvironmentUnavailableError: ``worker-died``, the product cannot be run.
    """
    activation, weight = LARGEST
    client = WorkerClient(time_limit=SECONDS, threads=1)
    try:
        with tempfile.TemporaryDirectory(prefix="normfold-") as folder:
            file = Path(folder) / "product.onnx"
            file.write_bytes(_product(weight))
            loaded = client.load(Runnable(file, file.parent), evaluator="onnxruntime", optimised=True)
            feeds = {"x": np.full((OUTER, INNER), activation, np.uint8)}
            ran = loaded if isinstance(loaded, Failed) else client.run(feeds)
            if isinstance(ran, Failed):
                raise EnvironmentUnavailableError("worker-died", f"A product of bytes cannot be run: {ran.message}.")
            return bool((ran.outputs["y"] != activation * weight * INNER).any())
    finally:
        client.close()
        client.dispose()


def _product(weight: int) -> bytes:
    """A model that multiplies by a matrix of ``weight`` everywhere."""
    from onnx import TensorProto, helper, numpy_helper

    codes = numpy_helper.from_array(np.full((INNER, OUTER), weight, np.int8), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [OUTER, INNER])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [OUTER, OUTER])],
        [codes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
