"""From frame to verdict: pipeline, worker pool, the active bundle and its variants, views and recipes."""

__all__ = ["loaded_bundle", "recipes"]
