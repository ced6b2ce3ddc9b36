"""An instruction about a view, its answer and the reasoning that leads there."""

from __future__ import annotations

import enum
from dataclasses import dataclass

LANGUAGES = ("en", "es", "de", "zh")


class InstructionKind(enum.Enum):
    """What must be reasoned about."""

    ATTRIBUTE = "attribute"
    """"the blue mug"."""
    USE = "use"
    """"something to cut the rope with"."""
    RELATION = "relation"
    """"what is to the left of the blue bottle"."""
    ORDINAL = "ordinal"
    """"the third object from the left"."""
    SIZE = "size"
    """"the largest book"."""
    NEGATION = "negation"
    """"a tool that is not red"."""
    ALL = "all"
    """"all the fruit": several targets."""
    TWO_STEP = "two-step"
    """"what lies next to what you drink from"."""
    HAZARD = "hazard"
    """"what could roll off the table"."""


@dataclass(frozen=True)
class ChainStep:
    """One step of the chain of thought, named like the MCoT's (RSVP sec. 3.2)."""

    name: str
    """"target", "scene", "presence", "region", "reason"."""
    text: str


@dataclass(frozen=True)
class Instruction:
    """What is said and what it means."""

    text: str
    language: str
    """One of LANGUAGES."""
    kind: InstructionKind
    targets: tuple[int, ...]
    """Ids of the objects meant, ascending; empty: nothing in the view is meant."""
    names: tuple[str, ...]
    """For each target (or for what is sought, if it is absent): an English noun, as stage 2 reads it ("mug")."""
    attributes: tuple[tuple[str, ...], ...]
    """For each target: what tells it from others, in English ("blue", "striped")."""
    chain: tuple[ChainStep, ...]
    """In the instruction's language."""
    novel: tuple[str, ...] = ()
    """What in it never occurs in the training split: "kind", "pair" (a colour of a kind), "words"."""

    @property
    def absent(self) -> bool:
        return not self.targets
