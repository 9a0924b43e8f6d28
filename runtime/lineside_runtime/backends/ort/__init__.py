"""ONNX Runtime: the engine that every board has."""
