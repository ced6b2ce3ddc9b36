"""Where the files of a transformers model are: in a local folder, in the hub's cache, or still on the hub."""

from __future__ import annotations

from pathlib import Path

from rsvp_ros.errors import ModelLoadError
from rsvp_ros.model_files import cached_folder, hub_name, missing_weights
from rsvp_ros.reasoning.visual_prompt import VisualPrompt

_REQUIRED = {
    "its configuration": ("config.json",),
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
    return hub_name(folder) or folder.absolute().name


def download_command(model: str) -> str:
    """The command that downloads the model's files."""
    local = model.startswith(("/", ".", "~")) or Path(model).is_dir()
    return f"hf download NAME --local-dir {model}" if local else f"hf download {model}"


def _from_hub(model: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = cached_folder(model, revision)
        if folder is not None and not _missing(folder):
            return folder
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
    return missing_weights(folder)
