"""The language model on many rows at once; what all rows about one image share is computed only once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel, apply_rotary_pos_emb

from rsvp_ros.reasoning.visual_prompt import VisualPrompt
from rsvp_ros.training.mllm.model import MERGE, PATCH
from rsvp_ros.training.mllm.tokenizer import prompt_parts, request_text
from rsvp_ros.training.mllm.views import HEIGHT, WIDTH

ROWS, COLUMNS = HEIGHT // PATCH, WIDTH // PATCH
"""Number of rows and columns of patches."""
IMAGE_TOKENS = ROWS * COLUMNS // MERGE**2

Cache = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, batch x heads x length x head_dim."""


@dataclass(frozen=True)
class Frame:
    """What is the same in every request: the tokens up to the end of the image, and their positions."""

    ids: torch.Tensor
    """1 x length; includes the image's tokens."""
    is_image: torch.Tensor
    """bool length."""
    positions: torch.Tensor
    """3 x 1 x length (time, row, column), as the network's own get_rope_index gives them."""
    next_position: int
    after: tuple[int, ...]
    """Tokens from the end of the instruction to the start of the answer."""

    @classmethod
    def of(cls, model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> Frame:
        """Its tensors are on the CPU, wherever the network is."""
        prompt = VisualPrompt()
        _, after = prompt_parts(prompt)
        head = request_text("", prompt).split("<|image_pad|>")[0]
        before = tokenizer(head)["input_ids"]
        image = model.config.image_token_id
        ids = [*before, *[image] * IMAGE_TOKENS, tokenizer.convert_tokens_to_ids("<|vision_end|>")]
        row = torch.tensor([ids])
        types = (row == image).int()
        positions, _ = model.model.get_rope_index(
            row, image_grid_thw=torch.tensor([[1, ROWS, COLUMNS]]), mm_token_type_ids=types
        )
        rest = tuple(tokenizer(after + "<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
        return cls(row, row[0] == image, positions, int(positions.max()) + 1, rest)

    def to(self, device: torch.device) -> Frame:
        return dataclasses.replace(
            self, **{name: value.to(device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        )


def run_layers(
    model: Qwen3VLTextModel,
    hidden: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
    past: Cache | None = None,
) -> tuple[torch.Tensor, Cache]:
    """Like the network's own forward for embedded tokens, batch x length x width, but with a custom mask.

    mask: bool, broadcast to batch x 1 x length x (past + length); True where a token may attend.
    Returns the last hidden states, and the keys and values including those of `past`.
    """
    batch, length, _ = hidden.shape
    cos, sin = model.rotary_emb(hidden, positions)
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        cos, sin = (turn.to(torch.get_autocast_dtype(kind)) for turn in (cos, sin))
    cache: Cache = []
    for index, layer in enumerate(model.layers):
        attention = layer.self_attn
        shape = (batch, length, -1, attention.head_dim)
        normed = layer.input_layernorm(hidden)
        query = attention.q_norm(attention.q_proj(normed).view(shape)).transpose(1, 2)
        key = attention.k_norm(attention.k_proj(normed).view(shape)).transpose(1, 2)
        value = attention.v_proj(normed).view(shape).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        if past is not None:
            key = torch.cat((past[index][0], key), 2)
            value = torch.cat((past[index][1], value), 2)
        cache.append((key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return model.norm(hidden), cache


def causal(length: int, device: torch.device) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def read_frames(model: Qwen3VLTextModel, frame: Frame, merged: torch.Tensor) -> Cache:
    """Cache of the shared beginning of requests about each image; merged: image tokens, I x IMAGE_TOKENS x width."""
    images = merged.shape[0]
    hidden = model.embed_tokens(frame.ids).expand(images, -1, -1).clone()
    hidden[:, frame.is_image] = merged.to(hidden.dtype)
    positions = frame.positions.expand(-1, images, -1)
    _, cache = run_layers(model, hidden, positions, causal(hidden.shape[1], hidden.device))
    return cache


def rows_of(cache: Cache, owners: torch.Tensor) -> Cache:
    """The cached beginnings of rows; `owners`: index of the image that each row is about."""
    return [(key[owners], value[owners]) for key, value in cache]


def row_hidden(
    model: Qwen3VLTextModel, frame: Frame, cache: Cache, ids: torch.Tensor, blind: torch.Tensor
) -> torch.Tensor:
    """Hidden states of rows of tokens, R x length (padded at the end), that follow the beginnings in the cache.

    blind: bool R; True: the row does not see its image.
    """
    rows, length = ids.shape
    device = ids.device
    sees = torch.ones(rows, frame.ids.shape[1], dtype=torch.bool, device=device)
    sees &= ~(blind[:, None] & frame.is_image)
    mask = torch.cat((sees[:, None, :].expand(-1, length, -1), causal(length, device).expand(rows, -1, -1)), 2)[:, None]
    positions = (torch.arange(length, device=device) + frame.next_position).expand(3, rows, -1)
    hidden, _ = run_layers(model, model.embed_tokens(ids), positions, mask, cache)
    return hidden


@torch.no_grad()
def write_rows(
    model: Qwen3VLForConditionalGeneration,
    frame: Frame,
    cache: Cache,
    requests: Sequence[Sequence[int]],
    most: int,
    end: int,
    forced: Sequence[Sequence[int | None]] | None = None,
    force_after: int = -1,
) -> list[list[int]]:
    """Greedy answers to many rows at once.

    requests: each row's tokens after the image. most: maximum tokens of an answer. end: the token that ends one.
    forced: for each row, the tokens to write after the token `force_after`, whatever the network predicts; None as a
    token: the network's own.
    """
    text = model.model.language_model
    device = frame.ids.device
    rows = len(requests)
    longest = max(map(len, requests))
    pads = torch.tensor([longest - len(r) for r in requests], device=device)
    ids = torch.tensor([[0] * (longest - len(r)) + list(r) for r in requests], device=device)
    beginning = frame.ids.shape[1]
    sees = torch.ones(rows, beginning + longest, dtype=torch.bool, device=device)
    sees[:, beginning:] = torch.arange(longest, device=device) >= pads[:, None]
    first = torch.cat((torch.ones(longest, beginning, dtype=torch.bool, device=device), causal(longest, device)), 1)
    mask = (first & sees[:, None, :])[:, None]
    positions = (torch.arange(longest, device=device) - pads[:, None]).clamp(min=0) + frame.next_position
    answers: list[list[int]] = [[] for _ in range(rows)]
    queues = [None] * rows
    done = [False] * rows
    hidden, cache = run_layers(text, text.embed_tokens(ids), positions.expand(3, -1, -1), mask, cache)
    for step in range(most):
        chosen = model.lm_head(hidden[:, -1]).float().argmax(-1).tolist()
        for row in range(rows):
            if queues[row]:
                given = queues[row].pop(0)
                chosen[row] = chosen[row] if given is None else given
            elif queues[row] is None and forced is not None and answers[row] and answers[row][-1] == force_after:
                queues[row] = list(forced[row])
                given = queues[row].pop(0) if queues[row] else None
                chosen[row] = chosen[row] if given is None else given
            if not done[row]:
                answers[row].append(chosen[row])
                done[row] = chosen[row] == end
        if all(done):
            break
        sees = torch.cat((sees, torch.ones(rows, 1, dtype=torch.bool, device=device)), 1)
        positions = (longest + step - pads)[:, None] + frame.next_position
        hidden, cache = run_layers(
            text,
            text.embed_tokens(torch.tensor(chosen, device=device)[:, None]),
            positions.expand(3, -1, -1),
            sees[:, None, None],
            cache,
        )
    return answers
