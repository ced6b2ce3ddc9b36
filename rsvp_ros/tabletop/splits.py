"""Which scenes are for training and which for testing: a scene's split and seed determine it completely."""

from __future__ import annotations

import enum
import zlib

import numpy as np


class Split(enum.Enum):
    """Training and validation never show what the other splits test."""

    TRAIN = "train"
    VAL = "val"
    """Other scenes, made in the same way."""
    TEST = "test"
    """The kinds of training, some in colours and on table tops that training never shows."""
    NOVEL = "novel"
    """Like TEST, but one or two things in each scene are of kinds that training never shows."""

    @property
    def known(self) -> bool:
        """Whether only what training shows may occur."""
        return self in (Split.TRAIN, Split.VAL)

    def generator(self, seed: int, purpose: str) -> np.random.Generator:
        """Random numbers for one purpose in one scene: they do not depend on how many any other purpose draws."""
        return np.random.default_rng([zlib.crc32(self.value.encode()), seed, zlib.crc32(purpose.encode())])
