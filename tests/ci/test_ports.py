"""Ports of peers, asked for by several threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.peers import free_port


def test_no_two_peers_get_one_port_and_none_is_the_kernels_to_give() -> None:
    with ThreadPoolExecutor(4) as pool:
        ports = [port.result() for port in [pool.submit(free_port) for _ in range(100)]]
    assert len(set(ports)) == 100
    assert max(ports) < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
