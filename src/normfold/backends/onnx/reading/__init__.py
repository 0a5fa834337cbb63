"""What an ONNX model says: constants, expressions on constants, shapes, functions."""
