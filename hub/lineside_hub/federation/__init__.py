"""What several plants compute together without showing their numbers to each other or to the coordinator."""

__all__ = [
    "comparison",
    "differential_privacy",
    "envelopes",
    "pool_config",
    "pool_rounds",
    "quality_counts",
    "training_coordinator",
    "training_plant",
    "training_round",
    "vector_transfer",
]
