"""Text encoder: hashed word pieces, so no vocabulary file and no unknown script."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rsvp_ros.segmentation.modeling.common import Mlp
from rsvp_ros.segmentation.modeling.image_encoder import ViTLayer

# One CJK ideograph, kana or hangul syllable is a word of its own: most of these scripts write no spaces.
_ALONE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


def words(text: str, limit: int) -> list[str]:
    """The words of a text in any script, normalised (NFKC, case folded), at most `limit`."""
    found: list[str] = []
    goes_on = False
    for char in unicodedata.normalize("NFKC", text[: limit * 64]).casefold():
        if _ALONE.match(char):
            found.append(char)
            goes_on = False
        elif char.isalnum() or (goes_on and unicodedata.category(char).startswith("M")):  # a vowel's mark: Hindi, Thai
            if goes_on:
                found[-1] += char
            else:
                found.append(char)
            goes_on = True
        else:
            goes_on = False
    return found[:limit]


def word_pieces(word: str, buckets: int) -> list[int]:
    """Hash buckets of the whole word and of its letter trigrams (fastText), so that "cups" is close to "cup"."""
    marked = f"<{word}>"
    pieces = [marked, *(marked[i : i + 3] for i in range(len(marked) - 2))] if len(word) > 1 else [marked]
    return [zlib.crc32(piece.encode("utf-8", "surrogatepass")) % buckets for piece in pieces[:24]]


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """What is computed once for each description."""

    tokens: Tensor
    """P x words x dim."""
    valid: Tensor
    """P x words, bool: which tokens are words, not padding."""
    query: Tensor
    """P x text_dim: compared with the image's `semantic` map."""
    criteria: Tensor
    """P x words x text_dim: what each word asks of that map …"""
    demand: Tensor
    """P x words: … how much of it …"""
    relevance: Tensor
    """P x words, 0 to 1: … and how much it matters; 0 for padding."""
    given: Tensor
    """P, bool: False where the text is empty (segment whatever the box shows)."""

    @classmethod
    def join(cls, parts: Sequence[TextFeatures]) -> TextFeatures:
        """The features of several texts in one, padded to the longest."""
        if len(parts) == 1:
            return parts[0]
        each = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        whole = {name: torch.cat(each.pop(name)) for name in ("query", "given")}
        of_words = {
            n: pad_sequence([text for t in tensors for text in t], batch_first=True) for n, tensors in each.items()
        }
        return cls(**whole, **of_words)


class TextEncoder(nn.Module):
    """Descriptions to `TextFeatures`: averaged word pieces, positions, transformer layers; the words and their mean."""

    def __init__(
        self, buckets: int, piece_dim: int, dim: int, layers: int, heads: int, text_dim: int, max_words: int
    ) -> None:
        super().__init__()
        self.max_words = max_words
        self.pieces = nn.EmbeddingBag(buckets, piece_dim, mode="mean")
        self.project = nn.Linear(piece_dim, dim)
        self.position = nn.Parameter(torch.randn(max_words, dim) * 0.02)
        self.layers = nn.ModuleList(ViTLayer(dim, heads, 2) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.to_query = Mlp(dim, dim, text_dim)
        self.to_criteria = Mlp(dim, dim, text_dim + 2)
        nn.init.constant_(self.to_criteria[-1].bias[-1:], -3.0)  # single words hardly matter at first

    def forward(self, texts: Sequence[str]) -> TextFeatures:
        split = [words(text, self.max_words) for text in texts]
        length = max(1, *(len(s) for s in split)) if split else 1
        device = self.position.device
        pieces: list[int] = []
        offsets: list[int] = []
        for text in split:
            for i in range(length):
                offsets.append(len(pieces))
                if i < len(text):
                    pieces += word_pieces(text[i], self.pieces.num_embeddings)
        counts = torch.tensor([len(s) for s in split], device=device)
        valid = torch.arange(length, device=device) < counts[:, None]
        embedded = self.pieces(
            torch.tensor(pieces, dtype=torch.long, device=device), torch.tensor(offsets, device=device)
        )
        x = self.project(embedded).unflatten(0, (len(split), length)) + self.position[:length]
        bias = torch.where(valid, 0.0, -1e4)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        x = self.norm(x)
        weight = valid.to(x.dtype).unsqueeze(-1)
        pooled = (x * weight).sum(1) / weight.sum(1).clamp(min=1)
        asked = self.to_criteria(x)
        return TextFeatures(
            tokens=x,
            valid=valid,
            query=self.to_query(pooled),
            criteria=asked[..., :-2],
            demand=asked[..., -2],
            relevance=asked[..., -1].sigmoid() * valid,
            given=counts > 0,
        )
