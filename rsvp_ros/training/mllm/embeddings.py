"""Words that stand in an order begin with vectors that lie in that order.

Bands, numbers, sizes, places and distances are compared and counted. From random vectors a network would have to learn
the order of each of them by heart; from smooth ones it learns what "one more" means once.
"""

from __future__ import annotations

import math

import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from rsvp_ros.training.mllm.chains import (
    DISTANCES,
    MOST_BANDS,
    MOST_THINGS,
    ORDINALS,
    RELATED,
    number,
    size,
    span,
    x_word,
    y_word,
)
from rsvp_ros.training.mllm.extents import CLASSES
from rsvp_ros.training.places import FARTHEST

OWN_SHARE = 0.4
"""Of a word's vector that is its own; the rest follows from where it stands."""
_WAVES = (2.0, 4.0, 8.0, 16.0, 32.0)
"""Lengths of the waves whose phases tell a place, in steps of the order."""
_PLACE_STRETCH = 6.0
"""… and how many times longer they are for places on the table, of which there are as many more."""


@torch.no_grad()
def put_in_order(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Set the vectors of all words that stand in an order."""
    table = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    width = table.shape[1]
    axes = torch.randn(6, 2 * len(_WAVES), width, generator=generator)
    lows, highs, counts, measures, across, ahead = axes / math.sqrt(len(_WAVES))

    def place(x: float, axis: torch.Tensor, stretch: float = 1.0) -> torch.Tensor:
        phases = torch.tensor([2 * math.pi * x / (stretch * wave) for wave in _WAVES])
        return torch.cat((phases.cos(), phases.sin())) @ axis

    def put(word: str, vector: torch.Tensor) -> None:
        (index,) = tokenizer(word)["input_ids"]
        scale = table[index].std()
        mixed = vector / vector.std() * (1 - OWN_SHARE) + table[index] / scale * OWN_SHARE
        table[index] = mixed / mixed.std() * scale

    for a in range(1, MOST_BANDS + 1):
        for b in range(a, MOST_BANDS + 1):
            put(span(a, b), place(a, lows) + place(b, highs))
    for k in range(-FARTHEST, FARTHEST + 1):
        put(x_word(k), place(k, across, _PLACE_STRETCH))
        put(y_word(k), place(k, ahead, _PLACE_STRETCH))
    kinds = torch.randn(16, width, generator=generator)
    for k in range(1, MOST_THINGS + 1):
        put(number(k), place(k, counts) + kinds[0])
    for k, word in enumerate(ORDINALS, 1):
        put(f" {word}", place(k, counts) + kinds[1])
    for k in range(CLASSES):
        put(size(k), place(k, measures) + kinds[2])
    for index, side in enumerate(RELATED):
        for k in range(DISTANCES):
            put(f" {side}{k}", place(k, measures) + kinds[3 + index])
