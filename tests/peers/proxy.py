"""A TCP relay that does to a connection what a factory hall does."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

_BLOCK = 4096
_RESET = struct.pack("ii", 1, 0)


class FaultProxy:
    """Relays ``port`` to ``target_port`` on loopback, with faults.

    Attributes:
        port: Where it listens.
        accepted: Connections that came so far.
        relayed_bytes: From the target to the clients.
    """

    def __init__(self, target_port: int) -> None:
        self.accepted = 0
        self.relayed_bytes = 0
        self._target_port = target_port
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._flips = 0
        self._cut_every: int | None = None
        self._cut_at = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    # Faults.

    def cut(self) -> None:
        """Resets every connection; new ones are welcome."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def cut_every(self, count: int | None) -> None:
        """Resets all connections whenever this many more bytes have come from the target; ``None`` ends it."""
        with self._lock:
            self._cut_every = count
            self._cut_at = self.relayed_bytes + (count or 0)

    def refuse(self, refusing: bool = True) -> None:
        """Closes new connections at once."""
        self._refusing = refusing

    def stall(self) -> None:
        """Lets nothing through any more, and closes nothing."""
        self._flowing.clear()

    def flow(self) -> None:
        """Ends a stall."""
        self._flowing.set()

    def flip(self, blocks: int = 1) -> None:
        """Flips one bit in the middle of each of the next full blocks that come from the target."""
        with self._lock:
            self._flips += blocks

    def close(self) -> None:
        self._flowing.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    # Relay.

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.accepted += 1
            self._open(client)

    def _open(self, client: socket.socket) -> None:
        try:
            if self._refusing:
                raise ConnectionRefusedError
            target = socket.create_connection(("127.0.0.1", self._target_port), timeout=60)
        except OSError:
            client.close()
            return
        for end in (client, target):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._pairs.append((client, target))
        threading.Thread(target=self._pump, args=(client, target, False), daemon=True).start()
        threading.Thread(target=self._pump, args=(target, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, downstream: bool) -> None:
        try:
            while data := source.recv(_BLOCK):
                self._flowing.wait()
                sink.sendall(self._spoil(data) if downstream else data)
                if downstream and self._cut_is_due(len(data)):
                    self.cut()
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _spoil(self, data: bytes) -> bytes:
        with self._lock:
            if not self._flips or len(data) < _BLOCK:
                return data
            self._flips -= 1
        spoiled = bytearray(data)
        spoiled[len(data) // 2] ^= 0x10
        return bytes(spoiled)

    def _cut_is_due(self, count: int) -> bool:
        with self._lock:
            self.relayed_bytes += count
            if self._cut_every is None or self.relayed_bytes < self._cut_at:
                return False
            self._cut_at += self._cut_every
            return True
