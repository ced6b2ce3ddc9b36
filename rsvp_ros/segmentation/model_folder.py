"""A network's folder: config.json with its configuration, model.safetensors with its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import nn

from rsvp_ros.errors import ModelLoadError, ModelRunError
from rsvp_ros.files import write_whole

Model = TypeVar("Model", bound=nn.Module)


def write(folder: str | Path, config: Any, model: nn.Module) -> None:
    """Write both files (weights as float16), each whole or not at all. `config`: a dataclass.

    Raises ModelRunError, before anything is written, if a weight is not a number or too large for float16.
    """
    folder = Path(folder)
    tensors = {name: t.detach().to("cpu", torch.float16).contiguous() for name, t in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ModelRunError(
                f"weights in {name} are no numbers or larger than float16 holds ({torch.finfo(tensor.dtype).max:g}): "
                f"none are written to {folder}; train again, into another `out`, with a lower `learning_rate` or a "
                "higher `weight_decay`"
            )
    files = {
        "config.json": (json.dumps(dataclasses.asdict(config), indent=2) + "\n").encode(),
        "model.safetensors": safetensors.torch.save(tensors, {"format": "pt"}),
    }
    for name, content in files.items():
        write_whole(folder / name, content)


def read(
    folder: str | Path, config_class: Callable[..., Any], model_class: type[Model], what: str, remedy: str
) -> Model:
    """What `write` wrote: a `model_class(config_class(...))`, float32 on the CPU, in evaluation mode.

    Raises a ModelLoadError that names the file, calls the network `what`, and says what to do (without a configuration:
    `remedy`).
    """
    folder = Path(folder)
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config = config_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        model = model_class(config)
    except (OSError, ValueError, TypeError, RuntimeError, AttributeError) as e:
        raise ModelLoadError(f"cannot read the {what}'s configuration {path}: {e}; {remedy}") from e
    path = folder / "model.safetensors"
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as e:
        raise ModelLoadError(
            f"cannot read the {what}'s weights {path}: {e}; the file is missing or damaged: copy or train it again"
        ) from e
    try:
        model.load_state_dict(tensors)
    except RuntimeError as e:
        raise ModelLoadError(
            f"the {what}'s weights {path} do not fit its configuration {folder / 'config.json'}: {e}; take both files"
            " from the same training"
        ) from e
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ModelLoadError(
                f"the {what}'s weights {path} hold values in {name} that are no finite numbers: the file is damaged "
                "or the training failed: copy or train it again"
            )
    return model.eval()
