"""Folding, of ONNX models, of module trees and of programs of ``torch.export``."""
