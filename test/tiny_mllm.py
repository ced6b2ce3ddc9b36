"""A tiny but real Qwen3-VL that has learned one answer by heart: real weights, processor, chat template and `generate`.

build_tiny_mllm(folder, answer)                     # seconds on one thread
TransformersMllm(TransformersConfig(str(folder)))   # says `answer`, whatever the image and the prompt

with serve_tiny_mllm(folder) as url:                # `transformers serve`, the real OpenAI-compatible server
    OpenAiMllm(OpenAiConfig(base_url=url, model=str(folder)))
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' or 'image' in part or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_PATCH = 16
_MAX_PIXELS = 128 * 128
_MOST_STEPS = 1000
_LOW_LOSS = 0.002


def build_tiny_mllm(folder: Path, answer: str, seed: int = 0) -> None:
    """Save a model that says `answer` to everything.

    The answer is cut into tokens of which no two are equal, and what attention adds is set to zero: the next token then
    depends on the last one alone, which is learned within a second and which no image or prompt can disturb. The cuts
    fall anywhere, so a letter outside ASCII may be spread over two tokens.

    Raises RuntimeError if it did not learn.
    """
    torch.manual_seed(seed)
    pieces = _different_pieces(answer.encode())
    processor = build_processor(pieces)
    tokenizer = processor.tokenizer
    model = Qwen3VLForConditionalGeneration(_config(tokenizer))
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    _learn(model, tokenizer, pieces)
    model.eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    said = _say(model, processor, np.full((90, 120, 3), 128, np.uint8), "Where is it?", len(pieces))
    if said != answer:
        raise RuntimeError(f"the tiny model was to say {answer!r} and says {said!r}")


def _different_pieces(data: bytes, shortest: int = 5) -> list[str]:
    """Cut bytes into different pieces, each the shortest new one, in the alphabet of a byte-level BPE."""
    pieces: list[str] = []
    while data:
        length = shortest
        while length < len(data) and _byte_level(data[:length]) in pieces:
            length += 1
        if len(data) - length < shortest:
            length = len(data)  # no rest that is too short to be new
        pieces.append(_byte_level(data[:length]))
        data = data[length:]
    return pieces


def _byte_level(data: bytes) -> str:
    """Bytes as a byte-level BPE writes them: printable Latin-1 as itself, the others from U+0100 on (as in GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return "".join(chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in data)


def build_processor(pieces: Sequence[str] = ()) -> Qwen3VLProcessor:
    """Qwen3-VL's processor for small images, with a tokenizer of single bytes that can also write `pieces`."""
    tokenizer = byte_tokenizer(SPECIAL_TOKENS, pieces, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    size = {"shortest_edge": 64 * 64, "longest_edge": _MAX_PIXELS}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=_PATCH, merge_size=2, temporal_patch_size=2, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=_PATCH, size=size),
        chat_template=CHAT_TEMPLATE,
    )


def byte_tokenizer(special_tokens: Sequence[str], pieces: Sequence[str] = (), **names: str) -> PreTrainedTokenizerFast:
    """A tokenizer that reads byte by byte and can also write `pieces`; `names`: which special token is what."""
    words = dict.fromkeys([*special_tokens, *sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces])
    bpe = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(list(special_tokens))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False, **names)


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 16384,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {**rope, "mrope_section": [8, 4, 4]},  # must sum to half of head_dim
    }
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": _PATCH,
        "out_hidden_size": 128,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (("image", "image_pad"), ("video", "video_pad"),
                            ("vision_start", "vision_start"), ("vision_end", "vision_end"))
    }  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)


def _learn(model: Qwen3VLForConditionalGeneration, tokenizer, pieces: Sequence[str]) -> None:
    """Learn to say the pieces one after the other."""
    for layer in model.model.language_model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight).requires_grad_(False)
    start = tokenizer("<|im_start|>assistant\n")["input_ids"]
    target = tokenizer.convert_tokens_to_ids([*pieces, "<|im_end|>"])
    ids = torch.tensor([[*start, *target]])
    learning = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.Adam([weight for weight in learning if weight.requires_grad], lr=3e-3)
    for _ in range(_MOST_STEPS):
        logits = model(input_ids=ids).logits[0, len(start) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, len(start) :])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < _LOW_LOSS:
            return


def _say(model, processor, image: np.ndarray, prompt: str, most_tokens: int) -> str:
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=most_tokens + 1)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@contextlib.contextmanager
def serve_tiny_mllm(folder: Path, port: int = 0, deadline_s: float = 120.0) -> Iterator[str]:
    """Run `transformers serve` on a model's folder; gives the base URL. The model's name is the folder's path.

    Raises RuntimeError with the server's output if it does not answer before the deadline.
    """
    port = port or _free_port()
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile() as output:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": cache, "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder),
            "--host", "127.0.0.1", "--port", str(port), "--device", "cpu",
        ]  # fmt: skip
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + deadline_s
            while not _answers(f"http://127.0.0.1:{port}/health"):
                if server.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise RuntimeError(f"transformers serve did not start:\n{output.read().decode(errors='replace')}")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2.0):
            return True
    except (urllib.error.URLError, OSError):
        return False
