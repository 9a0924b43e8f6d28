"""Quantum head: a variational circuit between two linear layers, on frozen features. Host only: imports torch.

A bundle that holds one needs none of this: its circuit is an ONNX graph.
"""

from __future__ import annotations

__all__ = ["circuit", "network", "pennylane_circuit"]
