"""Which scenes are for training, which for testing: a scene follows from its split and its seed alone."""

from __future__ import annotations

import enum
import zlib

import numpy as np


class Split(enum.Enum):
    """Training and validation never hold what the others test."""

    TRAIN = "train"
    VAL = "val"
    """Other scenes of the same making."""
    TEST = "test"
    """The kinds of training; colours of them and table tops that training never shows."""
    NOVEL = "novel"
    """As TEST, and one or two things in each scene are of kinds that training never shows."""

    @property
    def known(self) -> bool:
        """Whether only what training shows may occur."""
        return self in (Split.TRAIN, Split.VAL)

    def generator(self, seed: int, purpose: str) -> np.random.Generator:
        """Random numbers for one purpose in one scene: none of them depends on how many another purpose draws."""
        return np.random.default_rng([zlib.crc32(self.value.encode()), seed, zlib.crc32(purpose.encode())])
