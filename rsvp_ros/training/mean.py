"""`rsvp train mean`: one network out of several of the same size, each weight being the mean of theirs.

The mean of the weights before and after a training is often better than either on data that neither was trained on
(Wortsman et al., 2022, "Model soups"). It may lose what only one of them can do.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rsvp_ros.errors import ConfigurationError, ModelLoadError
from rsvp_ros.files import disk_errors, write_whole

WEIGHTS = "model.safetensors"
SAME = ("config.json", "tokenizer.json")
"""Files that must be the same for all networks that have them: with another size or vocabulary, the same position in
the weights means something else."""
OF_THE_PLACE = ("transformers_version", "backbone")
"""Entries of config.json that may differ: what wrote it, and where the SAM lies that a text path belongs to (its sizes
are compared by other entries)."""


def mean_weights(folders: Sequence[Path], shares: Sequence[float], out: Path) -> None:
    """Write the mean of the weights in `folders` to the folder `out`, with the other files of the first.

    `shares`: weight of each network in the mean; they need not add up to 1. Raises ModelLoadError (a missing or damaged
    file), ConfigurationError (networks that do not match, invalid shares, a folder that cannot be written to).
    """
    if len(folders) < 2 or len(shares) != len(folders) or not all(0 < share < math.inf for share in shares):
        raise ConfigurationError(
            f"a mean is of two networks or more, each with a share above 0; here are {len(folders)} and the shares "
            f"{', '.join(format(share, 'g') for share in shares)}"
        )
    first, *others = folders
    if out.resolve() in [folder.resolve() for folder in folders]:
        raise ConfigurationError(f"{out} is one of the networks: give another folder with --out")
    networks = [_read(folder / WEIGHTS) for folder in folders]
    for other in others:
        for name in SAME:
            if _described(first / name) != _described(other / name):
                raise ConfigurationError(
                    f"{first} and {other} differ in their {name}: a mean is of networks of the same size and words"
                )
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in networks]
    for folder, of_folder in zip(folders, shapes, strict=True):
        if of_folder != shapes[0]:
            raise ConfigurationError(f"{first} and {folder} hold weights of other names or sizes: they have no mean")
    mean = {}
    for name, tensor in networks[0].items():
        parts = [n[name].double() * (share / sum(shares)) for n, share in zip(networks, shares, strict=True)]
        mean[name] = torch.stack(parts).sum(0).to(tensor.dtype)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted(first.iterdir()):
            if path.is_file() and path.name not in (WEIGHTS, "README.md"):
                shutil.copyfile(path, out / path.name)
        write_whole(out / WEIGHTS, safetensors.torch.save(mean, {"format": "pt"}))


def _described(path: Path) -> object:
    """What a file says about the network; None if there is no file. Raises ModelLoadError if it is not JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}; copy or train it again") from error
    if isinstance(content, dict):
        return {name: value for name, value in content.items() if name not in OF_THE_PLACE}
    return content


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelLoadError(
            f"cannot read the weights {path}: {error}; give folders that hold the {WEIGHTS} of a finished training"
        ) from error
