"""Questions about a view and their exact answers. numpy only.

An answer is a set of things, which may be empty, or *doubtful*: where people could argue, or where something that is
only glimpsed could change the answer, no instruction is given. Every comparison therefore has a margin: what lies
within it is neither right nor wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rsvp_ros.tabletop.descriptions import Description, every
from rsvp_ros.tabletop.layout import Layout
from rsvp_ros.tabletop.view import ObjectView, View

FARTHER = 1.4
"""A thing counts as the nearest only if the next one is at least this many times as far away."""
GAP_MARGIN = 0.02
"""Measured between outlines, the next one must be farther by that factor plus this, metres."""
SEEN_MARGIN = 0.01
"""In the picture it must be farther by this, metres, as if the distance lay across the line of sight."""
NEXT_GAP = 0.06
"""Two things lie next to each other if at most this lies between them, metres …"""
APART_GAP = 0.20
"""… and not next to each other if this or more does."""
LARGER, LONGER, LARGER_IN_IMAGE = 1.5, 1.3, 1.2
"""Ratios of volume, of length and of pixels from which people agree on what is larger."""
EDGE_MARGIN = 0.03
"""Something counts as nearest to the table's edge only if everything else is this much farther from it, metres."""
CLOSE_TO_EDGE = 0.06
"""Only what is within this distance of the edge may be called near it, metres …"""
EDGE_DOUBT = 0.02
"""… and only if what it surely covers is no farther than this beyond that distance."""


@dataclass(frozen=True)
class Answer:
    """What a question means in a view."""

    ids: tuple[int, ...] = ()
    """Ascending; empty where nothing is meant."""
    doubt: str = ""
    """Why people could argue, if they could; then `ids` is empty and means nothing."""
    anchors: tuple[int, ...] = ()
    """The things that the question refers to ("left of the *bottle*"), in its order."""
    candidates: tuple[int, ...] = ()
    """The things among which it chooses ("the largest *book*"), in the order in which it considers them."""

    @property
    def certain(self) -> bool:
        return not self.doubt


def doubtful(why: str) -> Answer:
    return Answer(doubt=why)


@dataclass(frozen=True)
class Only:
    """The one thing that fits a description; doubtful if several do."""

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
        before = {"left": lambda a, b: layout.right_of(b, a), "right": layout.right_of}.get(self.side, layout.nearer)
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
        if any(min(o.inside, o.visible) < 0.75 for o in fitting):
            return doubtful("something is cut off or hidden in part")

        def height(o: ObjectView) -> float:
            return float(np.ptp(layout.corners[o.id][:, 2]))

        def pixels(o: ObjectView) -> float:
            return o.area / o.visible / o.inside  # as if nothing hid it

        def clearly_more(a: ObjectView, b: ObjectView) -> bool:
            if self.measure in ("largest", "smallest"):
                return (
                    a.volume >= LARGER * b.volume
                    and pixels(a) >= LARGER_IN_IMAGE * pixels(b)
                    # A plate is wider than a teapot, but a teapot is taller: neither is the larger one
                    and all(np.sort(a.dimensions) >= 0.9 * np.sort(b.dimensions))
                )
            if self.measure == "tallest":
                least = 2 * layout.core(a)[2]
                return least >= LONGER * height(b) and least >= 0.05 and a.box.height > b.box.height
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
    """What is on one side of something: "left", "right", "front" or "behind".

    For any thing: the nearest on that side, if the next one is clearly farther. For a described thing ("the mug left
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

    For any thing: the nearest, if the second nearest is clearly farther. For a described thing ("the mug next to the
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
    """What lies nearest to the edge of the table, if that edge is in the image."""

    def answer(self, layout: Layout) -> Answer:
        if layout.glimpsed or not layout.things:
            return doubtful("not clear what counts")
        row = sorted(layout.things, key=layout.edge_distance)
        nearest, rest = row[0], row[1:]
        distance = layout.edge_distance(nearest)
        is_near = distance <= CLOSE_TO_EDGE and layout.core_edge_distance(nearest) <= CLOSE_TO_EDGE + EDGE_DOUBT
        if not is_near or not layout.sees_edge(nearest):
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
    """The one thing that a question refers to, or else the answer to the whole question, doubtful or empty."""
    found = query.answer(layout)
    if found.doubt or not found.ids:
        return Answer(doubt=found.doubt)
    if len(found.ids) > 1:
        return doubtful("several things to go by")
    return layout.view.object(found.ids[0])


def _fits(layout: Layout, what: Description, thing: ObjectView) -> bool | None:
    """Like `Description.holds`, but never True for what is only glimpsed."""
    if thing in layout.glimpsed:
        return None if what.might_hold(thing) else False
    return what.holds(thing)


def _is_nearest(layout: Layout, nearest: ObjectView, anchor: ObjectView, rivals: list[ObjectView]) -> bool:
    """Whether `nearest` is clearly nearer to `anchor` than all its rivals: by their middles, by their outlines and in
    the picture, where something farther away on the table may seem to touch the anchor."""
    distance, gap = layout.distance(nearest, anchor), layout.gap(nearest, anchor)
    return all(
        layout.distance(o, anchor) >= FARTHER * distance
        and layout.gap(o, anchor) >= FARTHER * gap + GAP_MARGIN
        and layout.seen_gap(o, anchor) >= layout.seen_gap(nearest, anchor) + SEEN_MARGIN
        for o in rivals
        if o is not nearest
    )
