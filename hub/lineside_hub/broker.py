"""The embedded broker (amqtt), for a first try on one machine.

It speaks MQTT 3.1.1, accepts every client on the loopback interface and keeps no state: hub and devices publish their
retained messages again on every connection. A plant uses mosquitto or its own broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

from lineside_link.config import is_loopback
from lineside_runtime.errors import BrokerError, ConfigError, MissingExtraError

if TYPE_CHECKING:
    from amqtt.broker import Broker

_log = logging.getLogger("lineside.hub.broker")

_TAKE_OVER_S = 5.0
"""Longest wait for the end of an older connection of the same name."""

_SHUTDOWN_S = 5.0
"""Longest wait for the ends of all connections after SIGTERM; there is no state that it could lose."""


def run_broker(host: str = "127.0.0.1", port: int = 1883) -> int:
    """Runs the broker until SIGTERM or SIGINT.

    Args:
        host: An address of the loopback interface; there are no passwords here.

    Returns:
        0.

    Raises:
        ConfigError: The address is not one of the loopback interface.
        BrokerError: The port is taken.
    """
    if not is_loopback(host):
        raise ConfigError(
            f"embedded broker on {host}",
            expected="an address of the loopback interface",
            action="Use mosquitto with TLS and the generated access list for everything beyond this machine.",
        )
    asyncio.run(_serve(host, port))
    return 0


async def _serve(host: str, port: int) -> None:
    try:
        from amqtt.errors import BrokerError as AmqttError
    except ImportError as error:
        action = "Install the extra: pip install 'lineside[convert]'."
        raise MissingExtraError("the embedded broker needs amqtt", action=action) from error
    # It logs a traceback of a failed start, which the error below says in one line, and then a line for each message.
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.ERROR)
    settings = {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    broker = _broker_class()(settings)
    try:
        await broker.start()
    except AmqttError as error:
        raise BrokerError(f"no broker on {host}:{port}: {error}", action="Choose another port.") from error
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    _log.info("embedded broker on %s:%d", host, port)
    await stopping.wait()
    try:
        await asyncio.wait_for(broker.shutdown(), _SHUTDOWN_S)
    except asyncio.TimeoutError:
        _log.warning("embedded broker ends with connections open: they did not close within %.0f s", _SHUTDOWN_S)


def _broker_class() -> type[Broker]:
    """Returns amqtt's broker, with two things that it lacks.

    A second client of a name ends the connection of the first. MQTT 3.1.1 demands it (section 3.1.4). amqtt 0.12 does
    so for persistent sessions only; both of two devices of one name would stay connected, and their records would be
    mixed without a sign of it.

    It ends while messages pass. amqtt cancels a connection's reader and waits for its end without a limit, but up to
    Python 3.11 `asyncio.wait_for` swallows a cancellation that arrives together with a packet; a closed connection ends
    it always. It accepts no client while it ends.
    """
    from amqtt.broker import Broker

    class TakeOverBroker(Broker):  # type: ignore[misc]  # amqtt has no types
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._connected: dict[str, tuple[Any, asyncio.Event]] = {}

        async def shutdown(self) -> None:
            for server in self._servers.values():
                server.instance.close()
            connected = list(self._connected.values())
            await asyncio.gather(*(handler.writer.close() for handler, _ in connected), return_exceptions=True)
            await asyncio.gather(*(ended.wait() for _, ended in connected))
            await super().shutdown()

        async def _handle_client_session(
            self, reader: Any, writer: Any, client_session: Any, handler: Any, server: Any, listener_name: str
        ) -> None:
            name, ended = client_session.client_id, asyncio.Event()
            older = self._connected.get(name)
            self._connected[name] = own = handler, ended
            if older is not None:
                await older[0].handle_connection_closed()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(older[1].wait(), _TAKE_OVER_S)
            try:
                await super()._handle_client_session(reader, writer, client_session, handler, server, listener_name)
            finally:
                ended.set()
                if self._connected.get(name) is own:
                    del self._connected[name]

    return TakeOverBroker
