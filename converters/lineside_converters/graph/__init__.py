"""Operations on ONNX graphs."""
