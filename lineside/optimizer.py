"""`lineside.Optimizer`: the converters' optimizer, or an error that names what to install."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lineside.extras import needs

with needs("convert"):
    from lineside_converters.cluster.tasks import TaskCluster
    from lineside_converters.optimizer import Optimizer
    from lineside_converters.options import DeviceTimer, OptimizerOptions

__all__ = ["DeviceTimer", "Optimizer", "OptimizerOptions", "TaskCluster", "device_clock"]


def device_clock(
    hub: Path | str, device: str, *, passphrase: str | None = None, say: Callable[[str], None] = lambda _: None
) -> DeviceTimer:
    """Returns a device of the fleet that times the variants for the optimizer's speed gate.

    ::

        clock = device_clock("/srv/hub", "bench-pi")
        lineside.Optimizer("detector.onnx", "rpi5", 1, data="photos", clock=clock).run()

    Args:
        device: The device's name; its ``agent.toml`` says ``time_for_hub = true``.
        passphrase: Opens the key of the device's group, if it was made with one.

    Raises:
        InputNotFoundError: There is no hub.
        RolloutError: The hub has never heard of the device.
    """
    from lineside_hub.fleet.device_timing import RemoteTimer

    return RemoteTimer(hub, device, passphrase=passphrase, say=say)
