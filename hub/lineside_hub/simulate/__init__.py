"""The fleet simulator: a real hub and broker, and devices that are real in all but their engine and camera.

| file | |
| --- | --- |
| `fleet.py` | the whole run on one page: start, push, take devices away and bring them back, judge |
| `device.py` | one device: the agent's update machine, its slots, TUF and fetcher over a connection of its own |
| `worker.py` | a process with many devices and a few threads for their work |
| `bundles.py` | two small bundles that differ a little |
| `processes.py` | broker, hub and workers as child processes |
"""

__all__ = ["fleet"]
