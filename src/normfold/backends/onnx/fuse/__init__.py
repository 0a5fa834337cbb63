"""Makes one operation of ONNX Runtime's own of several of the standard's."""

from normfold.backends.onnx.fuse.fuser import Fused, fuse

__all__ = ["Fused", "fuse"]
