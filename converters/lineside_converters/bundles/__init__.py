"""Write bundles: of a model, of several models, with mirrored inference."""

__all__ = ["combination", "test_time_augmentation"]
