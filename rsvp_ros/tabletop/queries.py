"""Questions about a view and their exact answers. numpy only.

An answer is a set of things, or none of them, or *doubtful*: where people could argue, or where something that is only
glimpsed could change the answer, no instruction is given. Every comparison therefore has a margin: what lies within it
is neither right nor wrong.

Sides are seen from the camera: "left" is left in the image and on the table, "in front" is nearer to the camera.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from rsvp_ros.tabletop.kinds import CATEGORIES, FRAGILE, ROLLS_LYING, ROUND, SHARP, USES
from rsvp_ros.tabletop.view import ObjectView, View

FARTHER = 1.4
"""The nearest thing is the nearest where the second one is this many times farther away."""
GAP_MARGIN = 0.02
"""By outlines the second nearest must be farther by that factor and this, metres."""
NEXT_GAP = 0.06
"""Two things lie next to each other where less than this lies between them, metres …"""
APART_GAP = 0.20
"""… and not next to each other where this or more does."""
SIDE_CONE, IMAGE_CONE = 30.0, 35.0
"""Degrees about a direction, on the table and in the image, within which everybody says "left of"; beyond 90 degrees
nobody does."""
COLUMN_MARGIN = 0.04
"""Two things' middles are one right of the other where this share of the image's width lies between them."""
DEPTH_MARGIN = 0.05
"""Two things are one behind the other where this lies between their middles, metres."""
LARGER, LONGER, LARGER_IN_IMAGE = 1.5, 1.3, 1.2
"""Factors of volume, of length and of pixels from which on people agree on what is larger."""
EDGE_MARGIN = 0.03
"""Something is nearest to the table's edge where everything else is this much farther from it, metres."""
CLOSE_TO_EDGE = 0.06
"""Only what is this near to the edge may be called near to it, metres."""

HANDLED = frozenset({"knife", "fork", "spoon", "scissors", "hammer", "screwdriver"})
"""Kinds that are named by the colour of their handle: "the red knife", but hardly "the red thing"."""
TELLING_COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
"""Colours that tell a thing without its kind: a white or a black part is on many things."""
NEUTRALS = ("white", "black", "gray", "silver")
"""What stripes, dots and checks are laid over or under the main colour in."""
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
"""Kinds that a person could take for each other who sees only a corner of one."""


def confusable(a: str, b: str) -> bool:
    """Whether two different colours look alike in some light."""
    return frozenset((a, b)) in _CONFUSABLE


def could_be(kind: str) -> frozenset[str]:
    """The kinds that something of this kind could be taken for where little of it is seen."""
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
        # Of a phone that shows its screen, little more than the rim is coloured
        screen = thing.kind == "phone" and thing.world_from_object[2, 2] > 0 and color != "black"
        return None if screen or (alone and thing.kind in HANDLED) else True
    if confusable(thing.color, color) or color in PART_COLORS.get(thing.kind, ()):
        return None
    if thing.pattern != "plain" and color in NEUTRALS:
        return None
    if thing.material == "fruit" and {thing.color, color} == {"green", "yellow"}:
        return None
    return False


def has_material(thing: ObjectView, material: str) -> bool | None:
    """Whether a thing looks to be of this material; where the colours of wood and of glaze are like each other, or
    wood is painted, people cannot tell."""
    if {thing.material, material} & {"wood", "ceramic"} and (thing.material == "wood" or thing.color == "brown"):
        is_plain_wood = thing.material == "wood" and thing.color == "brown" and thing.kind != "bowl"
        return material == "wood" if is_plain_wood else None
    return thing.material == material


def has_pattern(thing: ObjectView, pattern: str) -> bool | None:
    """Whether a thing is "striped", "dotted" or "checked"; a plain ball has panels or seams."""
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
    return has_material(thing, "ceramic") if holds and thing.kind == "bowl" else holds


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
        """Whether it describes a thing that is well seen; None where people would argue."""
        alone = not (self.kind or self.category or self.use or self.hazard)
        checks: list[bool | None] = []
        if self.kind:
            checks.append(thing.kind == self.kind)
        if self.category:
            wooden_dish = self.category == "crockery" and thing.material == "wood"
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
        """Whether somebody who only glimpses a thing could think so: by what it could be, whatever its colour."""
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


@dataclass(frozen=True)
class Answer:
    """What a question means in a view."""

    ids: tuple[int, ...] = ()
    """Ascending; empty where nothing is meant."""
    doubt: str = ""
    """Why people could argue; then `ids` is empty and says nothing."""
    anchors: tuple[int, ...] = ()
    """The things that the question goes by ("left of the *bottle*"), in its order."""
    candidates: tuple[int, ...] = ()
    """The things among which it chooses ("the largest *book*"), in the order that it looks at."""

    @property
    def certain(self) -> bool:
        return not self.doubt


def doubtful(why: str) -> Answer:
    return Answer(doubt=why)


class Layout:
    """Where the things of a view are, in the image and on the table."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.things = view.things
        self.glimpsed = view.glimpsed
        optical = view.camera.world_from_optical[:3, :3]
        ahead = optical[:2, 2]
        if np.linalg.norm(ahead) < 0.2:  # looks straight down: ahead is what is up in the image
            ahead = -optical[:2, 1]
        ahead = ahead / np.linalg.norm(ahead)
        self.axes = np.array([[ahead[1], -ahead[0]], ahead])
        """Rows: unit vectors to the camera's right and ahead, on the table."""

    @cached_property
    def seen(self) -> tuple[ObjectView, ...]:
        return self.things + self.glimpsed

    @cached_property
    def place(self) -> dict[int, np.ndarray]:
        """Of everything seen: how far right and ahead, metres."""
        return {o.id: self.axes @ o.position[:2] for o in self.seen}

    @cached_property
    def corners(self) -> dict[int, np.ndarray]:
        """Of everything seen: corners of the box around it, world, 8 x 3."""
        unit = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
        return {
            o.id: (unit * o.dimensions) @ o.world_from_object[:3, :3].T + o.world_from_object[:3, 3] for o in self.seen
        }

    @cached_property
    def hulls(self) -> dict[int, np.ndarray]:
        """Of everything seen: convex outline on the table, N x 2, world."""
        return {id_: convex_hull(corners[:, :2]) for id_, corners in self.corners.items()}

    @cached_property
    def rims(self) -> dict[int, np.ndarray]:
        """Of everything seen: the pixels on the rim of its mask, N x 2."""
        ids = np.pad(self.view.ids, 1)
        middle = ids[1:-1, 1:-1]
        inner = (middle == ids[:-2, 1:-1]) & (middle == ids[2:, 1:-1])
        inner &= (middle == ids[1:-1, :-2]) & (middle == ids[1:-1, 2:])
        rows, columns = np.nonzero(~inner & (middle > 0))
        owners = middle[rows, columns]
        return {o.id: np.stack((columns, rows), 1)[owners == o.id].astype(np.float32) for o in self.seen}

    @cached_property
    def image_place(self) -> dict[int, np.ndarray]:
        """Of everything seen: its middle projected into the image, pixels."""
        return {o.id: self.view.camera.project(o.position[None])[0, :2] for o in self.seen}

    def distance(self, a: ObjectView, b: ObjectView) -> float:
        """Between two things' middles on the table, metres."""
        return float(np.linalg.norm(self.place[a.id] - self.place[b.id]))

    def gap(self, a: ObjectView, b: ObjectView) -> float:
        """Between two things' outlines on the table, metres; 0 where they overlap."""
        return hull_gap(self.hulls[a.id], self.hulls[b.id])

    def seen_gap(self, a: ObjectView, b: ObjectView) -> float:
        """Between what is seen of two things, metres, as if it lay across the line of sight.

        The outlines are those of boxes: between two things that do not fill theirs, more is free.
        """
        near, far = (self.rims[o.id] for o in (a, b))
        pixels = np.sqrt(((near[:, None] - far) ** 2).sum(-1).min()) - 1
        eye = self.view.camera.world_from_optical[:3, 3]
        return float(pixels * np.linalg.norm((a.position + b.position) / 2 - eye) / self.view.camera.f)

    def right_of(self, a: ObjectView, b: ObjectView) -> bool | None:
        """Whether a is farther right in the image than b; None where it is too close to tell."""
        margin = COLUMN_MARGIN * self.view.camera.width
        seen = a.box.center[0] - b.box.center[0]
        true = self.image_place[a.id][0] - self.image_place[b.id][0]
        ends = (a.box.x0 - b.box.x0, a.box.x1 - b.box.x1)
        if min(seen, true) >= margin and min(ends) > 0:
            return True
        return False if max(seen, true) <= -margin and max(ends) < 0 else None

    def behind(self, a: ObjectView, b: ObjectView) -> bool | None:
        """Whether a is farther from the camera than b; None where it is too close to tell."""
        ahead = self.place[a.id][1] - self.place[b.id][1]
        eye = self.view.camera.world_from_optical[:2, 3]
        farther = np.linalg.norm(a.position[:2] - eye) - np.linalg.norm(b.position[:2] - eye)
        up = b.box.y1 - a.box.y1
        if min(ahead, farther) >= DEPTH_MARGIN and up > 0:
            return True
        return False if max(ahead, farther) <= -DEPTH_MARGIN and up < 0 else None

    def is_on_side(self, a: ObjectView, side: str, b: ObjectView) -> bool | None:
        """Whether a is to the "left", "right", "front" or "behind" of b.

        True within SIDE_CONE of that direction on the table where the image agrees, False on the other half.
        """
        right, ahead = self.place[a.id] - self.place[b.id]
        along, across = {
            "left": (-right, ahead),
            "right": (right, ahead),
            "front": (-ahead, right),
            "behind": (ahead, right),
        }[side]
        order = self.right_of(a, b) if side in ("left", "right") else self.behind(a, b)
        order = order if side in ("right", "behind") else negate(order)
        angle = np.degrees(np.arctan2(abs(across), along))
        du, dv = np.subtract(a.box.center, b.box.center)
        seen = np.degrees(np.arctan2(*(np.abs((dv, du)) if side in ("left", "right") else np.abs((du, dv)))))
        if order and angle <= SIDE_CONE and seen <= IMAGE_CONE:
            return None if self.is_within(a, b) else True
        return False if angle >= (90 if order is False else 100) and not order else None

    def is_within(self, a: ObjectView, b: ObjectView) -> bool:
        """Whether one of two things lies in, on or under the other rather than beside it."""
        return any(hull_gap(self.hulls[outer.id], inner.position[None, :2]) == 0 for outer, inner in ((a, b), (b, a)))

    def edge_distance(self, thing: ObjectView) -> float:
        """From a thing's outline to the table's nearest edge, metres; negative where it stands over."""
        half = np.array(self.view.table) / 2
        return float((half - np.abs(self.hulls[thing.id]).max(0)).min())

    def sees_edge(self, thing: ObjectView) -> bool:
        """Whether the point of the table's edge that is nearest to a thing lies in the image."""
        half = np.array(self.view.table) / 2
        hull = self.hulls[thing.id]
        point, axis = np.unravel_index(np.argmin(half - np.abs(hull)), hull.shape)
        edge = hull[point].copy()
        edge[axis] = np.sign(edge[axis]) * half[axis]
        camera = self.view.camera
        u, v, depth = camera.project(np.array([[*edge, 0.0]]))[0]
        return bool(depth > 0 and 0 <= u < camera.width and 0 <= v < camera.height)

    def select(self, description: Description) -> tuple[list[ObjectView], list[ObjectView]]:
        """The things that fit a description, and those seen that some would say fit."""
        states = [(o, description.holds(o)) for o in self.things]
        fitting = [o for o, state in states if state]
        doubtful_ones = [o for o, state in states if state is None]
        return fitting, doubtful_ones + [o for o in self.glimpsed if description.might_hold(o)]


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull of N x 2 points, counter-clockwise (Andrew's monotone chain)."""
    ordered = sorted({(round(float(x), 6), round(float(y), 6)) for x, y in points})

    def half(chain: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        hull: list[tuple[float, float]] = []
        for p in chain:
            while len(hull) >= 2:
                (ax, ay), (bx, by) = hull[-2], hull[-1]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                hull.pop()
            hull.append(p)
        return hull

    return np.array(half(ordered)[:-1] + half(reversed(ordered))[:-1] or ordered)


def hull_gap(a: np.ndarray, b: np.ndarray) -> float:
    """Smallest distance between two convex outlines, N x 2 each, counter-clockwise; 0 where they overlap."""

    def separates(hull: np.ndarray, other: np.ndarray) -> bool:
        if len(hull) < 3:
            return False
        along = np.roll(hull, -1, 0) - hull
        normals = np.stack((along[:, 1], -along[:, 0]), 1)
        return bool(((other @ normals.T).min(0) > (hull * normals).sum(1)).any())

    def to_edges(points: np.ndarray, hull: np.ndarray) -> float:
        along = np.roll(hull, -1, 0) - hull
        offset = points[:, None] - hull
        share = (offset * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
        return float(np.linalg.norm(offset - np.clip(share, 0, 1)[..., None] * along, axis=-1).min())

    return min(to_edges(a, b), to_edges(b, a)) if separates(a, b) or separates(b, a) else 0.0


@dataclass(frozen=True)
class Only:
    """The one thing that fits a description. Several: doubtful."""

    what: Description

    def answer(self, layout: Layout) -> Answer:
        found = Every(self.what).answer(layout)
        return doubtful("several things fit") if len(found.ids) > 1 else found


@dataclass(frozen=True)
class Every:
    """All things that fit a description."""

    what: Description

    def answer(self, layout: Layout) -> Answer:
        fitting, unsure = layout.select(self.what)
        if unsure:
            return doubtful(f"whether a {unsure[0].kind} fits is open")
        ids = _ids(fitting)
        return Answer(ids, candidates=ids)


@dataclass(frozen=True)
class Except:
    """All things but one."""

    anchor: Query

    def answer(self, layout: Layout) -> Answer:
        anchor = _anchor(self.anchor, layout)
        if isinstance(anchor, Answer):
            # "everything except the mug" where there is no mug means something else to everybody
            return anchor if anchor.doubt else doubtful("the exception is not there")
        if layout.glimpsed:
            return doubtful("something else is glimpsed")
        return Answer(tuple(i for i in _ids(layout.things) if i != anchor.id), anchors=(anchor.id,))


@dataclass(frozen=True)
class Ordinal:
    """The n-th of the things that fit, counted from one side: "left", "right", "front" (the nearest is the first)."""

    what: Description
    side: str
    n: int

    def answer(self, layout: Layout) -> Answer:
        fitting, unsure = layout.select(self.what)
        if unsure:
            return doubtful("not clear what counts")
        before = {"left": lambda a, b: layout.right_of(b, a), "right": layout.right_of}.get(
            self.side, lambda a, b: layout.behind(b, a)
        )
        key = {"left": lambda o: o.box.center[0], "right": lambda o: -o.box.center[0]}.get(
            self.side, lambda o: layout.place[o.id][1]
        )
        row = sorted(fitting, key=key)
        ids = tuple(o.id for o in row)
        if self.n > len(row):
            return Answer(candidates=ids)
        chosen = row[self.n - 1]
        order = [before(other, chosen) for other in row if other is not chosen]
        if None in order:
            return doubtful("too close together to count")
        if order.count(True) != self.n - 1:
            return doubtful("image and table count differently")
        return Answer((chosen.id,), candidates=ids)


@dataclass(frozen=True)
class Extreme:
    """The "largest", "smallest", "longest", "shortest" or "tallest" of at least two things that fit."""

    what: Description
    measure: str

    def answer(self, layout: Layout) -> Answer:
        fitting, unsure = layout.select(self.what)
        if unsure:
            return doubtful("not clear what counts")
        if len(fitting) < 2:
            return Answer() if not fitting else doubtful("nothing to compare")
        if any(o.inside < 0.75 for o in fitting):
            return doubtful("something is cut off by the image's border")

        def height(o: ObjectView) -> float:
            return float(np.ptp(layout.corners[o.id][:, 2]))

        def pixels(o: ObjectView) -> float:
            return o.area / o.visible / o.inside  # as if nothing hid it

        def clearly_more(a: ObjectView, b: ObjectView) -> bool:
            if self.measure in ("largest", "smallest"):
                return (
                    a.volume >= LARGER * b.volume
                    and pixels(a) >= LARGER_IN_IMAGE * pixels(b)
                    # A plate is wider than a teapot and a teapot higher: neither is the larger one
                    and all(np.sort(a.dimensions) >= 0.9 * np.sort(b.dimensions))
                )
            if self.measure == "tallest":
                return height(a) >= LONGER * height(b) and height(a) >= 0.05 and a.box.height > b.box.height
            return a.length >= LONGER * b.length and max(a.box.width, a.box.height) > max(b.box.width, b.box.height)

        few = self.measure in ("smallest", "shortest")
        winners = [
            o
            for o in fitting
            if all(clearly_more(other, o) if few else clearly_more(o, other) for other in fitting if other is not o)
        ]
        if not winners:
            return doubtful("too much alike in size")
        if self.measure == "longest" and winners[0].length < 2 * sorted(winners[0].dimensions)[1]:
            return doubtful("nothing is long")
        return Answer(_ids(winners), candidates=_ids(fitting))


@dataclass(frozen=True)
class Beside:
    """What is to the "left", "right", "front" or "behind" of something.

    Of any thing: the nearest on that side, where the next one is clearly farther. Of a described thing ("the mug left
    of the bottle"): the only one on that side.
    """

    what: Description
    side: str
    anchor: Query

    def answer(self, layout: Layout) -> Answer:
        anchor = _anchor(self.anchor, layout)
        if isinstance(anchor, Answer):
            return anchor
        others = [o for o in layout.seen if o.id != anchor.id]
        states = {o.id: every((_fits(layout, self.what, o), layout.is_on_side(o, self.side, anchor))) for o in others}
        there = [o for o in others if states[o.id]]
        unsure = [o for o in others if states[o.id] is None]
        if not self.what.is_any:
            return doubtful("not clear what counts") if unsure or len(there) > 1 else _about(there, anchor)
        if not there:
            return doubtful("not clear what counts") if unsure else _about([], anchor)
        nearest = min(there, key=lambda o: layout.distance(o, anchor))
        return _about([nearest], anchor) if _is_nearest(layout, nearest, anchor, there + unsure) else doubtful("near")


@dataclass(frozen=True)
class NextTo:
    """What lies next to something.

    Of any thing: the nearest, where the second nearest is clearly farther. Of a described thing ("the mug next to the
    book"): the only one next to it.
    """

    what: Description
    anchor: Query

    def answer(self, layout: Layout) -> Answer:
        anchor = _anchor(self.anchor, layout)
        if isinstance(anchor, Answer):
            return anchor
        others = [o for o in layout.seen if o.id != anchor.id]
        if self.what.is_any:
            if not others:
                return _about([], anchor)
            nearest = min(others, key=lambda o: layout.distance(o, anchor))
            if nearest in layout.glimpsed or not self._is_next(layout, nearest, anchor):
                return doubtful("nothing is clearly next to it")
            clear = _is_nearest(layout, nearest, anchor, others)
            return _about([nearest], anchor) if clear else doubtful("two things are next to it")
        states = {o.id: every((_fits(layout, self.what, o), self._is_next(layout, o, anchor))) for o in others}
        there = [o for o in others if states[o.id]]
        if None in states.values() or len(there) > 1:
            return doubtful("not clear what is next to it")
        return _about(there, anchor)

    @staticmethod
    def _is_next(layout: Layout, a: ObjectView, b: ObjectView) -> bool | None:
        gap = layout.gap(a, b)
        if gap >= APART_GAP:
            return False
        return True if max(gap, layout.seen_gap(a, b)) <= NEXT_GAP and not layout.is_within(a, b) else None


@dataclass(frozen=True)
class Between:
    """What lies between two things, on the table: near the middle of the line from one to the other."""

    what: Description
    first: Query
    second: Query

    def answer(self, layout: Layout) -> Answer:
        ends = []
        for query in (self.first, self.second):
            end = _anchor(query, layout)
            if isinstance(end, Answer):
                return end
            ends.append(end)
        if ends[0].id == ends[1].id:
            return doubtful("both are the same")
        a, b = (layout.place[end.id] for end in ends)
        span = float(np.linalg.norm(b - a))

        def lies_between(o: ObjectView) -> bool | None:
            share = float((layout.place[o.id] - a) @ (b - a)) / span**2
            aside = float(np.linalg.norm(layout.place[o.id] - a - share * (b - a))) / span
            if 0.25 <= share <= 0.75 and aside <= 0.2:
                return True
            return False if not -0.05 <= share <= 1.05 or aside > 0.6 else None

        others = [o for o in layout.seen if o.id not in (ends[0].id, ends[1].id)]
        states = {o.id: every((_fits(layout, self.what, o), lies_between(o))) for o in others}
        there = [o for o in others if states[o.id]]
        if None in states.values() or len(there) > 1:
            return doubtful("not clear what is between them")
        return Answer(_ids(there), anchors=(ends[0].id, ends[1].id))


@dataclass(frozen=True)
class NearestEdge:
    """What lies nearest to the edge of the table, where that edge is seen."""

    def answer(self, layout: Layout) -> Answer:
        if layout.glimpsed or not layout.things:
            return doubtful("not clear what counts")
        row = sorted(layout.things, key=layout.edge_distance)
        nearest, rest = row[0], row[1:]
        distance = layout.edge_distance(nearest)
        if distance > CLOSE_TO_EDGE or not layout.sees_edge(nearest):
            return doubtful("nothing is clearly near the edge")
        if rest and layout.edge_distance(rest[0]) < max(distance, 0) + EDGE_MARGIN:
            return doubtful("two things are near the edge")
        return Answer((nearest.id,), candidates=tuple(o.id for o in row))


Query = Only | Every | Except | Ordinal | Extreme | Beside | NextTo | Between | NearestEdge


def answer(query: Query, view: View) -> Answer:
    """What a question means in a view."""
    return query.answer(Layout(view))


def _ids(things: Iterable[ObjectView]) -> tuple[int, ...]:
    return tuple(sorted(o.id for o in things))


def _about(found: list[ObjectView], anchor: ObjectView) -> Answer:
    return Answer(_ids(found), anchors=(anchor.id,))


def _anchor(query: Query, layout: Layout) -> ObjectView | Answer:
    """The one thing that a question goes by; or the answer to the whole question, doubtful or empty."""
    found = query.answer(layout)
    if found.doubt or not found.ids:
        return Answer(doubt=found.doubt)
    if len(found.ids) > 1:
        return doubtful("several things to go by")
    return layout.view.object(found.ids[0])


def _fits(layout: Layout, what: Description, thing: ObjectView) -> bool | None:
    """Like `Description.holds`, and for what is only glimpsed never True."""
    if thing in layout.glimpsed:
        return None if what.might_hold(thing) else False
    return what.holds(thing)


def _is_nearest(layout: Layout, nearest: ObjectView, anchor: ObjectView, rivals: list[ObjectView]) -> bool:
    """Whether one thing is clearly nearer to another than all its rivals, by their middles and by their outlines."""
    distance, gap = layout.distance(nearest, anchor), layout.gap(nearest, anchor)
    return all(
        layout.distance(o, anchor) >= FARTHER * distance and layout.gap(o, anchor) >= FARTHER * gap + GAP_MARGIN
        for o in rivals
        if o is not nearest
    )
