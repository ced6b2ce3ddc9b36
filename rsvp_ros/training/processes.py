"""One process, or several that train together: the few things that differ between them, behind the same methods.

Several processes are started by `accelerate launch` or torchrun. Hugging Face's accelerate, part of the extra `train`,
is imported only for them and for float16.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.segmentation.torch_runtime import choose_device


class Processes(Protocol):
    """What the trainer needs from the processes."""

    device: torch.device
    """This process's."""
    rank: int
    count: int

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The two wrapped for training; they share weights and state with the originals."""

    def autocast(self) -> AbstractContextManager:
        """Context for arithmetic in the requested precision."""

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, averaged over all processes."""

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        """Limit the gradients' norm; returns the norm before."""

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, returned on each of them."""

    def can_skip(self) -> bool:
        """Whether a step with a non-finite gradient is skipped and the loss scale then reduced (float16)."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs besides weights and optimiser."""

    def load_state(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None:
        """Leave the group of processes."""


def start_processes(device: str, precision: str) -> Processes:
    """`device`: "auto", "cpu", "cuda", …; `precision`: "float32", "bfloat16" or "float16".

    Raises ConfigurationError if the device is missing or does not support the precision, or if accelerate is needed but
    not installed.
    """
    if launched() > 1 or precision == "float16":
        return Accelerated(device, precision)
    return OneProcess(device, precision)


def launched() -> int:
    """Number of processes, as torchrun (and so accelerate launch) and mpirun pass it to each of them."""
    names = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
    return next((int(os.environ[name]) for name in names if name in os.environ), 1)


class OneProcess:
    """Torch alone."""

    rank = 0
    count = 1

    def __init__(self, device: str, precision: str) -> None:
        self.device = choose_device(device)
        self.half = precision == "bfloat16"

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        return network, optimizer

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, limit)

    def total(self, values: Tensor) -> Tensor:
        return values

    def can_skip(self) -> bool:
        return False

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class Accelerated:
    """Hugging Face's accelerate: any number of processes, and float16 with scaled gradients."""

    def __init__(self, device: str, precision: str) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise ConfigurationError(
                "several processes, and precision float16, need accelerate: pip install 'rsvp_ros[train]'"
            ) from error
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigurationError(
                f"device {device!r} cannot be used with several processes or precision float16: set it to auto, cpu or "
                "cuda, and choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        if device == "cuda" or precision == "float16":
            choose_device("cuda")
        mixed = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[precision]
        try:
            # Without a GPU, accelerate has to be told so, or it would take each process for the only one.
            on_cpu = device == "cpu" or not torch.cuda.is_available()
            self._accelerator = Accelerator(cpu=on_cpu, mixed_precision=mixed)
        except ValueError as error:
            raise ConfigurationError(f"precision {precision!r} cannot be used here: {error}") from error
        self.device = self._accelerator.device
        self.rank = self._accelerator.process_index
        self.count = self._accelerator.num_processes

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        return self._accelerator.prepare(network, optimizer)

    def autocast(self) -> AbstractContextManager:
        return self._accelerator.autocast()

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        return self._accelerator.clip_grad_norm_(parameters, limit)

    def total(self, values: Tensor) -> Tensor:
        return self._accelerator.reduce(values, "sum")

    def can_skip(self) -> bool:
        scaler = self._accelerator.scaler
        return scaler is not None and scaler.get_scale() > 1

    def state(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler
        return {} if scaler is None else {"scaler": scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        if self._accelerator.scaler is not None and "scaler" in state:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def close(self) -> None:
        self._accelerator.end_training()
