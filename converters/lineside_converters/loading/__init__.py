"""From a model file of any kind to a float ONNX graph."""

__all__ = ["torch_import", "training_run"]
