"""Training data: samples, folds, augmentation, batches."""
