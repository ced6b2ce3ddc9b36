"""Reading segmentation models of Hugging Face transformers, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn

from rsvp_ros.errors import ModelLoadError, RsvpError
from rsvp_ros.model_files import cached_folder, hub_name, missing_weights
from rsvp_ros.segmentation.torch_runtime import is_out_of_memory, move_to_device

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
"""One of these holds the words of a tokenizer; without either, transformers makes up one that knows none."""


def resolve(model: str, *also: str) -> str:
    """A local folder's path, or a name on the hub ("facebook/sam2.1-hiera-tiny"); of what the hub's cache has, its
    folder there: a robot's start must not depend on the network. `also`: files of which the model needs one, too.

    Raises ModelLoadError where it can be neither.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_file():
        raise ModelLoadError(
            f"{path} is a file, and backend transformers reads a folder with config.json: give the folder, "
            "or use backend segment_anything for a .pth checkpoint"
        )
    if model.count("/") != 1 or model.startswith(("/", ".", "~")):
        raise ModelLoadError(
            f"there is no folder {path}: download the model, for example "
            "`hf download facebook/sam2.1-hiera-tiny --local-dir FOLDER`, and give FOLDER"
        )
    with loading(model):
        folder = cached_folder(model)
    return str(folder) if folder is not None and _is_whole(folder, also) else model


def _is_whole(folder: Path, also: Sequence[str]) -> bool:
    """Whether a folder of the hub's cache has all that every segmenter needs, and one of the files `also`."""
    processors = ("preprocessor_config.json", "processor_config.json")
    has_configuration = (folder / "config.json").is_file() and any((folder / name).is_file() for name in processors)
    has_others = not also or any((folder / name).is_file() for name in also)
    return has_configuration and has_others and not missing_weights(folder)


def read_model_type(model: str) -> str:
    """`model_type` of a model's config.json. Raises ModelLoadError."""
    _require(model, "config.json")
    with loading(model):
        config, _ = transformers.PreTrainedConfig.get_config_dict(model)
    if "model_type" not in config:
        raise ModelLoadError(f"{model}: its config.json names no model_type, so it is not a transformers model")
    return config["model_type"]


def load_image_processor(class_name: str, model: str) -> Any:
    """Raises ModelLoadError."""
    _require(model, "preprocessor_config.json", "processor_config.json")
    with loading(model):
        return _transformers_class(class_name).from_pretrained(model)


def load_tokenizer(model: str) -> Any:
    """Raises ModelLoadError."""
    _require(model, *TOKENIZER_FILES)
    with loading(model):
        return transformers.AutoTokenizer.from_pretrained(model)


def load_model(class_name: str, model: str, device: torch.device) -> nn.Module:
    """A model in float32 on its device, all of its weights read. Raises ModelLoadError."""
    names = ("model.safetensors", "pytorch_model.bin")
    _require(model, *names, *(f"{name}.index.json" for name in names))
    with loading(model):
        network, info = _transformers_class(class_name).from_pretrained(
            model, dtype=torch.float32, output_loading_info=True
        )
    # transformers only warns, and leaves such weights random.
    if missing := sorted(info["missing_keys"]):
        raise ModelLoadError(
            f"{model}: the weights lack {len(missing)} tensors of {class_name} (the first: {missing[0]}), so they are "
            "another architecture's or incomplete: " + _remedy(model)
        )
    return move_to_device(network, model, device)


def _transformers_class(name: str) -> Any:
    if not hasattr(transformers, name):
        raise ModelLoadError(
            f"transformers {transformers.__version__} has no {name}: pip install --upgrade transformers"
        )
    return getattr(transformers, name)


def _require(model: str, *names: str) -> None:
    """Raises ModelLoadError if a local folder has none of these files; for the hub, its client checks."""
    folder = Path(model)
    if folder.is_dir() and not any((folder / name).is_file() for name in names):
        raise ModelLoadError(f"{folder} has no {' or '.join(names)}: {_remedy(model)}")


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Turn all failures inside into ModelLoadError."""
    try:
        yield
    except RsvpError:
        raise
    except ImportError as error:
        raise ModelLoadError(f"{model} needs a package: {error} (pip install 'rsvp_ros[transformers]')") from error
    except Exception as error:  # broken files make json, safetensors, pickle and the hub's client raise anything
        if is_out_of_memory(error):
            raise ModelLoadError(f"{model} does not fit into memory: use a smaller model") from error
        raise ModelLoadError(f"{model} cannot be loaded: {_reason(model, error)}: {_remedy(model)}") from error


def _reason(model: str, error: Exception) -> str:
    for file in sorted(Path(model).glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as broken:
            return f"{file} is broken ({broken}), a download that was cut short, or a Git LFS pointer"
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")


def _remedy(model: str) -> str:
    if name := hub_name(Path(model)):  # without force, what the cache has is taken to be whole
        return f"while connected to the internet, run `hf download --force-download {name}`"
    if Path(model).is_dir():
        return f"download it again, `hf download NAME --local-dir {model}`"
    return f"while connected to the internet, run `hf download {model}` once, or give a local folder"
