"""From a model file of any kind to a float ONNX graph."""
