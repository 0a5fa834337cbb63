"""The only code that changes an ONNX model."""
