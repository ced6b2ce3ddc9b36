"""Any AutoModelForImageTextToText of transformers, from the hub or a local folder: Qwen-VL, InternVL, SmolVLM, …"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsvp_ros.errors import CancelledError, ConfigurationError, ModelLoadError, ModelRunError
from rsvp_ros.reasoning.families import FAMILIES, family_for
from rsvp_ros.reasoning.mllm.base import Generation, Message
from rsvp_ros.reasoning.mllm.images import shrink
from rsvp_ros.reasoning.mllm.model_folder import download_command, find_model_folder, model_name

_log = logging.getLogger(__name__)

_CHOICES = {
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "quantization": ("none", "int8", "int4"),
    "attention": ("auto", "sdpa", "eager", "flash_attention_2"),
}


@dataclass(frozen=True)
class TransformersConfig:
    """Which model to load, and how to run it."""

    model: str = "Qwen/Qwen3-VL-4B-Instruct"
    """A name on the hub, a local folder, or "embedded": the small model in the package."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty: main."""
    device: str = "auto"
    """auto: the GPU where there is one; or cpu, cuda, cuda:1, ..."""
    dtype: str = "auto"
    """auto: as the weights were saved; or float32, bfloat16, float16."""
    quantization: str = "none"
    """none, int8 or int4 (bitsandbytes): half or a quarter of the memory of 16-bit weights."""
    attention: str = "auto"
    """auto: what transformers chooses; or sdpa, eager, flash_attention_2."""
    max_pixels: int = 1_310_720
    """Larger images are scaled down to this many pixels first (1280 x 1024); 0: never."""
    max_new_tokens: int = 4096
    temperature: float = 0.0
    """0: greedy decoding, the same answer every time."""

    def __post_init__(self):
        if not self.model:
            raise ConfigurationError("model is empty: give a name on the hub or a local folder")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}: it must be one of {', '.join(choices)}")
        if not self.max_new_tokens > 0:
            raise ConfigurationError(f"max_new_tokens is {self.max_new_tokens}: it must be greater than 0")
        for name in ("max_pixels", "temperature"):
            if not getattr(self, name) >= 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}: it must not be negative")


class TransformersMllm:
    """An `Mllm` in this process; `WorkerMllm` runs one in a process of its own. One `generate` at a time.

    `Generation.image_size` is the image's size after the Qwen-VL processors' scaling, read from their `image_grid_thw`;
    with other families, the size at which the image was handed to the processor.

    `name` is the model's name or folder, followed by its architecture if the name does not tell the family.

    Raises ModelLoadError.
    """

    def __init__(self, config: TransformersConfig):
        folder = find_model_folder(config.model, config.revision)
        try:
            import torch
            import transformers
        except ImportError as error:
            raise ModelLoadError(
                f"the MLLM backend 'transformers' cannot be imported ({error}): pip install 'rsvp_ros[transformers]'"
            ) from error
        self._torch, self._transformers = torch, transformers
        self._config = config
        self.name = model_name(config.model)
        try:
            self._load(folder)
        except ModelLoadError:
            raise
        except Exception as error:
            raise ModelLoadError(self._why_not_loaded(error)) from error
        if family_for(self.name) is FAMILIES["generic"]:  # only then: a name may tell more than an architecture
            self.name = f"{self.name} ({self._model.config.model_type})"
        self._lock = threading.Lock()
        self._cancel: threading.Event | None = None
        self._watch_for_cancel()

    def prepare(self, cancel: threading.Event | None = None) -> None:
        """See `Mllm.prepare`: the name is already known."""

    def generate(
        self,
        messages: Sequence[Message],
        on_text: Callable[[str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """See `Mllm.generate`. A cancel ends it within one layer of the network, even while it reads the image."""
        with self._lock:
            self._cancel = cancel
            stream = _Stream(self._processor.tokenizer, self._silent, on_text)
            try:
                return self._generate(messages, stream)
            except CancelledError:
                raise
            except Exception as error:
                if error is stream.callers_error:
                    raise
                words = _first_line(error)
                if not self._out_of_memory(error):
                    raise ModelRunError(f"{self.name} failed ({type(error).__name__}: {words})") from error
            finally:
                self._cancel = None
            # Only here, without the error and its traceback, are the tensors of the failed call free.
            self._free_cache()
            raise ModelRunError(
                f"{self.name} ran out of memory ({words}): lower max_pixels (it is {self._config.max_pixels}) or "
                "max_new_tokens, or set quantization to int8 or int4"
            )

    @property
    def threads(self) -> int:
        """Number of CPU threads that it computes with; 0 on a GPU."""
        return self._torch.get_num_threads() if self._model.device.type == "cpu" else 0

    def close(self) -> None:
        """Free the model's memory."""
        self._model = self._processor = None
        self._free_cache()

    def _free_cache(self) -> None:
        if self._torch.cuda.is_available():
            self._torch.cuda.empty_cache()

    def _load(self, folder: Path) -> None:
        config, transformers = self._config, self._transformers
        options: dict[str, Any] = {"dtype": config.dtype, "device_map": {"": self._device()}}
        if config.quantization != "none":
            options["quantization_config"] = self._quantization()
        if config.attention != "auto":
            options["attn_implementation"] = config.attention
        self._processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        if not hasattr(self._processor, "image_processor"):
            raise ModelLoadError(
                f"{config.model} has no image processor: it reads text only; choose a model for images and text, "
                "such as Qwen/Qwen3-VL-4B-Instruct"
            )
        if not self._processor.chat_template and self._processor.tokenizer.chat_template:
            self._processor.chat_template = self._processor.tokenizer.chat_template
        if not self._processor.chat_template:
            raise ModelLoadError(
                f"{config.model} has no chat template (chat_template.jinja): choose its instruction-tuned variant"
            )
        self._model, report = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=False, **options
        )
        if report["missing_keys"]:
            raise ModelLoadError(
                f"the weights of {config.model} lack {len(report['missing_keys'])} of the model's tensors, such as "
                f"{min(report['missing_keys'])}: they belong to another model; download it again: "
                f"{download_command(config.model)}"
            )
        if _turns_otherwise(self._model, folder):
            raise ModelLoadError(
                f"transformers {transformers.__version__} does not read the base of {config.model}'s vision positions "
                "(rope_theta in its config.json): with another one it would see nothing right; pip install -U "
                "'transformers>=5.17'"
            )
        self._model.eval()
        generation = self._model.generation_config
        ends = generation.eos_token_id
        ends = ends if isinstance(ends, (list, tuple)) else [ends]
        tokenizer = self._processor.tokenizer
        self._silent = {*ends, generation.pad_token_id, generation.bos_token_id}
        self._silent |= {tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id}

    def _device(self) -> str:
        torch, device = self._torch, self._config.device
        if device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ModelLoadError(
                f"device {device!r} cannot be used ({_first_line(error)}): set it to auto or cpu"
            ) from error
        return device

    def _quantization(self):
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise ModelLoadError(
                f"quantization {self._config.quantization!r} needs the package bitsandbytes: pip install bitsandbytes"
            ) from error
        if self._config.quantization == "int8":
            return self._transformers.BitsAndBytesConfig(load_in_8bit=True)
        return self._transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self._torch.bfloat16
        )

    def _watch_for_cancel(self) -> None:
        """Check `cancel` before every layer: reading a large image takes seconds on a small machine."""

        def check(*_) -> None:
            if self._cancel is not None and self._cancel.is_set():
                raise CancelledError(f"cancelled while {self.name} was answering")

        for part in self._model.modules():
            if isinstance(part, self._torch.nn.ModuleList):
                for layer in part:
                    layer.register_forward_pre_hook(check)

    def _generate(self, messages: Sequence[Message], stream: _Stream) -> Generation:
        config = self._config
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError(f"cancelled before {self.name} was asked")
        chat, image_size = self._chat(messages)
        if self._processor.apply_chat_template(chat, add_generation_prompt=True).rstrip().endswith("<think>"):
            stream.say("<think>")  # the template has opened the tag that the model will close
        inputs = self._processor.apply_chat_template(
            chat,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)
        if "image_grid_thw" in inputs:
            _, rows, columns = inputs["image_grid_thw"][-1].tolist()
            patch = self._processor.image_processor.patch_size
            image_size = (columns * patch, rows * patch)
        if config.temperature > 0:
            sampling = {"do_sample": True, "temperature": config.temperature}
        else:
            sampling = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        with self._torch.inference_mode():
            self._model.generate(**inputs, max_new_tokens=config.max_new_tokens, streamer=stream, **sampling)
        cut = stream.tokens >= config.max_new_tokens
        if cut:
            _log.warning("the answer of %s was cut at max_new_tokens = %d: raise it", self.name, config.max_new_tokens)
        return Generation("".join(stream.text), inputs["input_ids"].shape[1], stream.tokens, image_size, cut)

    def _chat(self, messages: Sequence[Message]) -> tuple[list[dict], tuple[int, int] | None]:
        """The conversation as chat templates take it, and (width, height) of the last image in it."""
        from PIL import Image

        chat: list[dict] = []
        image_size = None
        for message in messages:
            content: list[dict] = []
            for image in message.images:
                image = shrink(image, self._config.max_pixels)
                image_size = (image.shape[1], image.shape[0])
                content.append({"type": "image", "image": Image.fromarray(image)})
            text = message.text if message.role == "assistant" else self._without_control_tokens(message.text)
            chat.append({"role": message.role, "content": [*content, {"type": "text", "text": text}]})
        if chat[0]["role"] == "system" and not self._reads_system(chat):
            system, user, *rest = chat
            chat = [{"role": "user", "content": [*user["content"][:-1], _joined(system, user)]}, *rest]
        return chat, image_size

    def _without_control_tokens(self, text: str) -> str:
        """Put a space into control tokens, so that an instruction can neither end its own turn nor stand for an image.

        (`sanitize_control_tokens` of transformers 5.23 breaks the processor of Idefics3 and SmolVLM.)
        """
        for token in self._processor.tokenizer.added_tokens_decoder.values():
            if token.special and len(token.content) > 1:
                text = text.replace(token.content, f"{token.content[0]} {token.content[1:]}")
        return text

    def _reads_system(self, chat: list[dict]) -> bool:
        """Whether the chat template uses a system message: some refuse one, others leave it out."""
        import jinja2

        try:
            prompt = self._processor.apply_chat_template(chat, add_generation_prompt=True)
        except jinja2.TemplateError:
            return False
        return chat[0]["content"][0]["text"].strip() in prompt

    def _why_not_loaded(self, error: Exception) -> str:
        words, model = _first_line(error), self._config.model
        if self._out_of_memory(error):
            return (
                f"{model} does not fit into the memory ({words}): set quantization to int8 or int4 or dtype to "
                "bfloat16, or choose a smaller model"
            )
        if isinstance(error, ImportError):
            return f"{model} needs a package that is not installed ({words}): install it, or set attention to sdpa"
        if "trust_remote_code" in str(error):
            return f"{model} brings code of its own, which is not run: choose a model that transformers itself knows"
        if "does not recognize this architecture" in str(error) or "nrecognized" in str(error):
            return (
                f"transformers {self._transformers.__version__} does not know {model} as a model for images and text "
                f"({words}): pip install -U transformers, or choose another model"
            )
        damaged = isinstance(error, OSError) or type(error).__name__ == "SafetensorError"
        remedy = (
            f"download it again: {download_command(model)}"
            if damaged
            else "check device, dtype, quantization and attention"
        )
        return f"{model} could not be loaded ({type(error).__name__}: {words}): {remedy}"

    def _out_of_memory(self, error: Exception) -> bool:
        if isinstance(error, (MemoryError, self._torch.cuda.OutOfMemoryError)):
            return True
        return any(words in str(error) for words in ("out of memory", "ALLOC_FAILED", "allocate memory"))


def _turns_otherwise(model: Any, folder: Path) -> bool:
    """Whether a Qwen3-VL's vision tower has another base for its rotary positions than its configuration names.

    The base is not among the weights; before 5.17, transformers silently uses 10000 for every model.
    """
    with contextlib.suppress(AttributeError, KeyError, TypeError, IndexError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        theta = config["vision_config"]["rope_parameters"]["rope_theta"]
        frequencies = model.model.visual.rotary_pos_emb.inv_freq.double()
        return theta != 1e4 and abs(float(frequencies[1]) - theta ** (-1 / len(frequencies))) > 0.01
    return False


class _Stream:
    """Turns tokens into text as they come (transformers' streamer protocol), in the thread that generates.

    A token may be a part of a letter: text that ends in a replacement character is held back until it is complete.
    Special tokens are kept, since many families write boxes with them, except the `silent` ones (end, padding).
    """

    def __init__(self, tokenizer, silent: set[int | None], on_text: Callable[[str], None] | None):
        self.text: list[str] = []
        self.tokens = 0
        self.callers_error: Exception | None = None
        self._tokenizer = tokenizer
        self._silent = silent
        self._on_text = on_text
        self._prompt_is_next = True
        self._pending: list[int] = []
        """The last tokens that were said, kept for the spaces between words, and those that were not said yet."""
        self._said = 0
        """How many of `_pending` were said."""

    def put(self, tokens) -> None:
        if self._prompt_is_next:
            self._prompt_is_next = False
            return
        for token in tokens.flatten().tolist():
            self.tokens += 1
            if token not in self._silent:
                self._pending.append(token)
                self._say_pending(complete=False)

    def end(self) -> None:
        self._say_pending(complete=True)

    def say(self, text: str) -> None:
        self.text.append(text)
        if self._on_text is not None:
            try:
                self._on_text(text)
            except Exception as error:
                self.callers_error = error
                raise

    def _say_pending(self, complete: bool) -> None:
        before = self._decode(self._pending[: self._said])
        after = self._decode(self._pending)
        if len(after) <= len(before) or (after.endswith("\ufffd") and not complete):
            return
        self.say(after[len(before) :])
        self._pending = self._pending[self._said :]
        self._said = len(self._pending)

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _joined(system: dict, user: dict) -> dict:
    return {"type": "text", "text": f"{system['content'][0]['text']}\n\n{user['content'][-1]['text']}"}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
