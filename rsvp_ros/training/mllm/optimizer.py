"""Muon for the matrices of the layers, AdamW for all else, behind one learning rate."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

ADAM_SHARE = 0.5
"""AdamW's learning rate, of Muon's."""


class Optimizer:
    """Two optimisers that step together.

    Muon (orthogonalised momentum) learns what small transformers are slow at, finding and copying, in fewer steps than
    AdamW; it is for matrices between hidden layers only.
    """

    def __init__(self, modules: Iterable[nn.Module], learning_rate: float, weight_decay: float) -> None:
        matrices, embeddings, others = [], [], []
        seen: set[int] = set()
        for module in modules:
            for name, parameter in module.named_parameters():
                if id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                layer = "blocks." in name or "layers." in name
                if parameter.ndim == 2 and layer:
                    matrices.append(parameter)
                else:
                    (embeddings if parameter.ndim > 1 else others).append(parameter)
        self.parameters = [*matrices, *embeddings, *others]
        self.muon = torch.optim.Muon(
            matrices, lr=learning_rate, weight_decay=weight_decay, momentum=0.95, ns_steps=5,
            adjust_lr_fn="match_rms_adamw",
        )  # fmt: skip
        self.adam = torch.optim.AdamW(
            [{"params": embeddings, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=learning_rate * ADAM_SHARE,
            betas=(0.9, 0.98),
            fused=True,
        )

    def step(self, learning_rate: float, clip_norm: float) -> float:
        """One step on the gradients there are, if their norm is finite; they are gone then. Returns the norm."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, clip_norm))
        if norm < float("inf"):
            for group in self.muon.param_groups:
                group["lr"] = learning_rate
            for group in self.adam.param_groups:
                group["lr"] = learning_rate * ADAM_SHARE
            self.muon.step()
            self.adam.step()
        self.muon.zero_grad(set_to_none=True)
        self.adam.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
