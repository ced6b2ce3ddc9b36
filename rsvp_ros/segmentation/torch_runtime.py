"""Where a network runs, with how many threads, in which precision, and what its failures are called."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rsvp_ros.errors import ConfigurationError, ModelLoadError, ModelRunError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto": the GPU where there is one.

    Raises ConfigurationError where there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # RuntimeError: no such name or index; AssertionError: torch was built without CUDA.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigurationError(
            f"device '{name}' cannot be used ({reason}): set it to auto, cpu or cuda, and for cuda check `nvidia-smi`"
        ) from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The floating-point type called `name`; "auto": half precision on a GPU (bfloat16 where it has it), else float32.

    Raises ConfigurationError for an unknown name.
    """
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if name not in _DTYPES:
        raise ConfigurationError(f"dtype '{name}' is unknown: use auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def set_encoder_dtype(encoder: nn.Module, dtype: torch.dtype) -> None:
    """Make an encoder compute in `dtype` while what it returns stays float32.

    Only for encoders is it worthwhile: they take nearly all the time. For a prompt encoder it is not, since bfloat16
    places a box in a 1024-pixel image only to within 4 pixels.
    """
    if dtype == torch.float32:
        return
    # Tables that are not part of the weights (rotary frequencies) stay in float32, as their modules expect.
    kept = {id(tensor) for tensor in encoder.state_dict(keep_vars=True).values() if tensor.is_floating_point()}
    for module in encoder.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if id(tensor) not in kept:
                continue
            if isinstance(tensor, nn.Parameter):
                tensor.data = tensor.data.to(dtype)
            else:  # replaced: a loaded one may be a view, whose base would stay float32, and torch.compile minds that
                setattr(module, name, tensor.to(dtype))
    encoder.register_forward_hook(lambda _module, _inputs, output: _to_float32(output))


def _to_float32(value):
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):  # transformers' ModelOutput is one
        for key in list(value.keys()):
            value[key] = _to_float32(value[key])
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(_to_float32(item) for item in value)
    return value


class CpuShare:
    """Lets another process have some of the cores for a time, instead of competing for them.

    Threads that compute together wait for the slowest at every step. With more threads than cores, two of them take
    turns on one core while all others wait for each turn, and a frame takes several times as long
    (benchmark/frames_while_reasoning.py).
    """

    def __init__(self, threads: int) -> None:
        """`threads`: number of the other process's threads."""
        self._alone = torch.get_num_threads()
        self._beside = max(1, min(self._alone, len(os.sched_getaffinity(0)) - threads))

    def set(self, shared: bool) -> None:
        """`shared`: whether the other process computes. Call this in the computing thread: torch counts per thread."""
        torch.set_num_threads(self._beside if shared else self._alone)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or numpy failed for lack of memory.

    torch has an exception class for failures of its own GPU allocator. It reports failures of what CUDA, cuBLAS and
    cuDNN allocate themselves, and of CPU memory, as RuntimeError.
    """
    message = str(error)
    known = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(text in message for text in known)


@contextmanager
def running(name: str) -> Iterator[None]:
    """Inference mode; failures of the network become ModelRunError."""
    try:
        with torch.inference_mode():
            yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise ModelRunError(f"{name} failed: {error}") from error
        if torch.cuda.is_available():
            # The next frame may fit, once the error no longer holds what the failed call had computed.
            traceback.clear_frames(error.__traceback__)
            torch.cuda.empty_cache()
        raise ModelRunError(
            f"{name} ran out of memory: use a smaller model, dtype bfloat16, fewer targets, or free memory "
            "that other processes hold (`nvidia-smi`)"
        ) from error


def move_to_device(model: nn.Module, name: str, device: torch.device) -> nn.Module:
    """The model on its device, ready for inference. Raises ModelLoadError where it does not fit or cannot be moved."""
    try:
        return model.to(device).eval().requires_grad_(False)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise ModelLoadError(
                f"{name} does not fit into {device}'s memory: use a smaller model or device cpu, or free memory that "
                "other processes hold (`nvidia-smi`)"
            ) from error
        reason = str(error).split("\n")[0]
        raise ModelLoadError(
            f"{name} cannot be moved to {device} ({reason}): check `nvidia-smi`, or use device cpu"
        ) from error
