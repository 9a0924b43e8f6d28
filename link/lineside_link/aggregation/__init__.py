"""Secure aggregation: the sum of several plants' vectors, and nothing else of them.

Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017
(https://doi.org/10.1145/3133956.3133982), figure 4, with the consistency check against a dishonest coordinator.

`Participant` and `Coordinator` are pure: messages in, messages out. Each round has five steps:

1. *keys*: each plant sends two fresh public keys, signed.
2. *shares*: each plant splits its secrets and sends one encrypted share to each other plant.
3. *masked*: each plant sends its vector plus masks that cancel in the sum.
4. *survivors*: each plant signs the list of those whose vectors arrived.
5. *unmask*: each plant sends shares with which the masks that did not cancel are removed.

Plants may drop out at each step, as long as `RoundPlan.threshold` remain. Sums are exact: whole numbers modulo 2^64,
2^32 or 2^16.
"""

__all__ = ["coordinator", "identity", "masks", "messages", "participant"]
