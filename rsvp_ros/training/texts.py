"""What things are called: descriptions as stage 1 writes them (a noun and attributes), and words that name nothing.

Kinds and colours have the same names in drawn and in simulated scenes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from rsvp_ros.geometry import Box
from rsvp_ros.tabletop import kinds as tabletop
from rsvp_ros.tabletop.descriptions import TELLING_COLORS, confusable, could_be
from rsvp_ros.tabletop.language.en import with_article
from rsvp_ros.tabletop.view import ObjectView
from rsvp_ros.training.drawn_scenes import COLORS, KINDS, Thing, is_held_out

NOUNS: dict[str, tuple[str, ...]] = {
    **{kind: names[:-1] for kind, names in KINDS.items()},
    "block": ("block", "cube", "toy block"),
    "can": ("can", "tin can", "tin"),
    "phone": ("phone", "mobile phone", "smartphone"),
    "teapot": ("teapot", "tea pot"),
    "pan": ("pan", "frying pan"),
    "spanner": ("spanner", "wrench"),
    "tape": ("tape", "roll of tape", "adhesive tape"),
    "remote": ("remote control", "remote"),
    "battery": ("battery",),
    "orange": ("orange", "orange fruit"),
    "pear": ("pear",),
    "lemon": ("lemon",),
    "carrot": ("carrot",),
    "candle": ("candle",),
    "sponge": ("sponge",),
}
"""English nouns of each kind, drawn or simulated; the first is the usual one."""

SHADES: dict[str, tuple[str, ...]] = {
    **{color: names[3][:-1] for color, names in COLORS.items()},
    "silver": ("silver", "metal", "steel"),
}
"""English names of each colour."""

CONFUSABLE = {"gray": ("silver",), "silver": ("gray", "white"), "white": ("silver",)}
"""Colours that cannot be called wrong when used for each other."""

FOREIGN_SHARE = 0.3
"""Share of the descriptions that are in another language than English, if they can be."""
CONFUSED_TIMES = 3
"""How many other kinds and other colours are drawn for each pair in `confused_pairs`."""
ALIKE_SHARE = 0.5
"""Share of the absent kinds that look like a thing that is there."""

CHINESE_NOUNS: dict[str, str] = {
    **{kind: names[-1] for kind, names in KINDS.items()},
    "teapot": "茶壶", "pan": "平底锅", "spanner": "扳手", "tape": "胶带", "remote": "遥控器", "battery": "电池",
    "orange": "橙子", "pear": "梨", "lemon": "柠檬", "carrot": "胡萝卜", "candle": "蜡烛", "sponge": "海绵",
}  # fmt: skip
CHINESE_SHADES: dict[str, str] = {**{color: names[3][-1] for color, names in COLORS.items()}, "silver": "银色"}


def _one_of(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 or rng.random() < 0.7 else names[1 + rng.integers(len(names) - 1)]


def noun(rng: np.random.Generator, kind: str) -> str:
    """A kind's name in English or (one in eight) Chinese."""
    if rng.random() < 0.125:
        return CHINESE_NOUNS[kind]
    return _one_of(rng, NOUNS[kind])


def pair_text(rng: np.random.Generator, kind: str, color: str, attributes: tuple[str, ...] = ()) -> str:
    """A description by colour and kind, in English or (one in eight) Chinese.

    `attributes`: one of them may be added.
    """
    if rng.random() < 0.125:
        name, shade = CHINESE_NOUNS[kind], CHINESE_SHADES[color]
        return (f"{shade}的{name}", f"{name}, {shade}", f"{shade}{name}")[rng.integers(3)]
    name, shade = _one_of(rng, NOUNS[kind]), _one_of(rng, SHADES[color])
    if attributes and rng.random() < 0.4:
        also = attributes[rng.integers(len(attributes))]
        forms = (f"{name}, {shade}, {also}", f"{shade} {also} {name}", f"the {also} {shade} {name}")
        return forms[rng.integers(len(forms))]
    plain = f"{shade} {name}"
    forms = (plain, f"the {plain}", f"{name}, {shade}", with_article(plain), f"{name} ({shade})")
    return forms[rng.integers(len(forms))]


def kind_text(rng: np.random.Generator, kind: str) -> str:
    """A description by the kind alone."""
    name = noun(rng, kind)
    return name if rng.random() < 0.6 else f"the {name}"


def color_text(rng: np.random.Generator, color: str) -> str:
    """A description by the colour alone."""
    shade = _one_of(rng, SHADES[color])
    return (f"the {shade} one", f"the {shade} thing", f"{shade} object", f"thing, {shade}")[rng.integers(4)]


def attribute_text(rng: np.random.Generator, kind: str, attribute: str) -> str:
    """A description by the kind and an attribute ("striped", "wooden")."""
    name = _one_of(rng, NOUNS[kind])
    return (f"{name}, {attribute}", f"the {attribute} {name}", f"{attribute} {name}")[rng.integers(3)]


def simulated(kind: str) -> str:
    """The name of a kind in the tabletop world, which has no lamps."""
    return "cube" if kind == "block" else kind


def imagined_view(kind: str, color: str, pattern: str = "plain") -> ObjectView:
    """A thing of the tabletop world as it could lie there, for what is said of its looks alone."""
    kind = simulated(kind)
    material, anywhere = tabletop.KINDS[kind].materials[0], Box(0, 0, 1, 1)
    return ObjectView(0, kind, color, pattern, material, (0.1, 0.1, 0.1), np.eye(4), True, anywhere, 0, 1.0, 1.0)


def lookalikes(kind: str, among: Collection[str]) -> list[str]:
    """The other kinds `among` some that look like a kind; all of those if none does."""
    like = could_be(simulated(kind))
    return [other for other in among if other != kind and simulated(other) in like] or list(among)


def is_never_shown(kind: str, color: str) -> bool:
    """Whether drawn or simulated training scenes hold back this pair, to measure how the network fares with it."""
    name = simulated(kind)
    held_out = name in tabletop.KINDS and (tabletop.KINDS[name].held_out or tabletop.is_held_out_pair(name, color))
    return held_out or is_held_out(kind, color)


def colors_said(thing: Thing) -> set[str]:
    """All colours that it may be called: a description with one of these is not surely wrong."""
    near = {color for color in SHADES if confusable(thing.color, color)}
    return {thing.color, *thing.perhaps, *near}


def confused_pairs(
    rng: np.random.Generator, pairs: Sequence[tuple[str, str]], perhaps: Collection[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """For each pair of kind and colour, the kind in some other colours and some other kinds in the colour.

    None of `pairs`, none that some would say (`perhaps`), and none that training never shows: what is only ever heard
    of as absent would be learnt as absent.
    """
    kinds, shades = list(NOUNS), list(SHADES)
    found: set[tuple[str, str]] = set()
    for kind, color in [*pairs] * CONFUSED_TIMES:
        others = lookalikes(kind, kinds) if rng.random() < ALIKE_SHARE else kinds
        other_kind, other_color = others[rng.integers(len(others))], shades[rng.integers(len(shades))]
        found |= {(other_kind, color), (kind, other_color)}
    likely = {(kind, near) for kind, color in pairs for near in CONFUSABLE.get(color, ())}
    return sorted(pair for pair in found - set(pairs) - likely - set(perhaps) if not is_never_shown(*pair))


def related(rng: np.random.Generator, text: str, target: Thing, others: Sequence[Thing]) -> str:
    """A description with the thing's place relative to another one, as an MLLM may add it."""
    neighbours = [t for t in others if t.kind and (t.kind, t.color) != (target.kind, target.color)]
    if not neighbours:
        return text
    other = neighbours[rng.integers(len(neighbours))]
    dx, dy = np.subtract(target.box.center, other.box.center)
    if abs(dx) > 1.5 * abs(dy):
        side = "left" if dx < 0 else "right"
        place = (f"{side} of", f"to the {side} of")[rng.integers(2)]
    elif abs(dy) > 1.5 * abs(dx):
        place = "behind" if dy < 0 else "in front of"
    else:
        return text
    name = _one_of(rng, NOUNS[other.kind])
    return f"{text}, {place} the {name if rng.random() < 0.6 else f'{_one_of(rng, SHADES[other.color])} {name}'}"


def description(rng: np.random.Generator, target: Thing, others: Sequence[Thing]) -> str | None:
    """A text that fits the target and none of the others; None if none was found.

    The target may be a thing that is not in the image: what is absent must be described in the same words and forms as
    what is there, or the form itself would tell which of the two it is.
    """
    twins = [t for t in others if t.kind == target.kind and target.color in colors_said(t)]
    if target.foreign and rng.random() < FOREIGN_SHARE:
        return None if twins else target.foreign[rng.integers(len(target.foreign))]
    if target.description and rng.random() < 0.3:
        return None if twins else target.description
    if twins:
        own = [a for a in target.attributes if all(a not in t.attributes for t in twins)]
        if not own:
            return None
        name, shade = _one_of(rng, NOUNS[target.kind]), _one_of(rng, SHADES[target.color])
        also = own[rng.integers(len(own))]
        return (f"{name}, {shade}, {also}", f"the {also} {shade} {name}", f"{also} {name}, {shade}")[rng.integers(3)]
    form = rng.random()
    # Without a colour, the network must recognise the kind itself
    if form < 0.4 and all(t.kind != target.kind for t in others):
        return kind_text(rng, target.kind)
    if form < 0.5 and target.color in TELLING_COLORS and all(target.color not in colors_said(t) for t in others):
        return color_text(rng, target.color)
    if form < 0.65 and target.attributes:
        also = target.attributes[rng.integers(len(target.attributes))]
        if all(t.kind != target.kind or also not in t.attributes for t in others):
            return attribute_text(rng, target.kind, also)
    return pair_text(rng, target.kind, target.color, target.attributes)


UNNAMED_NOUNS = (
    "airplane", "arm", "backpack", "bag", "bear", "bed", "bench", "bicycle", "bird", "boat", "boots", "bread",
    "broom", "bucket", "bus", "butterfly", "cabinet", "camera", "car", "chair", "cheese", "child", "clock", "cloud",
    "coat", "cow", "crane", "curtain", "dog", "door", "dress", "drum", "duck", "ear", "elephant", "engine",
    "eye", "fence", "finger", "fish", "flag", "flower", "foot", "fox", "frog", "glove", "goat", "grapes", "grass",
    "guitar", "hair", "hand", "handbag", "hat", "helmet", "horse", "house", "jacket", "jar", "kettle", "kite", "knee",
    "ladder", "leaf", "leg", "lion", "lizard", "lock", "microwave", "monkey", "moon", "motorcycle", "mouth", "necklace",
    "newspaper", "nose", "oven", "owl", "paint", "parrot", "piano", "pig", "pineapple", "pizza", "potato", "rabbit",
    "rake", "ribbon", "ring", "rock", "roof", "rope", "sail", "sand", "sandwich", "saw", "scarf", "sheep", "shelf",
    "ship", "shirt", "shovel", "sign", "skateboard", "skirt", "snail", "snake", "sofa", "spider", "squirrel", "stairs",
    "star", "statue", "stone", "stool", "street", "suitcase", "swan", "tail", "tent", "tie", "tiger",
    "tire", "toilet", "tomato", "tongs", "tower", "tractor", "train", "tree", "truck", "trumpet", "turtle",
    "umbrella", "vase", "violin", "wall", "wallet", "watch", "wheel", "whistle", "window", "wing", "wolf", "zebra",
)  # fmt: skip
"""Common nouns for what neither world has. Not "cat" and "giraffe": with these, tests see whether the network goes by
the box for any other noun, too."""
UNNAMED_SHARE = 0.5
"""Share of the unknown words that are one of these; the others are made up."""

_SYLLABLES = ("ba", "der", "il", "mon", "tra", "ush", "ke", "vo", "pli", "ang", "sor", "wi", "che", "gu", "ent", "fla")
_KNOWN = frozenset(word for names in NOUNS.values() for name in names for word in name.split())


def unknown_text(rng: np.random.Generator, color: str, always: bool = False, made_up: bool = False) -> str:
    """A description with a noun that names nothing known; it may say the `color`, or does `always`, unless that is
    empty.

    `made_up`: never with a noun that exists, for images that may show what it names.
    """
    if not made_up and rng.random() < UNNAMED_SHARE:
        word = UNNAMED_NOUNS[rng.integers(len(UNNAMED_NOUNS))]
    elif rng.random() < 0.25:
        word = "".join(chr(c) for c in rng.integers(0x4E00, 0x8C00, int(rng.integers(1, 4))))
    else:
        word = "".join(_SYLLABLES[i] for i in rng.integers(0, len(_SYLLABLES), int(rng.integers(1, 4))))
    if word in _KNOWN:
        word += "ush"
    colored = (f"{color} {word}", f"{word}, {color}", f"{word} with a {color} {_SYLLABLES[0]}{word}")
    forms = colored if always else (word, f"the {word}", *(colored if color else ()))
    return forms[rng.integers(len(forms))]
