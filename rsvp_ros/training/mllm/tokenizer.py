"""The small MLLM's tokenizer and processor: trained on what people say, with each fixed part of the prompts as a token.

The reasoner's prompts contain a thousand tokens of text that is the same in every request. For a model trained here,
each such part, from one placeholder to the next, is a single token: it always means the same, and a prompt then has
only a dozen tokens besides the instruction. The words of the answers are also one token each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from rsvp_ros.reasoning.families import FAMILIES
from rsvp_ros.reasoning.mllm.model_folder import EMBEDDED_PROMPTS
from rsvp_ros.reasoning.prompts import Prompts
from rsvp_ros.reasoning.reasoner import ReasonerConfig
from rsvp_ros.reasoning.visual_prompt import VisualPrompt
from rsvp_ros.training.mllm.chains import answer_words
from rsvp_ros.training.mllm.model import MERGE, PATCH
from rsvp_ros.training.mllm.views import HEIGHT, MEAN, STD, WIDTH

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' or 'image' in part or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAMILY = "qwen3_vl"
_PLACEHOLDER = "\x00"
_WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"


@cache
def prompt_parts(prompt: VisualPrompt) -> tuple[str, str]:
    """The text before and after the instruction in the reasoner's question."""
    prompts = Prompts(_PLACEHOLDER, prompt, FAMILIES[FAMILY], (WIDTH, HEIGHT), ReasonerConfig().max_targets)
    before, after = prompts.render("mcot_structured").split(_PLACEHOLDER)
    return before, after


@cache
def system_text() -> str:
    return Prompts("", EMBEDDED_PROMPTS[0], FAMILIES[FAMILY], (WIDTH, HEIGHT), 1).render("system")


def fixed_parts() -> tuple[str, ...]:
    """All text that is the same in every request, longest first: each becomes a token."""
    texts = {system_text()}
    for prompt in EMBEDDED_PROMPTS:
        texts.update(prompt_parts(prompt))
    return tuple(sorted(texts, key=len, reverse=True))


def train_tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A case-insensitive byte-level BPE of `size` tokens for what people say, plus the fixed tokens.

    Raises ValueError if `size` is too small for the words of the answers.
    """
    single = [word for word in answer_words() if _is_plain(word)]
    fixed = [word for word in answer_words() if not _is_plain(word)]
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    texts = list(texts)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The answers' words come first, however rare they are in what people say
    bpe.train_from_iterator([*texts, *(word for word in single for _ in range(len(texts)))], trainer)
    bpe.add_tokens(
        [AddedToken(text, normalized=False) for text in (*fixed_parts(), *fixed, "system\n", "user\n", "assistant\n")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        clean_up_tokenization_spaces=False,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    if torn := _torn(tokenizer):
        raise ValueError(f"a tokenizer of {size} tokens cuts words of the answers, such as {torn[0]!r}: make it larger")
    return tokenizer


def with_answer_words(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """An earlier training's tokenizer, with the answers' words that it lacks appended as tokens."""
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in _torn(tokenizer)])
    return tokenizer


def _torn(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [word for word in answer_words() if len(tokenizer(word)["input_ids"]) != 1]


def _is_plain(word: str) -> bool:
    """Whether people may also say this word of the answers, so that it must not be cut out of longer words."""
    return word.startswith(" ") and word[1:].isalpha()


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Qwen3-VL's own processor, set to the size in which the network sees images."""
    # A smaller image is scaled up to the minimum size, then rounded up to whole tokens: if the minimum were all pixels,
    # a rounding error could add a token.
    size = {"shortest_edge": HEIGHT * WIDTH * 15 // 16, "longest_edge": HEIGHT * WIDTH}
    options = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 1}
    normal = {"image_mean": [MEAN] * 3, "image_std": [STD] * 3}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**options, **normal, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=PATCH, size=size),
        chat_template=CHAT_TEMPLATE,
    )


def request_text(instruction: str, prompt: VisualPrompt) -> str:
    """A whole request as the chat template writes it, with one place for the image."""
    before, after = prompt_parts(prompt)
    return (
        f"<|im_start|>system\n{system_text()}<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        f"{before}{instruction}{after}<|im_end|>\n<|im_start|>assistant\n"
    )


def answer_ids(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> list[int]:
    """The tokens of an answer's words, then the end token."""
    vocabulary = _vocabulary(tokenizer)
    return [*(vocabulary[word] for word in words), tokenizer.eos_token_id]


_VOCABULARIES: WeakKeyDictionary[PreTrainedTokenizerFast, dict[str, int]] = WeakKeyDictionary()


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    found = _VOCABULARIES.get(tokenizer)
    if found is None:
        found = {word: tokenizer(word)["input_ids"][0] for word in answer_words()}
        _VOCABULARIES[tokenizer] = found
    return found
