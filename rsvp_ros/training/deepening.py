"""Adding layers to weights that are already trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import nn


@torch.no_grad()
def deepened(blocks: nn.ModuleList, layers: int, ends: Callable[[nn.Module], Sequence[nn.Linear]]) -> nn.ModuleList:
    """A stack of at least `layers` layers that computes the same: new ones, spread evenly, add nothing at first.

    `ends`: the parts of a layer whose outputs are added to its input (the residual branches).
    """
    known, more = len(blocks), max(0, layers - len(blocks))
    doubled = [max(0, (k + 1) * known // (more + 1) - 1) for k in range(more)]
    deeper = []
    for index, block in enumerate(blocks):
        deeper.append(block)
        for _ in range(doubled.count(index)):
            new = copy.deepcopy(block)
            for end in ends(new):
                for parameter in end.parameters():
                    parameter.zero_()
            deeper.append(new)
    return nn.ModuleList(deeper)
