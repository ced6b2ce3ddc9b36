"""What people would call a thing, in three values: True, False, and None where they would argue. No geometry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from rsvp_ros.tabletop.kinds import CATEGORIES, FRAGILE, KINDS, ROLLS_LYING, ROUND, SHARP, USES
from rsvp_ros.tabletop.view import ObjectView

HANDLED = frozenset({"knife", "fork", "spoon", "scissors", "hammer", "screwdriver"})
"""Kinds that are named by the colour of their handle: "the red knife", but hardly "the red thing"."""
TELLING_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
"""Colours that single out a thing without its kind: many things have a white or a black part."""
NEUTRALS = ("white", "black", "gray", "silver")
"""Colours of the stripes, dots and checks laid over or under the main colour."""
PART_COLORS = {
    "hammer": ("brown",),
    "sponge": ("green", "black", "gray"),
    "phone": ("black",),
    "pan": ("black",),
    "bottle": NEUTRALS,
    "can": NEUTRALS,
    "cup": ("white",),
    "battery": ("black", "brown", "gray", "orange", "silver", "yellow"),
    "screwdriver": ("black",),
    "carrot": ("green",),
    "tape": ("brown",),
    "box": ("brown",),
}
"""Colours of parts that some would call the whole thing's."""
_CONFUSABLE = {
    frozenset(pair)
    for pair in (
        ("red", "orange"),
        ("red", "pink"),
        ("red", "brown"),
        ("orange", "yellow"),
        ("orange", "brown"),
        ("orange", "pink"),
        ("yellow", "brown"),
        ("blue", "purple"),
        ("pink", "purple"),
        ("white", "silver"),
        ("white", "gray"),
        ("gray", "silver"),
        ("gray", "black"),
        ("brown", "black"),
    )
}
_LOOKALIKES = tuple(
    frozenset(group.split())
    for group in (
        "mug cup bowl teapot can candle",
        "bottle can candle battery cup",
        "plate pan bowl tape",
        "knife fork spoon scissors hammer screwdriver spanner pen key",
        "apple orange ball lemon pear",
        "banana lemon carrot pear",
        "book box phone remote sponge cube tape",
    )
)
"""Kinds that a person who sees only a corner of one could take for each other."""


def confusable(a: str, b: str) -> bool:
    """Whether two different colours look alike in some light."""
    return frozenset((a, b)) in _CONFUSABLE


def could_be(kind: str) -> frozenset[str]:
    """The kinds that something of this kind could be taken for if little of it is seen."""
    return frozenset({kind}).union(*(group for group in _LOOKALIKES if kind in group))


def every(values: Iterable[bool | None]) -> bool | None:
    """Kleene's "and": False where one is False, else None where one is None, else True."""
    result: bool | None = True
    for value in values:
        if value is False:
            return False
        if value is None:
            result = None
    return result


def negate(value: bool | None) -> bool | None:
    """Kleene's "not"."""
    return None if value is None else not value


def has_color(thing: ObjectView, color: str, alone: bool = False) -> bool | None:
    """Whether people call a thing by this colour; `alone`: without saying what it is ("the red thing")."""
    if thing.color == color:
        # On a phone that shows its screen, little more than the rim is coloured
        screen = thing.kind == "phone" and thing.world_from_object[2, 2] > 0 and color != "black"
        pale_wood = thing.material == "wood" and color == "silver"
        return None if screen or pale_wood or (alone and thing.kind in HANDLED) else True
    if color == "silver" and thing.kind in HANDLED and thing.material == "metal":
        return None  # all but its handle
    if confusable(thing.color, color) or color in PART_COLORS.get(thing.kind, ()):
        return None
    if thing.pattern != "plain" and color in NEUTRALS:
        return None
    if thing.material == "fruit" and {thing.color, color} == {"green", "yellow"}:
        return None
    return False


def has_colored_handle(kind: str | None, color: str, material: str | None) -> bool:
    """Whether the colour of such a thing is that of its handle."""
    return kind in HANDLED and color != "silver" and material != "wood"


def has_material(thing: ObjectView, material: str) -> bool | None:
    """Whether a thing looks as if made of this material; where wood and glaze have similar colours, or wood is painted,
    people cannot tell."""
    if {thing.material, material} & {"wood", "ceramic"} and (thing.material == "wood" or thing.color == "brown"):
        is_plain_wood = thing.material == "wood" and thing.color == "brown" and thing.kind != "bowl"
        return material == "wood" if is_plain_wood else None
    return thing.material == material


def is_named_wooden(thing: ObjectView) -> bool:
    """Whether wood tells a thing from others: it looks wooden, and things of its kind need not be."""
    return len(KINDS[thing.kind].materials) > 1 and has_material(thing, "wood") is True


def has_pattern(thing: ObjectView, pattern: str) -> bool | None:
    """Whether a thing is "striped", "dotted" or "checked"; None for a plain ball, as it has panels or seams."""
    return None if thing.kind == "ball" and thing.pattern == "plain" else thing.pattern == pattern


def rolls(thing: ObjectView) -> bool | None:
    """Whether it could roll off the table as it lies there."""
    if ROUND.holds(thing.kind) is not False:
        return ROUND.holds(thing.kind)
    stands = abs(thing.world_from_object[2, 2]) > 0.85  # on its foot or on its head
    if stands and thing.kind in (*ROLLS_LYING.members, "cup", "mug"):
        return False
    return ROLLS_LYING.holds(thing.kind)


def breaks(thing: ObjectView) -> bool | None:
    """Whether it would break if it fell."""
    holds = FRAGILE.holds(thing.kind)
    # A brown plate looks like wood, as a wooden bowl does
    return has_material(thing, "ceramic") if holds and thing.kind in ("bowl", "plate") else holds


def cuts(thing: ObjectView) -> bool | None:
    """Whether a child could cut itself."""
    return SHARP.holds(thing.kind)


HAZARDS = {"rolls": rolls, "breaks": breaks, "cuts": cuts}
_HAZARD_GROUPS = {"rolls": (ROUND, ROLLS_LYING), "breaks": (FRAGILE,), "cuts": (SHARP,)}


@dataclass(frozen=True)
class Description:
    """What a thing must be; a field that is None asks for nothing. All None: any thing."""

    kind: str | None = None
    category: str | None = None
    """A key of `kinds.CATEGORIES`."""
    use: str | None = None
    """A key of `kinds.USES`."""
    hazard: str | None = None
    """A key of HAZARDS."""
    color: str | None = None
    pattern: str | None = None
    material: str | None = None
    not_kind: str | None = None
    not_color: str | None = None

    @property
    def is_any(self) -> bool:
        return all(getattr(self, field.name) is None for field in fields(self))

    def holds(self, thing: ObjectView) -> bool | None:
        """Whether it describes a thing that is clearly seen; None where people would argue."""
        alone = not (self.kind or self.category or self.use or self.hazard)
        checks: list[bool | None] = []
        if self.kind:
            checks.append(thing.kind == self.kind)
        if self.category:
            wooden_dish = self.category == "crockery" and thing.kind == "bowl" and thing.material == "wood"
            checks.append(None if wooden_dish else CATEGORIES[self.category].holds(thing.kind))
        if self.use:
            checks.append(USES[self.use].holds(thing.kind))
        if self.hazard:
            checks.append(HAZARDS[self.hazard](thing))
        if self.color:
            checks.append(has_color(thing, self.color, alone))
        if self.pattern:
            checks.append(has_pattern(thing, self.pattern))
        if self.material:
            checks.append(has_material(thing, self.material))
        if self.not_kind:
            checks.append(thing.kind != self.not_kind)
        if self.not_color:
            checks.append(negate(has_color(thing, self.not_color, alone)))
        return every(checks)

    def might_hold(self, thing: ObjectView) -> bool:
        """Whether somebody who only glimpses a thing could think it fits: by what it could be, whatever its colour."""
        kinds = could_be(thing.kind)
        if self.kind and self.kind not in kinds:
            return False
        groups = [CATEGORIES[self.category]] if self.category else []
        groups += [USES[self.use]] if self.use else []
        if any(all(group.holds(kind) is False for kind in kinds) for group in groups):
            return False
        if not self.hazard:
            return True
        return any(group.holds(kind) is not False for group in _HAZARD_GROUPS[self.hazard] for kind in kinds)


ANYTHING = Description()
