"""Names to choose from: the first is the thing's, none of the others can be, and nothing but the words tells which."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rsvp_ros.geometry import Box
from rsvp_ros.tabletop.instruction import LANGUAGES
from rsvp_ros.tabletop.kinds import KINDS, is_held_out_pair
from rsvp_ros.textures import TextureBank
from rsvp_ros.training.dataset import CELL, NAMED, collate
from rsvp_ros.training.drawn_scenes import Thing, household_scene
from rsvp_ros.training.namings import COLOR_SHARE, NAMES, foreign_name, names_of
from rsvp_ros.training.prompts import sample_prompts
from rsvp_ros.training.texts import CHINESE_NOUNS, CHINESE_SHADES, NOUNS, SHADES, colors_said

SOMEWHERE = Box(0, 0, 9, 9)


def thing(kind: str, color: str, perhaps: tuple[str, ...] = ()) -> Thing:
    return Thing(1, kind, color, SOMEWHERE, 81, perhaps=perhaps)


def many(of: Thing, count: int = 300) -> list[tuple[str, ...]]:
    return [names_of(np.random.default_rng(seed), of) for seed in range(count)]


def kinds_in(name: str) -> set[str]:
    """The kinds whose nouns are all in a name, the longest only: a "paper cup" is no "cup"."""
    padded = f" {name.replace(',', ' ').replace('(', ' ')} "
    found = {noun: kind for kind, nouns in NOUNS.items() for noun in nouns if f" {noun} " in padded}
    found |= {noun: kind for kind, noun in CHINESE_NOUNS.items() if noun in name}
    return {kind for noun, kind in found.items() if not any(noun in other for other in found if other != noun)}


@pytest.mark.parametrize(("kind", "color"), [("mug", "red"), ("ball", "blue"), ("knife", "silver"), ("lamp", "green")])
def test_only_the_first_name_fits(kind, color):
    of = thing(kind, color)
    forms = Counter()
    for names in many(of):
        assert len(names) == NAMES
        assert names[0] not in names[1:]
        known = [kinds_in(name) for name in names]
        if not all(known):  # Spanish or German
            forms["foreign"] += 1
            continue
        assert kind in known[0]
        same = [kind in of_name for of_name in known[1:]]
        assert all(same) or not any(same)  # other kinds, or other colours
        forms["colors" if all(same) else "kinds"] += 1
    assert forms["colors"] > 30 and forms["kinds"] > 100
    assert (forms["foreign"] > 20) == (kind != "lamp")  # which is only drawn


def test_a_color_that_some_would_say_is_no_rival():
    of = thing("cup", "orange", perhaps=("red", "yellow"))
    shades = {word: color for color, words in SHADES.items() for word in words}
    shades |= {word: color for color, word in CHINESE_SHADES.items()}
    for names in many(of):
        colors = {color for name in names[1:] for word, color in shades.items() if word in name}
        if colors - {"orange"}:
            assert not colors & (colors_said(of) - {"orange"})
        foreign = {
            foreign_name(language, "cup", color) for language in ("es", "de", "zh") for color in ("red", "yellow")
        }
        assert not foreign & set(names[1:])


def test_what_could_have_any_color_has_no_rival():
    names = many(thing("cup", "orange", perhaps=tuple(SHADES)))
    without = sum(not some for some in names) / len(names)
    assert abs(without - COLOR_SHARE) < 0.08 and all(len(some) in (0, NAMES) for some in names)


def test_what_is_held_out_is_not_even_named_wrong():
    """A pair that is only ever heard of as wrong would be learnt as wrong."""
    held = [(kind, color) for kind in KINDS for color in KINDS[kind].colors if is_held_out_pair(kind, color)]
    said = {foreign_name(language, *pair) for pair in held for language in LANGUAGES if language != "en"} - {None}
    shown = [(kind, color) for kind in ("mug", "fork", "book") for color in ("red", "green", "blue")]
    names = {name for pair in shown if pair not in held for some in many(thing(*pair)) for name in some}
    assert said and not names & said


def test_foreign_names():
    assert foreign_name("es", "mug", "red") == "taza roja"
    assert foreign_name("de", "mug", "red") == "rote Tasse"
    assert foreign_name("zh", "block", "blue") is not None
    assert foreign_name("de", "lamp", "red") is None


def test_named_cells_show_the_thing():
    bank = TextureBank(np.random.default_rng(0), 20)
    rng = np.random.default_rng(1)
    scenes = [household_scene(rng, bank, 96, 128) for _ in range(4)]
    scenes[3] = type(scenes[3])(scenes[3].image, scenes[3].ids, (Thing(1, "", "", SOMEWHERE, 81),), ())
    batch = collate(
        rng, [(scene, sample_prompts(rng, scene, 3)) for scene in scenes[:3]] + [(scenes[3], [])], (96, 128), 32
    )
    assert len(batch.names) == NAMES * len(batch.named) > 0
    assert max(Counter(batch.named[:, 0].tolist()).values()) <= NAMED
    for (image, row, column), first in zip(batch.named.tolist(), batch.names[::NAMES], strict=True):
        assert image < 3  # nothing in the last has a kind
        id_ = scenes[image].ids[row * CELL + CELL // 2, column * CELL + CELL // 2]
        (shown,) = (t for t in scenes[image].things if t.id == id_)
        known = kinds_in(first)
        assert not known or shown.kind in known
