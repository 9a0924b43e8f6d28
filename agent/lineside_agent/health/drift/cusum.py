"""Page's CUSUM test for a rise in the share of frames that have some property.

Sources: E. S. Page, Continuous inspection schemes, Biometrika 41 (1954); G. Lorden, Procedures for reacting to a change
in distribution, Ann. Math. Stat. 42 (1971): the mean number of frames to a false alarm is at least ``exp(limit)``. Each
frame begins a run that ends above the limit with a chance of ``exp(-limit)`` at most (Wald), so that the chance of a
false alarm within n frames is at most ``n * exp(-limit)``.
"""

from __future__ import annotations

import math

from lineside_models.metrology.distributions import beta_share

ODDS_MAX_SHARE = 0.999
"""Largest share, so that its odds and the test stay finite."""


class Cusum:
    """A test of one property.

    Attributes:
        value: Evidence of a rise, 0 to ``limit``.
        limit: Value from which on the test is in alarm.
        alarm: Set at the limit, and cleared only at 0, so that it does not flicker.

    Args:
        share: Normal share, 0 to 1.
        odds_ratio: Rise of the odds that the test looks for, above 1; it finds other rises too, but later.
        limit: In nats.
    """

    def __init__(self, share: float, *, odds_ratio: float, limit: float) -> None:
        self.share = min(max(share, 1e-9), ODDS_MAX_SHARE)
        self.value = 0.0
        self.limit = limit
        self.alarm = False
        odds = odds_ratio * self.share / (1 - self.share)
        risen = odds / (1 + odds)
        self._with = math.log(risen / self.share)
        self._without = math.log((1 - risen) / (1 - self.share))

    def step(self, has_property: bool) -> None:
        """Takes one frame, with or without the property."""
        value = self.value + (self._with if has_property else self._without)
        self.value = min(max(value, 0.0), self.limit)
        if self.value >= self.limit:
            self.alarm = True
        elif self.value == 0.0:
            self.alarm = False

    def resume(self) -> None:
        """Is in alarm again, as before a restart."""
        self.value, self.alarm = self.limit, True

    def clear(self) -> None:
        """Forgets the evidence."""
        self.value, self.alarm = 0.0, False


def upper_share(count: int, frames: int, *, risk: float) -> float:
    """Returns the upper end of Clopper and Pearson's interval: the true share is above it with a chance of ``risk``.

    Source: C. J. Clopper, E. S. Pearson, The use of confidence or fiducial limits, Biometrika 26 (1934).
    """
    if count >= frames:
        return 1.0
    low, high = count / frames, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        at_most_count = beta_share(frames - count, count + 1, 1 - middle)  # of the binomial distribution
        if at_most_count > risk:
            low = middle
        else:
            high = middle
    return high
