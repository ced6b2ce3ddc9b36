"""What things are called: descriptions as stage 1 writes them (a noun and attributes), and words that name nothing.

A kind and a colour are called the same in drawn and in simulated scenes.
"""

from __future__ import annotations

import numpy as np

from rsvp_ros.training.drawn_scenes import COLORS, KINDS, Thing

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

CHINESE_NOUNS: dict[str, str] = {
    **{kind: names[-1] for kind, names in KINDS.items()},
    "teapot": "茶壶", "pan": "平底锅", "spanner": "扳手", "tape": "胶带", "remote": "遥控器", "battery": "电池",
    "orange": "橙子", "pear": "梨", "lemon": "柠檬", "carrot": "胡萝卜", "candle": "蜡烛", "sponge": "海绵",
}  # fmt: skip
CHINESE_SHADES: dict[str, str] = {**{color: names[3][-1] for color, names in COLORS.items()}, "silver": "银色"}


def _one_of(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 or rng.random() < 0.7 else names[1 + rng.integers(len(names) - 1)]


def noun(rng: np.random.Generator, kind: str) -> str:
    """English, or (one in eight) Chinese."""
    if rng.random() < 0.125:
        return CHINESE_NOUNS[kind]
    return _one_of(rng, NOUNS[kind])


def pair_text(rng: np.random.Generator, kind: str, color: str, attributes: tuple[str, ...] = ()) -> str:
    """A description by colour and kind, in English or (one in eight) Chinese.

    `attributes`: one of them may be named, too.
    """
    if rng.random() < 0.125:
        name, shade = CHINESE_NOUNS[kind], CHINESE_SHADES[color]
        return (f"{shade}的{name}", f"{name}, {shade}", f"{shade}{name}")[rng.integers(3)]
    name, shade = _one_of(rng, NOUNS[kind]), _one_of(rng, SHADES[color])
    if attributes and rng.random() < 0.4:
        also = attributes[rng.integers(len(attributes))]
        forms = (f"{name}, {shade}, {also}", f"{shade} {also} {name}", f"the {also} {shade} {name}")
        return forms[rng.integers(len(forms))]
    forms = (f"{shade} {name}", f"the {shade} {name}", f"{name}, {shade}", f"a {shade} {name}", f"{name} ({shade})")
    return forms[rng.integers(len(forms))]


def description(rng: np.random.Generator, target: Thing, others: list[Thing]) -> str | None:
    """A text that fits the target and none of the others; None where there is none."""
    if target.description and rng.random() < 0.4:
        return None if any(t.description == target.description for t in others) else target.description
    twins = [t for t in others if (t.kind, t.color) == (target.kind, target.color)]
    if twins:
        own = [a for a in target.attributes if all(a not in t.attributes for t in twins)]
        if not own:
            return None
        name, shade = _one_of(rng, NOUNS[target.kind]), _one_of(rng, SHADES[target.color])
        also = own[rng.integers(len(own))]
        return (f"{name}, {shade}, {also}", f"the {also} {shade} {name}", f"{also} {name}, {shade}")[rng.integers(3)]
    form = rng.random()
    if form < 0.25 and all(t.kind != target.kind for t in others):
        name = noun(rng, target.kind)
        return name if rng.random() < 0.6 else f"the {name}"
    if form < 0.35 and all(t.color != target.color for t in others):
        shade = _one_of(rng, SHADES[target.color])
        return (f"the {shade} one", f"the {shade} thing", f"{shade} object")[rng.integers(3)]
    return pair_text(rng, target.kind, target.color, target.attributes)


_SYLLABLES = ("ba", "der", "il", "mon", "tra", "ush", "ke", "vo", "pli", "ang", "sor", "wi", "che", "gu", "ent", "fla")
_KNOWN = frozenset(word for names in NOUNS.values() for name in names for word in name.split())


def unknown_text(rng: np.random.Generator, color: str) -> str:
    """A description with a noun that names nothing known; `color`: may be used, empty for a random one."""
    if rng.random() < 0.25:
        word = "".join(chr(c) for c in rng.integers(0x4E00, 0x8C00, int(rng.integers(1, 4))))
    else:
        word = "".join(_SYLLABLES[i] for i in rng.integers(0, len(_SYLLABLES), int(rng.integers(1, 4))))
    if word in _KNOWN:
        word += "ush"
    shade = color or list(COLORS)[rng.integers(len(COLORS))]
    forms = (word, f"{shade} {word}", f"the {word}", f"{word}, {shade}", f"{word} with a {shade} {_SYLLABLES[0]}{word}")
    return forms[rng.integers(len(forms))]
