"""Norms in ONNX: where they stand, how they are written out."""
