"""Muon for the matrices between hidden layers and AdamW for everything else, as one optimiser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rsvp_ros.errors import ConfigurationError

BETAS = (0.9, 0.98)
"""AdamW's."""


def make_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    learning_rate: float,
    weight_decay: float,
    muon: bool = True,
    hasty: Sequence[nn.Parameter] = (),
    haste: float = 1.0,
    others: float = 1.0,
) -> torch.optim.Optimizer:
    """An optimiser for named parameters; vectors and scalars have no weight decay.

    `muon`: whether parameters that `is_hidden` accepts are trained with Muon. The learning rate is multiplied by
    `haste` for the `hasty` parameters, and by `others` for AdamW's remaining ones. Raises ConfigurationError if torch
    has no Muon.
    """
    hurried = {id(p) for p in hasty}
    hidden, shaped, plain = [], [], []
    seen: set[int] = set()
    for name, parameter in parameters:
        if id(parameter) in hurried | seen:  # tied weights have two names
            continue
        seen.add(id(parameter))
        (hidden if muon and is_hidden(name, parameter) else shaped if parameter.ndim > 1 else plain).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": shaped, "weight_decay": weight_decay, "haste": others},
        {"params": plain, "weight_decay": 0.0, "haste": others},
        {"params": [*hasty], "weight_decay": 0.0, "haste": haste},
    ]
    groups = [group for group in groups if group["params"]]
    if hidden:
        return MuonAdamW(hidden, groups, learning_rate, weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether it is a matrix between hidden layers: no embedding, no head, nothing that sees the image itself.

    Kernels of transposed convolutions would be handled wrongly, as their input dimension comes first; there are none.
    """
    kernel = parameter.ndim == 4 and parameter.shape[1] > 3
    return kernel or (parameter.ndim == 2 and ("layers." in name or "blocks." in name))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set it for all parameters, multiplied by the `haste` of their group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("haste", 1.0)


class MuonAdamW(torch.optim.Optimizer):
    """Two optimisers that step together.

    Muon (orthogonalised momentum, https://kellerjordan.github.io/posts/muon/) needs fewer steps than AdamW to learn
    what small transformers are slow at, finding and copying; it is for matrices between hidden layers only. The kernel
    of a convolution counts as one, too: outputs x (input channels and kernel positions).
    """

    def __init__(
        self, hidden: list[nn.Parameter], groups: list[dict[str, Any]], learning_rate: float, weight_decay: float
    ) -> None:
        """`groups`: AdamW's parameter groups. Raises ConfigurationError if torch has no Muon."""
        if not hasattr(torch.optim, "Muon"):
            raise ConfigurationError(
                f"training needs torch 2.9 or newer (torch.optim.Muon), this is {torch.__version__}: "
                "pip install 'rsvp_ros[train]'"
            )
        super().__init__(
            [{"params": hidden, "weight_decay": weight_decay}, *({**group} for group in groups)],
            {"lr": learning_rate, "haste": 1.0},
        )
        self._hidden = hidden
        # torch's Muon takes only matrices, so kernels are copied into matrices and back
        self._matrices = [nn.Parameter(p.detach().flatten(1).clone()) for p in hidden]
        self._muon = torch.optim.Muon(
            self._matrices, lr=learning_rate, weight_decay=weight_decay, momentum=0.95, ns_steps=5,
            adjust_lr_fn="match_rms_adamw",
        )  # fmt: skip
        self._adam = torch.optim.AdamW([{**group} for group in groups], lr=learning_rate, betas=BETAS, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step with the current gradients."""
        both = (*self._muon.param_groups, *self._adam.param_groups)
        for group, inner in zip(self.param_groups, both, strict=True):
            # Values that the inner optimisers restored from a checkpoint do not count
            inner["lr"], inner["weight_decay"] = group["lr"], group["weight_decay"]
        for parameter, matrix in zip(self._hidden, self._matrices, strict=True):
            matrix.copy_(parameter.flatten(1))
            matrix.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        self._muon.step()
        self._adam.step()
        for parameter, matrix in zip(self._hidden, self._matrices, strict=True):
            parameter.copy_(matrix.view(parameter.shape))
            matrix.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError if it is another optimiser's."""
        if state_dict.keys() != {"muon", "adam"}:
            raise ValueError("it is of another optimiser, that of an earlier version of this package")
        self._muon.load_state_dict(state_dict["muon"])
        self._adam.load_state_dict(state_dict["adam"])
