"""What a thing in a training image is called, among names of what it is not: of other kinds, or in other colours.

Presence compares a text with an image, never texts with each other, so a network can find a red apple a good enough red
ball. Choosing the name of each thing, however small, teaches it what tells kinds apart, in each language.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection

import numpy as np

from rsvp_ros.tabletop.instruction import LANGUAGES
from rsvp_ros.tabletop.kinds import COLORS, KINDS
from rsvp_ros.tabletop.language import GRAMMARS
from rsvp_ros.training.drawn_scenes import Thing
from rsvp_ros.training.texts import (
    NOUNS,
    SHADES,
    colors_said,
    imagined_view,
    is_never_shown,
    kind_text,
    lookalikes,
    pair_text,
    simulated,
)

NAMES = 10
"""Names that are chosen from."""
KIND_ALONE_SHARE, COLOR_SHARE = 0.35, 0.15
"""Shares of the choices among kinds without a colour, and among colours of the same kind; the others are among kinds in
the same colour. Colours are soon known; kinds are what takes long to tell apart."""
FOREIGN_SHARE = 0.5
"""Share of the choices that are in another language than English, if there is a colour."""

_FOREIGN = tuple(language for language in LANGUAGES if language != "en")


def names_of(rng: np.random.Generator, thing: Thing) -> tuple[str, ...]:
    """NAMES names, of which only the first is right, all in the same form and language; where a thing has fewer rivals,
    they are repeated. None at all for a thing without a kind, or without a rival."""
    if not thing.kind:
        return ()
    way = rng.random()
    if way < COLOR_SHARE:
        said = colors_said(thing)
        rivals = [(thing.kind, color) for color in _shuffled(rng, SHADES) if color not in said]
    else:
        kinds = _shuffled(rng, NOUNS.keys() - {thing.kind})
        alike = lookalikes(thing.kind, kinds)[: NAMES // 2]
        rivals = [(kind, thing.color) for kind in dict.fromkeys((*alike, *kinds))]
    rivals = [pair for pair in rivals if not is_never_shown(*pair)]
    if not rivals:
        return ()
    pairs = [(thing.kind, thing.color), *itertools.islice(itertools.cycle(rivals), NAMES - 1)]
    form = int(rng.integers(1 << 32))
    if way > 1 - KIND_ALONE_SHARE:
        return tuple(kind_text(np.random.default_rng(form), kind) for kind, _ in pairs)
    if rng.random() < FOREIGN_SHARE:
        language = _FOREIGN[rng.integers(len(_FOREIGN))]
        names = [foreign_name(language, *pair) for pair in pairs]
        if all(names):
            return tuple(names)
    return tuple(pair_text(np.random.default_rng(form), *pair) for pair in pairs)


def _shuffled(rng: np.random.Generator, names: Collection[str]) -> list[str]:
    return [str(name) for name in rng.permutation(sorted(names))]


@functools.cache
def foreign_name(language: str, kind: str, color: str) -> str | None:
    """A plain thing's kind and colour, as instructions name it; None if the tabletop world has no such thing."""
    if simulated(kind) not in KINDS or color not in COLORS:
        return None
    return GRAMMARS[language](None, True).name(imagined_view(kind, color))
