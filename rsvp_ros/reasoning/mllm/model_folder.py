"""Where the files of a transformers model are: in a local folder, in the hub's cache, or still on the hub."""

from __future__ import annotations

import json
from pathlib import Path

from rsvp_ros.errors import ModelLoadError
from rsvp_ros.reasoning.visual_prompt import VisualPrompt

_REQUIRED = {
    "its configuration": ("config.json",),
    "its weights": ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin"),
    "its tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json"),
    "its image preprocessor": ("processor_config.json", "preprocessor_config.json"),
}
_NOT_NEEDED = ["*.gguf", "*.onnx", "*.pth", "onnx/*", "original/*"]


EMBEDDED = Path(__file__).parents[1] / "weights" / "mllm_embedded"
"""The small model in the package, called "embedded"."""

EMBEDDED_PROMPTS = (*(VisualPrompt("bands", bands, bands) for bands in (9, 5, 13)), VisualPrompt("none"))
"""The visual prompts that it was trained with, the usual one first."""


def _local(model: str) -> Path:
    return EMBEDDED if model == "embedded" else Path(model).expanduser()


def find_model_folder(model: str, revision: str = "") -> Path:
    """The folder with all files of a model.

    Args:
        model: a local folder, a name on the hub, or "embedded", the small model in the package. What is in the hub's
            cache is used without asking the network, because a robot's start must not depend on that; otherwise the
            model is downloaded.
        revision: branch, tag or commit on the hub; empty: its main branch.

    Raises ModelLoadError, naming what is missing.
    """
    folder = _local(model)
    if folder.is_dir():
        problem = _missing(folder)
        if problem:
            raise ModelLoadError(f"the folder of the model {model} lacks {problem}: {download_command(model)}")
        return folder
    if model.startswith(("/", ".", "~")):
        raise ModelLoadError(f"there is no model folder {model}: correct it, or download it: {download_command(model)}")
    return _from_hub(model, revision)


def model_name(model: str) -> str:
    """What to call a model: its name on the hub, even if given as a folder of the hub's cache, or its folder's name."""
    folder = _local(model)
    if not folder.is_dir():
        return model
    folder = folder.absolute()
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        return folder.parents[1].name[len("models--") :].replace("--", "/")
    return folder.name


def download_command(model: str) -> str:
    """The command that downloads the model's files."""
    local = model.startswith(("/", ".", "~")) or Path(model).is_dir()
    return f"hf download NAME --local-dir {model}" if local else f"hf download {model}"


def _from_hub(model: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, revision=revision or None, local_files_only=True))
        if not _missing(folder):
            return folder
    except LocalEntryNotFoundError:
        pass
    except ValueError as error:
        raise ModelLoadError(f"{model} is neither a local folder nor a name on the hub: {error}") from error
    try:
        folder = Path(snapshot_download(model, revision=revision or None, ignore_patterns=_NOT_NEEDED))
    except Exception as error:  # network, name, licence, disk: the hub's client has a class for each
        raise ModelLoadError(
            f"{model} is not in the hub's cache and could not be downloaded ({str(error).splitlines()[0]}): check the "
            f"name, download it once where there is a network: {download_command(model)}, or copy its folder here and "
            "set model to that"
        ) from error
    problem = _missing(folder)
    if problem:
        raise ModelLoadError(
            f"{model}, as the hub's cache has it, lacks {problem}: download the rest where there is a network: "
            f"{download_command(model)}; if the hub lacks it, too, choose a model that transformers can load"
        )
    return folder


def _missing(folder: Path) -> str:
    """What the folder lacks, in words; empty if nothing."""
    for what, names in _REQUIRED.items():
        if not any(any(folder.glob(name)) for name in names):
            return f"{what} ({' or '.join(names)})"
    kind = "*.safetensors" if any(folder.glob("*.safetensors*")) else "pytorch_model*"  # transformers prefers them
    for index in folder.glob(f"{kind}.index.json"):
        shards = set(json.loads(index.read_text())["weight_map"].values())
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            return f"{len(missing)} of its {len(shards)} weight files, such as {missing[0]}"
    return ""
