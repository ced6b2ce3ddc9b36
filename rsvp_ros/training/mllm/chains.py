"""The answers that the small MLLM learns: the MCoT's steps, broken down so finely that each is a look-up or a copy.

    {"target": " one: mug cup",
     "scene": "#1[2,3][4,5] red mug fits;#2[6][3,4] blue bottle; so#1",
     "present": true,
     "objects": [{"id": "#1", "name": " mug", "attributes": [" red"], "rows": [4,5], "columns": [2,3], "reason": "…"}]}

`target` restates the instruction in canonical words, with groups given as the kinds that belong to them. `scene` lists
all things from left to right (number, columns, rows, colour, pattern, kind, and a measure or a place if the question
compares them), says of each whether it is a candidate or a reference of the question, and then goes through what
decides: the order, or the offset from the reference to each of the others. What stage 2 can find by words alone ("the
blue mug") is passed on to it, without a list and with the whole image as the region. An answer is a list of words, each
a single token of the model (`answer_words` holds them all), and each word belongs to a `Part`.
"""

from __future__ import annotations

import bisect
import enum
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from rsvp_ros.geometry import RegionGrid
from rsvp_ros.tabletop.descriptions import Description, has_colored_handle, is_named_wooden
from rsvp_ros.tabletop.instruction import LANGUAGES
from rsvp_ros.tabletop.instructions import english_name
from rsvp_ros.tabletop.kinds import CATEGORIES, COLORS, FRAGILE, KINDS, ROLLS_LYING, ROUND, SHARP, USES
from rsvp_ros.tabletop.layout import Layout
from rsvp_ros.tabletop.queries import (
    NEXT_GAP,
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
from rsvp_ros.training.mllm.extents import CLASSES, Measure, measure_classes, millimetres
from rsvp_ros.training.mllm.views import PATTERN_NAMES, is_lying
from rsvp_ros.training.places import FARTHEST, Ground, Place, offset, spot

MOST_BANDS = 13
MOST_THINGS = 12
DISTANCES = 12
SIDES = ("left", "right", "front", "behind")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


class Part(enum.IntEnum):
    """What a word of an answer is for."""

    GLUE = 0
    TARGET = 1
    LIST = 2
    """In the list of things: number, bands, looks."""
    MEASURE = 3
    """In the list: how large, how near to the edge, where on the table."""
    FLAG = 4
    """In the list: whether the thing is a candidate or a reference; ends its entry."""
    WORK = 5
    """What decides: references, order, relations."""
    MEANT = 6
    OBJECT = 7
    REASON = 8


@dataclass(frozen=True)
class Chain:
    """An answer, word by word."""

    words: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(self.words)


# --- Words ------------------------------------------------------------------------------------------------------------

START = '{"target": "'
SCENE = '", "scene": "'
PRESENT = '", "present": true, "objects": [{"id": "'
ABSENT = '", "present": false, "objects": []}'
NAME, ATTRIBUTES, MORE, ROWS = '", "name": "', '", "attributes": ["', '", "', '"], "rows": '
COLUMNS, REASON, NEXT, END = ', "columns": ', ', "reason": "', '"}, {"id": "', '"}]}'
GLUE = (START, SCENE, PRESENT, ABSENT, NAME, ATTRIBUTES, MORE, ROWS, COLUMNS, REASON, NEXT, END)

FLAGS = {
    (False, 0): ";",
    (True, 0): " fits;",
    (False, 1): " reference;",
    (True, 1): " reference, fits;",
    (False, 2): " other reference;",
    (True, 2): " other reference, fits;",
}
"""Keys: whether a thing is a candidate, and which reference it is (0: none). What the words exclude is a reference:
"not the red one" thus differs from "the red one" in the word for that one thing, not in the words for all things."""
ONE, ALL, BUT = " one:", " all:", " all but:"
RELATIONS = {
    "left": " left of", "right": " right of", "front": " in front of", "behind": " behind",
    "next": " next to", "between": " between",
}  # fmt: skip
COUNTED = {"left": " from the left:", "right": " from the right:", "front": " nearest:"}
SUPERLATIVES = {m: f" {m}:" for m in ("largest", "smallest", "longest", "shortest", "tallest")}
THING, AND, NOT, LYING, EDGE, ANCHOR_OF, SO, NONE = (
    " thing", " and", " not", " lying", " nearest to the edge", " from", " so", " none",
)  # fmt: skip
NOT_KIND = {kind: f" no {english_name(kind)}" for kind in KINDS}
HANDLE = " handle"
MATERIALS = {"wood": " wooden", "metal": " metal", "ceramic": " ceramic"}
REASONS = {
    "fits": ("It is what is asked for.", "Es lo que se pide.", "Es ist, was gesucht wird.", "它就是要找的东西。"),
    "order": (
        "It has that place in the order.", "Ocupa ese lugar en el orden.", "Es steht an dieser Stelle.",
        "它正好排在这个位置。",
    ),
    "size": ("Its size decides.", "Lo decide su tamaño.", "Seine Größe entscheidet.", "由大小决定。"),
    "place": ("Its place decides.", "Lo decide su lugar.", "Sein Ort entscheidet.", "由位置决定。"),
}  # fmt: skip
"""Reasons by what decided, each in the order of LANGUAGES."""


def number(k: int) -> str:
    return f"#{k}"


def span(low: int, high: int) -> str:
    """A range of band IDs as JSON."""
    return "[" + ",".join(map(str, range(low, high + 1))) + "]"


RELATED = (*SIDES, "aside", "beside", "far")
"""How a thing may lie relative to the reference of a question."""


_DISTANCE_EDGES = tuple(4 * 1.28**k for k in range(DISTANCES - 1))
"""In steps; geometric, as "clearly nearer" means a factor."""


def relation(how: str, away: Place) -> str:
    """The word for one of RELATED and the class of the distance."""
    return f" {how}{bisect.bisect(_DISTANCE_EDGES, math.hypot(*away))}"


def x_word(steps: int) -> str:
    return f" x{steps}"


def y_word(steps: int) -> str:
    return f" y{steps}"


def told_place(place: Place) -> tuple[str, str]:
    """A place, or the offset from one to another, in words."""
    return x_word(place[0]), y_word(place[1])


@cache
def place_words() -> tuple[str, ...]:
    steps = range(-FARTHEST, FARTHEST + 1)
    return (*map(x_word, steps), *map(y_word, steps))


def size(measure: int) -> str:
    return f" size{measure}"


def kind_word(kind: str) -> str:
    return " " + english_name(kind)


@cache
def answer_words() -> tuple[str, ...]:
    """All words that answers are made of, grouped by type: numbers, spans, measures, …"""
    numbers = [number(k) for k in range(1, MOST_THINGS + 1)]
    spans = [span(a, b) for a in range(1, MOST_BANDS + 1) for b in range(a, MOST_BANDS + 1)]
    measures = [size(k) for k in range(CLASSES)]
    relations = [f" {how}{k}" for how in RELATED for k in range(DISTANCES)]
    words = [
        *GLUE, *numbers, *spans, *measures, *relations, " inside", " outside", *FLAGS.values(), ONE, ALL, BUT,
        *RELATIONS.values(), *COUNTED.values(), *SUPERLATIVES.values(), *(f" {o}" for o in ORDINALS), THING, AND,
        NOT, LYING, EDGE, ANCHOR_OF, SO, NONE, *map(kind_word, KINDS), *(f" {c}" for c in COLORS),
        *(f" {p}" for p in PATTERN_NAMES[1:]), *MATERIALS.values(), HANDLE, *NOT_KIND.values(),
        *place_words(), *(text for texts in REASONS.values() for text in texts),
    ]  # fmt: skip
    return tuple(dict.fromkeys(words))


# --- The target, in canonical words -----------------------------------------------------------------------------------


def target_words(query: Query) -> Iterator[str]:
    """What a question asks for, in canonical words."""
    match query:
        case Only(what):
            yield ONE
            yield from described(what)
        case Every(what):
            yield ALL
            yield from described(what)
        case Except(anchor):
            yield BUT
            yield from target_words(anchor)
        case Ordinal(what, side, n):
            yield f" {ORDINALS[n - 1]}"
            yield COUNTED[side]
            yield from described(what)
        case Extreme(what, measure):
            yield SUPERLATIVES[measure]
            yield from described(what)
        case Beside(what, side, anchor):
            yield from described(what)
            yield RELATIONS[side]
            yield from target_words(anchor)
        case NextTo(what, anchor):
            yield from described(what)
            yield RELATIONS["next"]
            yield from target_words(anchor)
        case Between(what, first, second):
            yield from described(what)
            yield RELATIONS["between"]
            yield from target_words(first)
            yield AND
            yield from target_words(second)
        case NearestEdge():
            yield EDGE


def described(what: Description) -> Iterator[str]:
    """Colour, pattern and material, then the kinds that qualify."""
    if what.color:
        yield f" {what.color}"
    if what.not_color:
        yield from (NOT, f" {what.not_color}")
    if what.pattern:
        yield f" {what.pattern}"
    if what.material:
        yield MATERIALS[what.material]
    if what.not_kind:
        yield NOT_KIND[what.not_kind]
    kinds = _known(what)
    if what.hazard == "rolls":
        yield from map(kind_word, (k for k in ROUND.members if not KINDS[k].held_out))
        yield LYING
        kinds = tuple(k for k in ROLLS_LYING.members if not KINDS[k].held_out)
    yield from map(kind_word, kinds) if kinds else (THING,)


def _known(what: Description) -> tuple[str, ...]:
    """The kinds that a description allows; a group leaves out those that training never shows."""
    if what.kind:
        return (what.kind,)
    groups = {"breaks": FRAGILE, "cuts": SHARP}
    group = USES.get(what.use or "") or CATEGORIES.get(what.category or "") or groups.get(what.hazard or "")
    members = group.members if group else ()
    return tuple(k for k in members if not KINDS[k].held_out) or members


# --- The list of things, and what decides -----------------------------------------------------------------------------


def left_to_right(things: Iterable[ObjectView]) -> list[ObjectView]:
    return sorted(things, key=lambda o: (o.box.center[0], o.id))


def places_of(layout: Layout) -> dict[int, Place]:
    """Places of the things in a view, by id."""
    found = Ground.of(layout.view).places([spot(thing) for thing in layout.things])
    return {thing.id: place for thing, place in zip(layout.things, found, strict=True)}


def measure_told(target: Iterable[str]) -> Measure | None:
    """The measure by which things are compared, according to the target's words; None: they are not compared."""
    return next((_MEASURES[word] for word in target if word in _MEASURES), None)


_MEASURES = {
    SUPERLATIVES["largest"]: Measure.VOLUME,
    SUPERLATIVES["smallest"]: Measure.VOLUME,
    SUPERLATIVES["longest"]: Measure.LENGTH,
    SUPERLATIVES["shortest"]: Measure.LENGTH,
    SUPERLATIVES["tallest"]: Measure.HEIGHT,
    EDGE: Measure.EDGE,
}


def _queries(query: Query) -> Iterator[Query]:
    """A question and those that define its references, inner ones last."""
    yield query
    for name in ("anchor", "first", "second"):
        if hasattr(query, name):
            yield from _queries(getattr(query, name))


@dataclass(frozen=True)
class _Told:
    """What the list says about each thing, by id; `sizes` and `places` are empty if the question does not need them."""

    numbers: dict[int, str]
    sizes: dict[int, str]
    places: dict[int, Place]

    @classmethod
    def by_id(cls, query: Query, layout: Layout, order: Sequence[ObjectView]) -> _Told:
        numbers = {o.id: number(k) for k, o in enumerate(order, 1)}
        measure, ground = measure_told(target_words(query)), Ground.of(layout.view)
        sizes = {}
        if measure is not None:
            sizes = {o.id: size(measure_classes(millimetres(layout, o), ground)[measure]) for o in order}
        located = any(isinstance(part, Beside | NextTo | Between) for part in _queries(query))
        return cls(numbers, sizes, places_of(layout) if located else {})


class _Writer:
    """An answer while it is being written."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.parts: list[Part] = []

    def add(self, part: Part, *words: str) -> None:
        self.words += words
        self.parts += [part] * len(words)


def is_passed_on(query: Query) -> bool:
    """Whether a question asks for one thing by its colour, pattern or material, with or without its kind: stage 2
    handles these best. By a kind alone, it finds less than the list of things does."""
    if not isinstance(query, Only):
        return False
    what = query.what
    needs_thought = what.not_color or what.not_kind or what.hazard or len(_known(what)) > 1
    return not needs_thought and bool(what.color or what.pattern or what.material)


def pass_on(query: Only, language: str, grid: RegionGrid) -> Chain:
    """The answer that leaves it to stage 2 to find a thing by its description, or to find that it is absent."""
    what = query.what
    (kind,) = _known(what) or ("",)
    looks_like = [f" {what.color}"] if what.color else []
    if what.color and has_colored_handle(kind, what.color, what.material):
        looks_like.append(HANDLE)
    more = [f" {what.pattern}"] if what.pattern else []
    more += [MATERIALS[what.material]] if what.material else []
    for word in more:
        looks_like += [MORE, word] if looks_like else [word]
    out = _Writer()
    out.add(Part.GLUE, START)
    out.add(Part.TARGET, *target_words(query))
    out.add(Part.GLUE, SCENE, PRESENT)
    out.add(Part.MEANT, number(1))
    out.add(Part.OBJECT, NAME, kind_word(kind) if kind else THING, ATTRIBUTES, *looks_like, ROWS)
    out.add(Part.OBJECT, span(1, grid.rows), COLUMNS, span(1, grid.columns))
    out.add(Part.GLUE, REASON)
    out.add(Part.REASON, reason(query, language))
    out.add(Part.GLUE, END)
    return Chain(tuple(out.words), tuple(out.parts))


def write_chain(query: Query, answer: Answer, layout: Layout, language: str, grid: RegionGrid) -> Chain:
    """The answer to a question about a view; `grid`: the bands that are drawn on its image."""
    if is_passed_on(query):
        return pass_on(query, language, grid)
    order = left_to_right(layout.things)[:MOST_THINGS]
    told = _Told.by_id(query, layout, order)
    numbers = told.numbers
    out = _Writer()
    out.add(Part.GLUE, START)
    out.add(Part.TARGET, *target_words(query))
    out.add(Part.GLUE, SCENE)
    references = {id_: k for k, id_ in enumerate(_references(query, layout), 1)}
    for thing in order:
        rows, columns = grid.bands(thing.box)
        out.add(Part.LIST, numbers[thing.id], span(columns[0], columns[-1]), span(rows[0], rows[-1]), *looks(thing))
        if told.sizes:
            out.add(Part.MEASURE, told.sizes[thing.id])
        if told.places:
            out.add(Part.MEASURE, *told_place(told.places[thing.id]))
        reference = 1 if _is_excluded(query, thing) else references.get(thing.id, 0)
        out.add(Part.FLAG, FLAGS[_is_sought(query, thing), reference])
    _write_work(out, query, layout, told)
    meant = [o.id for o in order if o.id in answer.ids]
    out.add(Part.MEANT, SO, *([numbers[i] for i in meant] or [NONE]))
    if not meant:
        out.add(Part.GLUE, ABSENT)
        return Chain(tuple(out.words), tuple(out.parts))
    out.add(Part.GLUE, PRESENT)
    for index, id_ in enumerate(meant):
        thing = layout.view.object(id_)
        rows, columns = grid.bands(thing.box)
        if index:
            out.add(Part.GLUE, NEXT)
        out.add(Part.OBJECT, numbers[id_], NAME, kind_word(thing.kind), ATTRIBUTES, *_attributes(thing), ROWS)
        out.add(Part.OBJECT, span(rows[0], rows[-1]), COLUMNS, span(columns[0], columns[-1]))
        out.add(Part.GLUE, REASON)
        out.add(Part.REASON, reason(query, language))
    out.add(Part.GLUE, END)
    return Chain(tuple(out.words), tuple(out.parts))


_ANSWER = Part.GLUE, Part.OBJECT, Part.REASON


def without_thought(words: Sequence[str], parts: Sequence[int]) -> tuple[list[str], list[int]]:
    """A chain without its thoughts: only whether something is there, and where."""
    decided = max(words.index(word) for word in (PRESENT, ABSENT) if word in words)
    kept = [k for k, part in enumerate(parts) if part in _ANSWER or k > decided]
    return [words[k] for k in kept], [parts[k] for k in kept]


def looks(thing: ObjectView) -> Iterator[str]:
    """What a thing is called in the list."""
    yield f" {thing.color}"
    if thing.pattern != "plain":
        yield f" {thing.pattern}"
    if is_named_wooden(thing):
        yield MATERIALS["wood"]
    if is_lying(thing):
        yield LYING
    yield kind_word(thing.kind)


def _attributes(thing: ObjectView) -> Iterator[str]:
    """What stage 2 reads besides the name, as `instructions.visible_attributes` puts it."""
    yield f" {thing.color}"
    if has_colored_handle(thing.kind, thing.color, thing.material):
        yield HANDLE
    if thing.pattern != "plain":
        yield MORE
        yield f" {thing.pattern}"
    if is_named_wooden(thing):
        yield MORE
        yield MATERIALS["wood"]


def reason(query: Query, language: str) -> str:
    match query:
        case Ordinal():
            name = "order"
        case Extreme():
            name = "size"
        case Beside() | NextTo() | Between() | NearestEdge():
            name = "place"
        case _:
            name = "fits"
    return REASONS[name][LANGUAGES.index(language)]


def _anchors(query: Query) -> tuple[Query, ...]:
    match query:
        case Except(anchor) | Beside(_, _, anchor) | NextTo(_, anchor):
            return (anchor,)
        case Between(_, first, second):
            return (first, second)
    return ()


def _references(query: Query, layout: Layout) -> list[int]:
    """Ids of the outer question's references that are defined by looks alone, in the question's order."""
    found = []
    for anchor in _anchors(query):
        if isinstance(anchor, Only):
            found += anchor.answer(layout).ids[:1]
    return found


def _is_sought(query: Query, thing: ObjectView) -> bool:
    """Whether a thing is a candidate of the question, or of the comparison that defines its reference."""
    for part in (query, *_anchors(query)):
        what = getattr(part, "what", None)
        if part is not query and isinstance(part, Only):
            continue
        chosen_from = what is not None and (not what.is_any or isinstance(part, Ordinal | Extreme))
        if chosen_from and what.holds(thing) is True:
            return True
    return False


def _is_excluded(query: Query, thing: ObjectView) -> bool:
    """Whether a thing would be a candidate if the words did not exclude it."""
    what = getattr(query, "what", None)
    if what is None or not (what.not_color or what.not_kind):
        return False
    return not what.holds(thing) and replace(what, not_color=None, not_kind=None).holds(thing) is True


def _write_work(out: _Writer, query: Query, layout: Layout, told: _Told) -> None:
    match query:
        case Ordinal():
            _count(out, query, layout, told)
        case Extreme() | NearestEdge():
            _compare(out, query, layout, told)
        case Beside() | NextTo() | Between():
            _relate(out, query, layout, told)


def _compare(out: _Writer, query: Extreme | NearestEdge, layout: Layout, told: _Told) -> None:
    """The measure of the thing that is meant; finding whose it is then is a look-up."""
    out.add(Part.WORK, *(told.sizes[id_] for id_ in query.answer(layout).ids))


def _count(out: _Writer, query: Ordinal, layout: Layout, told: _Told) -> None:
    """The candidates in counting order, up to the one that is meant."""
    counted = Ordinal(query.what, query.side, 99).answer(layout).candidates
    for name, id_ in zip(ORDINALS[: query.n], counted, strict=False):
        out.add(Part.WORK, f" {name}", told.numbers[id_])


def _relate(out: _Writer, query: Beside | NextTo | Between, layout: Layout, told: _Told) -> None:
    """The references, then for each candidate its offset from them and how it therefore lies."""
    anchors: list[ObjectView] = []
    for anchor in _anchors(query):
        if isinstance(anchor, Ordinal):
            _count(out, anchor, layout, told)
        elif isinstance(anchor, Extreme):
            _compare(out, anchor, layout, told)
        ids = anchor.answer(layout).ids
        if not ids:
            out.add(Part.WORK, ANCHOR_OF, NONE)
            return
        out.add(Part.WORK, ANCHOR_OF, told.numbers[ids[0]], *told_place(told.places[ids[0]]))
        anchors.append(layout.view.object(ids[0]))
    for thing in left_to_right(layout.things):
        if thing.id not in told.numbers or thing in anchors:
            continue
        if not query.what.is_any and query.what.holds(thing) is not True:
            continue
        ways = [offset(told.places[thing.id], told.places[anchor.id]) for anchor in anchors]
        for step in itertools.chain.from_iterable(map(told_place, ways)):
            # Repeat the number: each step follows from the thing's place and the reference's
            out.add(Part.WORK, told.numbers[thing.id], step)
        out.add(Part.WORK, _relation(query, thing, anchors, layout, ways[0]))


def _relation(
    query: Beside | NextTo | Between, thing: ObjectView, anchors: list[ObjectView], layout: Layout, way: Place
) -> str:
    if isinstance(query, Between):
        a, b = (layout.place[o.id] for o in anchors)
        along = layout.place[thing.id] - a
        share = float(along @ (b - a)) / float((b - a) @ (b - a))
        aside = float(np.linalg.norm(along - share * (b - a)) / np.linalg.norm(b - a))
        return " inside" if 0.25 <= share <= 0.75 and aside <= 0.2 else " outside"
    if isinstance(query, NextTo):
        gap = max(layout.gap(thing, anchors[0]), layout.seen_gap(thing, anchors[0]))
        return relation("beside" if gap <= NEXT_GAP else "far", way)
    sides = [side for side in SIDES if layout.is_on_side(thing, side, anchors[0])]
    return relation(sides[0] if sides else "aside", way)
