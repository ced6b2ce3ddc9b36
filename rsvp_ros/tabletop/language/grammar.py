"""What the four languages share: choosing among paraphrases, filling frames, writing the chain of thought.

In the tables of a language, "~" before an entry marks words that training never says; what only training says is in
`PARAPHRASES` of `training_XX.py`. In a frame, `{x}` is what is meant, `{place}` where it is, `[is|are]` agrees with its
number.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rsvp_ros.geometry import RegionGrid
from rsvp_ros.tabletop.descriptions import Description
from rsvp_ros.tabletop.instruction import ChainStep
from rsvp_ros.tabletop.kinds import CATEGORIES, FRAGILE, KINDS, ROLLS_LYING, ROUND, SHARP, USES
from rsvp_ros.tabletop.layout import Layout
from rsvp_ros.tabletop.queries import (
    Answer,
    Beside,
    Between,
    Every,
    Except,
    Extreme,
    NearestEdge,
    NextTo,
    Only,
    Ordinal,
    Query,
)
from rsvp_ros.tabletop.view import ObjectView

GRID = 9
"""Bands of the region grid in each direction, as the chain names them."""


@dataclass(frozen=True)
class Phrase:
    """A noun phrase and its number."""

    text: str
    plural: bool = False


@dataclass(frozen=True)
class ChainWords:
    """What a language's chains are made of."""

    places: tuple[str, ...]
    """Nine: top left, top, top right, left, middle, right, bottom left, bottom, bottom right."""
    thing: str
    """One thing of the scene, with {n}, {name}, {place}."""
    anchor: str
    among: str
    """What is chosen among, with {ids}: as a set …"""
    order: str
    """… or in the order in which it is counted."""
    yes: str
    no: str
    region: str
    """With {n}, {rows}, {columns}."""
    no_region: str
    fits: str
    """The reason, with {named} and {what}: for one thing …"""
    fit: str
    """… and for several."""
    nothing: str
    """Why nothing is meant, with {what}."""
    comma: str = ", "
    semicolon: str = "; "
    colon: str = ": "
    named: str = "{n} {name}"


class Grammar(ABC):
    """Says a query in one language. Use one object per text: `novel` tells whether it used held-out words."""

    language: str
    chain_words: ChainWords
    GIVE: tuple[str, ...]
    """Frames for whatever is sought …"""
    WHERE: tuple[str, ...]
    """… for what is known to be there …"""
    ANY: tuple[str, ...]
    """… for "something …"."""
    PLACE: tuple[str, ...]
    """Frames with only {place}, which say nothing about the thing."""
    NEEDS: ClassVar[dict[str, tuple[str, ...]]]
    """For each use: sentences that only tell what somebody wants to do."""
    DANGERS: ClassVar[dict[str, tuple[str, ...]]]
    """For each hazard and "edge": questions about one thing …"""
    ALL_DANGERS: ClassVar[dict[str, tuple[str, ...]]]
    """… and about all."""
    ALL: tuple[str, ...]
    """Frames for several things."""
    PARAPHRASES: ClassVar[Mapping[str, tuple[str, ...]]]
    """What only training says in addition: keyed by one entry of each table, beside which all of them are offered."""

    def __init__(self, rng: np.random.Generator | None, is_training: bool, count: int = 1) -> None:
        """
        Args:
            rng: chooses among the paraphrases; None: always the first one.
            is_training: without held-out words.
            count: how many things are meant.
        """
        self.rng = rng
        self.is_training = is_training
        self.count = count
        self.novel = False
        self._picked: dict[tuple[str, ...], str] = {}

    @abstractmethod
    def refer(self, query: Query, case: str = "") -> Phrase:
        """The noun phrase for what a query asks for; `case` names its form in the language's own terms."""

    @abstractmethod
    def place(self, query: Beside | NextTo | Between) -> str:
        """Where it is: "left of the blue bottle"."""

    @abstractmethod
    def name(self, thing: ObjectView) -> str:
        """What a thing is called in a list: colour, pattern, kind."""

    @abstractmethod
    def noun(self, kind: str) -> str:
        """A kind's first noun, singular."""

    def is_plural_only(self, kind: str) -> bool:
        """Whether a kind's first noun has no singular: "scissors"."""
        return False

    @classmethod
    def knows(cls, query: Query) -> bool:
        """Whether the language has a natural way to say it."""
        return True

    def pick(self, options: Sequence[str]) -> str:
        """One of some paraphrases."""
        if self.is_training:
            known = (o for o in options if not o.startswith("~"))
            options = [said for o in known for said in (o, *self.PARAPHRASES.get(o, ()))]
        choice = options[0 if self.rng is None else int(self.rng.integers(len(options)))]
        self.novel |= choice.startswith("~")
        return choice.removeprefix("~")

    def pick_once(self, options: tuple[str, ...]) -> str:
        """Like `pick`, but the same throughout the text: "mug" and "coffee cup" would mean two different things."""
        if options not in self._picked:
            self._picked[options] = self.pick(options)
        return self._picked[options]

    def say(self, query: Query) -> str:
        """A whole instruction."""
        return self.finish(self.fill(self.pick(self.frames(query)), query))

    def frames(self, query: Query) -> tuple[str, ...]:
        """The frames that can carry a query."""
        if isinstance(query, NearestEdge):
            return self.DANGERS["edge"]
        if isinstance(query, Except):
            return self.ALL
        if isinstance(query, Every):
            hazard = query.what.hazard
            return self.ALL_DANGERS[hazard] if hazard else self.ALL
        if isinstance(query, Only):
            what = query.what
            if what.hazard:
                return self.DANGERS[what.hazard]
            if what.use:
                plain = Description(use=what.use) == what
                return (*self.GIVE, *self.ANY, *(self.NEEDS[what.use] * 3 if plain else ()))
        if isinstance(query, Beside | NextTo | Between):
            if query.what.use:
                return (*self.GIVE, *self.ANY)
            if query.what.is_any:
                return (*self.GIVE, *self.WHERE, *self.PLACE, *self.PLACE)
        return (*self.GIVE, *self.WHERE)

    def fill(self, frame: str, query: Query) -> str:
        """A frame with its slots filled."""
        plural = False

        def slot(match: re.Match[str]) -> str:
            nonlocal plural
            if match[1] == "place":
                return self.place(query)
            phrase = self.refer(query, match[2] or "")
            plural = phrase.plural
            return phrase.text

        filled = re.sub(r"\{(\w+)(?::(\w+))?\}", slot, frame)
        return re.sub(r"\[([^|\]]*)\|([^\]]*)\]", lambda m: m[2 if plural else 1], filled)

    def finish(self, text: str) -> str:
        """The first letter as a capital; a language may add its contractions."""
        return re.sub(r"^(\W*)(\w)", lambda m: m[1] + m[2].upper(), text, count=1)

    def chain(self, query: Query, layout: Layout, found: Answer) -> tuple[ChainStep, ...]:
        """The chain of thought to an answer: every step is looked up in the picture or copied from the one before."""
        words = self.chain_words
        order = reading_order(layout)
        number = {o.id: n for n, o in enumerate(order, 1)}
        grid = RegionGrid(GRID, GRID, layout.view.camera.width, layout.view.camera.height)

        def numbers(ids: Iterable[int]) -> str:
            return words.comma.join(str(number[i]) for i in ids)

        phrase = self.refer(query)
        goal = self.finish_phrase(phrase.text)
        members = self.members(query)
        listed = words.comma.join(self.noun(kind) for kind in members)
        target = goal + (words.colon + listed if members else "")
        scene = words.semicolon.join(
            words.thing.format(n=number[o.id], name=self.name(o), place=words.places[coarse_place(layout, o)])
            for o in order
        )
        if found.anchors:
            scene += words.semicolon + words.anchor.format(ids=numbers(found.anchors))
        if found.candidates and isinstance(query, Ordinal | Extreme):
            chosen = words.order if isinstance(query, Ordinal) else words.among
            scene += words.semicolon + chosen.format(ids=numbers(found.candidates))
        if not found.ids:
            steps = (words.no, words.no_region, words.nothing.format(what=goal))
        else:
            ids = sorted(found.ids, key=number.__getitem__)
            regions = []
            for id_ in ids:
                rows, columns = grid.bands(layout.view.object(id_).box)
                regions.append(words.region.format(n=number[id_], rows=_span(rows), columns=_span(columns)))
            named = words.comma.join(
                words.named.format(n=number[i], name=self.name(layout.view.object(i))) for i in ids
            )
            several = phrase.plural or len(ids) > 1 or self.is_plural_only(layout.view.object(ids[0]).kind)
            fits = words.fit if several else words.fits
            steps = (
                words.yes.format(ids=numbers(ids)),
                words.semicolon.join(regions),
                fits.format(named=named, what=goal),
            )
        texts = (target, scene, *steps)
        return tuple(
            ChainStep(n, t) for n, t in zip(("target", "scene", "presence", "region", "reason"), texts, strict=True)
        )

    def finish_phrase(self, text: str) -> str:
        """Contractions only."""
        return text

    def members(self, query: Query) -> tuple[str, ...]:
        """The kinds that a query's group stands for; in training without those held out."""
        what = getattr(query, "what", None)
        kinds: tuple[str, ...] = ()
        if what is not None and what.use:
            kinds = USES[what.use].members
        elif what is not None and what.category:
            kinds = CATEGORIES[what.category].members
        elif what is not None and what.hazard:
            groups = {"rolls": (ROUND, ROLLS_LYING), "breaks": (FRAGILE,), "cuts": (SHARP,)}[what.hazard]
            kinds = tuple(kind for group in groups for kind in group.members)
        return tuple(k for k in kinds if not (self.is_training and KINDS[k].held_out))


def reading_order(layout: Layout) -> list[ObjectView]:
    """The things that a person would name, in three rows from the top, each from the left."""
    height = layout.view.camera.height
    return sorted(layout.things, key=lambda o: (int(o.box.center[1] * 3 / height), o.box.center[0]))


def coarse_place(layout: Layout, thing: ObjectView) -> int:
    """Which of the image's 3 x 3 parts a thing's middle is in, 0 to 8."""
    x, y = thing.box.center
    return int(y * 3 / layout.view.camera.height) * 3 + int(x * 3 / layout.view.camera.width)


def _span(bands: tuple[int, ...]) -> str:
    return str(bands[0]) if len(bands) == 1 else f"{bands[0]}-{bands[-1]}"
