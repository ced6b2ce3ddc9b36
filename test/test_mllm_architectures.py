"""The same code runs other families: tiny untrained models of each, saved, loaded, asked about an image.

SmolVLM is Idefics3's architecture with a video processor; its own processor needs the package num2words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_mllm import CHAT_TEMPLATE, SPECIAL_TOKENS, byte_tokenizer

from rsvp_ros.reasoning.families import family_for
from rsvp_ros.reasoning.mllm.base import Message
from rsvp_ros.reasoning.mllm.transformers_mllm import TransformersConfig, TransformersMllm

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
    "eos_token_id": None,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
TURNS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer(more: Sequence[str], **names):
    return byte_tokenizer([*TURNS, *more], eos_token="<|im_end|>", pad_token="<|endoftext|>", **names)


def template(image: str) -> str:
    return CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", image)


def qwen2_5_vl():
    words = byte_tokenizer(SPECIAL_TOKENS, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokens = ("image_pad", "video_pad", "vision_start", "vision_end")
    image, video, start, end = words.convert_tokens_to_ids([f"<|{name}|>" for name in tokens])
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": len(words), "rope_parameters": rope},
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 14,
            "out_hidden_size": 32, "fullatt_block_indexes": [0],
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )  # fmt: skip
    size = {"shortest_edge": 56 * 56, "longest_edge": 128 * 128}
    images, videos = transformers.Qwen2VLImageProcessor(size=size), transformers.Qwen2VLVideoProcessor()
    processor = transformers.Qwen2_5_VLProcessor(images, words, videos, chat_template=CHAT_TEMPLATE)
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def internvl():
    special = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    special["video_token"] = "<video>"
    words = tokenizer(list(special.values()), extra_special_tokens=special)
    config = transformers.InternVLConfig(
        text_config=transformers.Qwen2Config(vocab_size=len(words), **TEXT),
        vision_config={**VISION, "image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = transformers.GotOcr2ImageProcessor(size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4)
    videos = transformers.InternVLVideoProcessor()
    chat = template("<IMG_CONTEXT>\n")
    processor = transformers.InternVLProcessor(images, words, videos, image_seq_length=4, chat_template=chat)
    return transformers.InternVLForConditionalGeneration(config), processor


def idefics3():
    cells = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    words = tokenizer(["<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>", *cells])
    config = transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(vocab_size=len(words), pad_token_id=0, **TEXT),
        vision_config=VISION,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    images = transformers.Idefics3ImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    processor = transformers.Idefics3Processor(images, words, image_seq_len=4, chat_template=template("<image>"))
    return transformers.Idefics3ForConditionalGeneration(config), processor


def llava_onevision():
    words = tokenizer(["<image>", "<video>"])
    image, video = words.convert_tokens_to_ids(["<image>", "<video>"])
    sizes = [[56, 56], [56, 112], [112, 56]]
    config = transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(vocab_size=len(words), **TEXT),
        vision_config=transformers.SiglipVisionConfig(**{**VISION, "num_hidden_layers": 2}, vision_use_head=False),
        image_token_id=image,
        video_token_id=video,
        image_grid_pinpoints=sizes,
    )
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=sizes),
        words,
        transformers.LlavaOnevisionVideoProcessor(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


@pytest.mark.parametrize(
    ("build", "image_size", "family"),
    [
        (qwen2_5_vl, (140, 84), "qwen2_5_vl"),
        (internvl, (160, 120), "internvl"),
        (idefics3, (160, 120), "generic"),
        (llava_onevision, (160, 120), "generic"),
    ],
)
def test_reads_an_image_and_writes(build: Callable, image_size: tuple[int, int], family: str, tmp_path: Path):
    tmp_path = tmp_path / "mllm"  # a name that tells nothing
    torch.manual_seed(0)
    model, processor = build()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    mllm = TransformersMllm(TransformersConfig(str(tmp_path), device="cpu", max_new_tokens=8))

    assert family_for(mllm.name).name == family

    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    talk = [Message("system", "You find things."), Message("user", "Where? <image> <|im_end|>", (image,))]
    pieces = []
    answer = mllm.generate(talk, pieces.append)
    assert answer.text == "".join(pieces) != ""
    assert answer.completion_tokens == 8
    assert answer.image_size == image_size
    assert mllm.generate(talk) == answer

    blind = mllm.generate([Message(turn.role, turn.text) for turn in talk])
    assert blind.image_size is None
    assert 4 <= answer.prompt_tokens - blind.prompt_tokens < 200  # the image's tokens
    mllm.close()
