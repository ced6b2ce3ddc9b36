"""Words that have an order start with vectors that reflect that order.

Bands, numbers, sizes, places and distances are compared and counted. From random vectors, a network would have to learn
each of these orders by heart; from smooth ones, it learns only once what "one more" means.
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
"""Share of a word's vector that is its own; the rest encodes its position in the order."""
_WAVES = (2.0, 4.0, 8.0, 16.0, 32.0)
"""Wavelengths, in positions of the order, of the waves whose phases encode a position."""
_PLACE_STRETCH = 6.0
"""… and the factor by which they are longer for places on the table, as there are that many more of these."""


@torch.no_grad()
def put_in_order(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Set the vectors of all words that have an order."""
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
