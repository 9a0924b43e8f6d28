"""Residual blocks of a network, and a network without some of them."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn


def removable_blocks(module: nn.Module) -> tuple[str, ...]:
    """Returns the residual blocks of a ``torch.fx.GraphModule`` by the names of their additions, in their order.

    A block is all that lies between a value and the addition to that same value. Without it the addition's result is
    the value, and all else keeps its shape.
    """
    if not isinstance(module, fx.GraphModule):
        return ()
    return tuple(node.name for node in module.graph.nodes if _shortcut(module, node) is not None)


def without_blocks(module: nn.Module, names: Collection[str]) -> nn.Module:
    """Returns a copy without these blocks; the batch norms behind them have to be counted again."""
    made = copy.deepcopy(module)
    if not names or not isinstance(made, fx.GraphModule):
        return made
    for node in list(made.graph.nodes):
        shortcut = _shortcut(made, node) if node.name in names else None
        if shortcut is not None:
            node.replace_all_uses_with(shortcut)
    made.graph.eliminate_dead_code()
    made.delete_all_unused_submodules()
    made.recompile()
    return made


def _shortcut(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Returns the value that a block starts from and is added to; ``None`` if a node ends no block."""
    inputs = [each for each in node.args if isinstance(each, fx.Node)]
    if len(inputs) != 2 or not _adds(module, node):
        return None
    one, other = inputs
    for start, end in ((one, other), (other, one)):
        if start is not end and _is_closed(start, end, node):
            return start
    return None


def _adds(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False
    operation: Any = getattr(module.get_submodule(str(node.target)), "math_op_function", None)
    return operation is torch.add


def _is_closed(start: fx.Node, end: fx.Node, addition: fx.Node) -> bool:
    """Returns whether all that leads to ``end`` begins at ``start`` alone, and is used for nothing else."""
    seen: set[fx.Node] = set()
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node is start or node in seen:
            continue
        if node.op in ("placeholder", "get_attr"):
            return False
        seen.add(node)
        waiting += node.all_input_nodes
    used = {user for node in seen for user in node.users}
    return bool(seen) and used <= seen | {addition}
