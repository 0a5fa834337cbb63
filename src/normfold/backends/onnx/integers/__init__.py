"""Networks of integer steps: read from an ONNX graph, and written back with codes for values."""
