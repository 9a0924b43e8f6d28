"""The fleet simulator: a real hub and broker, and devices that are real but for engine and camera.

| file | |
| --- | --- |
| `fleet.py` | the run: start, push, switch devices off and on, check |
| `device.py` | one device: the agent's deployment runner, its slots, TUF and fetcher over a connection of its own |
| `results.py` | results of one device, and those that wait for the hub |
| `worker.py` | a process with many devices and a few threads |
| `bundles.py` | two small bundles that differ a little |
| `processes.py` | broker, hub and workers as child processes |
"""

__all__ = ["fleet", "processes"]
