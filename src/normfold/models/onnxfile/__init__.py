"""Reading and writing ONNX model files safely.

Model files are untrusted: `read` proves a file's sizes and structure before anything is computed
from it, and keeps external data inside the model's folder. `stage` writes a model beside its
target and swaps it in with one rename, so that an interrupted run leaves the old output or the
whole new one.
"""

from normfold.models.onnxfile.reading import ModelFile, from_proto, read, to_proto
from normfold.models.onnxfile.structure import check_structure
from normfold.models.onnxfile.writing import Staged, stage, write

__all__ = ["ModelFile", "Staged", "check_structure", "from_proto", "read", "stage", "to_proto", "write"]
