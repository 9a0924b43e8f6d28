"""An agent that dies at a chosen moment, and a hub that damages what it gives."""

from __future__ import annotations

import sys

from tests.worlds.agent import AgentProcess
from tests.worlds.hub import HubProcess

MORTAL = """
import os, signal, sys
from lineside_agent.daemon import run

def observe(machine):
    if (machine.state, machine.gen) == (sys.argv[2], int(sys.argv[3])):
        os.kill(os.getpid(), signal.SIGKILL)

sys.exit(run(sys.argv[1], observe=observe))
"""
"""An agent that is killed when it has written a state down and not yet acted upon it."""


TAMPERING = """
import sys
from lineside_hub.repository.chunks import ChunkStore
from lineside_hub.server import run

def damaging(whole):
    def get(self, digest):
        data = whole(self, digest)
        return data if digest != sys.argv[2] else bytes([data[0] ^ 1]) + data[1:]

    return get

ChunkStore.get, ChunkStore.get_unchecked = damaging(ChunkStore.get), damaging(ChunkStore.get_unchecked)
sys.exit(run(sys.argv[1]))
"""
"""A hub in somebody else's hands: it gives one chunk with another byte than was signed."""


def start_mortal(agent: AgentProcess, state: str, gen: int) -> None:
    """Starts an agent that is killed in ``state`` of generation ``gen``."""
    agent.start([sys.executable, "-c", MORTAL, agent.config_path, state, str(gen)])


def start_tampering(hub: HubProcess, chunk: str) -> None:
    """Starts a hub that damages one chunk on its way out."""
    hub.start([sys.executable, "-c", TAMPERING, hub.config_path, chunk])
