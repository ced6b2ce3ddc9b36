"""What can lie on the table: kinds of things, what they are for, what can happen to them. No geometry, no words.

Membership has three values. A thing that clearly belongs to a group is a right answer, one that does not is a wrong
one, and where people would argue (is a bottle something to drink from?) it is neither: no instruction about the group
is given while such a thing is in sight. So every answer is one that people agree with.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

COLORS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "red": ((0.78, 0.10, 0.10), (0.85, 0.16, 0.12)),
    "orange": ((0.95, 0.45, 0.05), (0.98, 0.52, 0.10)),
    "yellow": ((0.95, 0.80, 0.10), (0.98, 0.86, 0.22)),
    "green": ((0.12, 0.50, 0.16), (0.25, 0.62, 0.22)),
    "blue": ((0.08, 0.20, 0.65), (0.14, 0.36, 0.80)),
    "purple": ((0.38, 0.12, 0.55), (0.50, 0.22, 0.65)),
    "pink": ((0.95, 0.45, 0.62), (0.97, 0.60, 0.72)),
    "brown": ((0.35, 0.20, 0.09), (0.48, 0.29, 0.14)),
    "white": ((0.90, 0.90, 0.88), (0.96, 0.96, 0.95)),
    "black": ((0.04, 0.04, 0.05), (0.10, 0.10, 0.11)),
    "gray": ((0.42, 0.42, 0.43), (0.55, 0.55, 0.56)),
    "silver": ((0.72, 0.73, 0.75), (0.80, 0.81, 0.83)),
}
"""RGB 0 to 1: a thing's main colour lies between the two ends. Silver is bare metal, for metal things only."""

PAINTED = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black", "gray")


@dataclass(frozen=True)
class Kind:
    """A kind of thing."""

    name: str
    colors: tuple[str, ...]
    """Names in COLORS: the colours of the part that people would name the thing's colour by (a knife's handle)."""
    patterns: tuple[str, ...] = ("plain",)
    """Some of "plain", "striped", "dotted", "checked": how the main colour is applied."""
    materials: tuple[str, ...] = ("plastic",)
    """Some of "plastic", "ceramic", "metal", "wood", "paper", "rubber", "glass", "fruit", "wax", "foam"."""
    held_out: bool = False
    """Never in the training split."""


def _kinds(*kinds: Kind) -> dict[str, Kind]:
    return {kind.name: kind for kind in kinds}


_PATTERNED = ("plain", "plain", "striped", "dotted", "checked")
_HANDLES = ("red", "orange", "yellow", "green", "blue", "black", "brown")

KINDS: dict[str, Kind] = _kinds(
    Kind("mug", PAINTED, ("plain", "plain", "striped", "dotted"), ("ceramic",)),
    Kind("cup", PAINTED, ("plain", "striped", "dotted"), ("paper",)),
    Kind("bottle", ("red", "orange", "green", "blue", "purple", "brown", "white", "black"), materials=("plastic",)),
    Kind("bowl", PAINTED, ("plain", "plain", "striped", "dotted"), ("ceramic", "wood")),
    Kind("plate", PAINTED, ("plain", "plain", "striped", "dotted"), ("ceramic",)),
    Kind("teapot", ("red", "green", "blue", "yellow", "white", "black", "brown"), ("plain", "dotted"), ("ceramic",)),
    Kind("pan", ("black", "red", "gray", "blue"), materials=("metal",)),
    Kind("knife", _HANDLES, materials=("metal",)),
    Kind("fork", ("silver", *_HANDLES), materials=("metal",)),
    Kind("spoon", ("silver", "brown", *_HANDLES), materials=("metal", "wood")),
    Kind("scissors", (*_HANDLES, "pink", "purple"), materials=("metal",)),
    Kind("hammer", _HANDLES, materials=("metal",)),
    Kind("screwdriver", _HANDLES, materials=("metal",)),
    Kind("spanner", ("silver", "red", "blue", "black"), materials=("metal",), held_out=True),
    Kind("tape", ("red", "yellow", "green", "blue", "brown", "white", "black", "gray"), materials=("plastic",)),
    Kind("book", PAINTED, _PATTERNED, ("paper",)),
    Kind("pen", ("red", "green", "blue", "black", "white", "orange", "purple"), materials=("plastic",)),
    Kind("phone", ("black", "white", "blue", "red", "pink", "gray"), materials=("plastic",)),
    Kind("remote", ("black", "gray", "white"), materials=("plastic",)),
    Kind("battery", ("red", "green", "blue", "black", "orange"), materials=("metal",)),
    Kind("key", ("silver", "yellow"), materials=("metal",)),
    Kind("banana", ("yellow", "green"), materials=("fruit",)),
    Kind("apple", ("red", "green", "yellow"), materials=("fruit",)),
    Kind("orange", ("orange",), materials=("fruit",)),
    Kind("pear", ("green", "yellow"), materials=("fruit",)),
    Kind("lemon", ("yellow",), materials=("fruit",), held_out=True),
    Kind("carrot", ("orange",), materials=("fruit",)),
    Kind("can", PAINTED, ("plain", "striped"), ("metal",)),
    Kind("box", PAINTED, _PATTERNED, ("paper",)),
    Kind("candle", PAINTED, ("plain", "striped"), ("wax",), held_out=True),
    Kind("sponge", ("yellow", "green", "blue", "pink", "orange"), materials=("foam",)),
    Kind("ball", PAINTED, ("plain", "striped", "dotted"), ("rubber",)),
    Kind("cube", PAINTED, ("plain", "dotted"), ("wood",)),
)

TRAINING_KINDS: tuple[str, ...] = tuple(name for name, kind in KINDS.items() if not kind.held_out)


@dataclass(frozen=True)
class Group:
    """Kinds that share something; kinds not named here do not."""

    members: tuple[str, ...]
    doubtful: tuple[str, ...] = ()
    """Neither in nor out."""

    def holds(self, kind: str) -> bool | None:
        """Whether a kind belongs to it; None where people would argue."""
        return True if kind in self.members else None if kind in self.doubtful else False


CATEGORIES: dict[str, Group] = {
    "fruit": Group(("banana", "apple", "orange", "pear", "lemon")),
    "cutlery": Group(("fork", "spoon"), ("knife",)),  # it is a kitchen knife
    "tool": Group(("hammer", "screwdriver", "spanner"), ("scissors", "knife", "tape", "pen", "key")),
    "crockery": Group(("mug", "bowl", "plate", "teapot"), ("cup", "pan")),
    "electronics": Group(("phone", "remote"), ("battery",)),
    "food": Group(("banana", "apple", "orange", "pear", "lemon", "carrot"), ("can", "bottle", "box")),
}

USES: dict[str, Group] = {
    "cut": Group(("knife", "scissors")),
    "drink": Group(("mug", "cup"), ("bottle", "can", "bowl", "teapot")),
    "pour": Group(("bottle", "teapot"), ("can", "mug", "cup", "bowl", "pan")),
    "eat_soup": Group(("spoon",), ("bowl", "cup", "mug")),
    "spear": Group(("fork",), ("knife", "screwdriver", "pen")),
    "drive_nail": Group(("hammer",), ("spanner", "pan", "can")),
    "turn_screw": Group(("screwdriver",), ("knife", "key", "scissors", "spanner")),
    "loosen_nut": Group(("spanner",), ("scissors",)),
    "write": Group(("pen",), ("phone",)),
    "read": Group(("book",), ("phone",)),
    "call": Group(("phone",)),
    "switch_tv": Group(("remote",), ("phone",)),
    "snack": Group(("banana", "apple", "orange", "pear"), ("carrot", "lemon", "can", "box")),
    "power": Group(("battery",), ("phone",)),
    "wipe": Group(("sponge",)),
    "throw": Group(("ball",), ("apple", "orange", "lemon", "cube", "pear", "can", "sponge")),
    "light": Group(("candle",), ("phone",)),
    "stick": Group(("tape",)),
    "unlock": Group(("key",), ("phone", "screwdriver")),
    "serve_soup": Group(("bowl",), ("plate", "mug", "cup", "pan")),
    "fry": Group(("pan",)),
    "make_tea": Group(("teapot",), ("mug", "cup", "pan", "bowl")),
}
"""What a person wants to do, and with what."""

FRAGILE = Group(("mug", "bowl", "plate", "teapot"), ("phone", "bottle", "candle", "cup", "remote"))
"""Would break if it fell: ceramic. A wooden bowl would not; see its material."""
SHARP = Group(("knife", "scissors"), ("fork", "screwdriver", "key", "pen", "can"))
"""A child could cut itself on it."""
ROUND = Group(("ball", "apple", "orange"), ("lemon", "pear", "tape"))
"""Rolls however it lies."""
ROLLS_LYING = Group(("can", "bottle", "battery", "candle"), ("pen", "cup", "carrot", "mug", "screwdriver", "banana"))
"""Rolls when it lies on its side, and stands when it does not."""

THIN = ("knife", "fork", "spoon", "scissors", "screwdriver", "spanner", "pen", "key", "carrot", "hammer")
"""Kinds whose masks are hard to get right: reported separately."""


def is_held_out_pair(kind: str, color: str) -> bool:
    """Whether this colour of this kind never occurs in the training split (about one pair in twelve).

    A kind with fewer than five colours keeps them all: what it looks like must be learnt.
    """
    return len(KINDS[kind].colors) >= 5 and zlib.crc32(f"tabletop {color} {kind}".encode()) % 12 == 0
