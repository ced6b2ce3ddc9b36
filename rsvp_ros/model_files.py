"""Files of transformers models, of either stage: in a folder, or in the hub's cache."""

from __future__ import annotations

import json
from pathlib import Path


def cached_folder(model: str, revision: str = "") -> Path | None:
    """Where the hub's cache has a model, perhaps in part; None if it does not. Never asks the network.

    Args:
        model: a name on the hub. Raises ValueError if it cannot be one.
        revision: branch, tag or commit; empty: the main branch.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def hub_name(folder: Path) -> str:
    """A model's name on the hub, if this is its folder in the hub's cache, else empty."""
    folder = folder.absolute()
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        return folder.parents[1].name[len("models--") :].replace("--", "/")
    return ""


def missing_weights(folder: Path) -> str:
    """What the folder lacks of a model's weights, in words; empty if nothing."""
    if not any(any(folder.glob(name)) for name in ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")):
        return "its weights (*.safetensors or *.safetensors.index.json or pytorch_model*.bin)"
    kind = "*.safetensors" if any(folder.glob("*.safetensors*")) else "pytorch_model*"  # transformers prefers them
    for index in folder.glob(f"{kind}.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"its list of weight files: {index.name} is damaged"
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            return f"{len(missing)} of its {len(shards)} weight files, such as {missing[0]}"
    return ""
