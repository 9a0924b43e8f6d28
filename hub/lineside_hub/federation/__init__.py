"""What several plants compute together without showing their numbers to each other or to the coordinator."""

__all__ = ["pool_config", "pool_rounds", "quality_counts"]
