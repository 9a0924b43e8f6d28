"""INT8 during training: fake quantization, accuracy, fine-tuning."""
