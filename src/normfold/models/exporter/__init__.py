"""PyTorch modules to ONNX."""
