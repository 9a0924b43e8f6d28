"""Drift detection: do frames and scores still look as they did after the installation?

| file | what |
| --- | --- |
| `descriptors` | brightness, contrast and sharpness of a frame |
| `cusum` | the test: has the share of frames with some property risen? |
| `reference` | what was learned on the first frames: tails of the descriptors, shares of the verdicts |
| `detector` | the tests side by side: pure, a frame after the other |
| `monitor` | the I/O: file, log, status, hub |

**What is promised.** Within any n frames the chance that any alarm is false is at most ``n / false_alarm_frames``, if
frames are independent of each other and like those that were learned. The reference's own uncertainty is within that,
with a confidence of 99 % for all of it. Frames that hang together (twenty parts of one bad coil) alarm earlier: that
they are many is true then, only the camera is not its cause.
"""

__all__ = ["monitor"]
