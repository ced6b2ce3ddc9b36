"""Instructions about a view: questions that it answers for certain, put into words, with their chains of thought."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop.descriptions import (
    ANYTHING,
    HAZARDS,
    TELLING_COLORS,
    Description,
    has_colored_handle,
    is_named_wooden,
)
from rsvp_ros.tabletop.instruction import LANGUAGES, Instruction, InstructionKind
from rsvp_ros.tabletop.kinds import CATEGORIES, KINDS, THIN, USES, is_held_out_pair
from rsvp_ros.tabletop.language import GRAMMARS, Grammar
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
from rsvp_ros.tabletop.view import ObjectView, View

ABSENT_SHARE = 0.2
"""Share of the instructions that refer to nothing in the view."""
MAX_TRIES = 80
"""Number of questions of one kind that are tried before another kind is taken."""
STANDING = ("bottle", "can", "candle", "box")
"""Kinds that people compare by how tall they are."""
SIDES = ("left", "right", "front", "behind")


def sample_instructions(
    view: View,
    rng: np.random.Generator,
    count: int = 8,
    languages: Sequence[str] = LANGUAGES,
    *,
    is_training: bool,
    kinds: Sequence[InstructionKind] | None = None,
    wider: float = 0.0,
) -> list[Instruction]:
    """Different instructions about a view, balanced over the kinds and the languages as far as the view allows.

    Args:
        rng: decides everything; the same state gives the same instructions.
        count: how many; fewer come back if the view answers fewer for certain.
        languages: some of LANGUAGES.
        is_training: use only the training split's words, kinds and colours of kinds.
        kinds: which kinds of instruction; None: all.
        wider: share of the questions of WIDER_KINDS that are of forms which the other questions leave out. With 0, the
            same state always gives the instructions that earlier versions gave, so that their figures can be compared.

    Raises ConfigurationError for an unknown language, and, with `is_training`, if the view shows what the training
    split must not show.
    """
    layout = Layout(view)
    asked = sample_questions(layout, rng, count, languages, is_training=is_training, kinds=kinds, wider=wider)
    return [phrase(q.query, q.answer, layout, q.kind, q.language, rng, is_training=is_training) for q in asked]


@dataclass(frozen=True)
class Question:
    """What an instruction asks, before it is put into words."""

    query: Query
    answer: Answer
    kind: InstructionKind
    language: str
    """The language in which to say it."""


def sample_questions(
    layout: Layout,
    rng: np.random.Generator,
    count: int,
    languages: Sequence[str],
    *,
    is_training: bool,
    kinds: Sequence[InstructionKind] | None = None,
    wider: float = 0.0,
) -> Iterator[Question]:
    """What `sample_instructions` puts into words, one after the other. Raises ConfigurationError like it."""
    for language in languages:
        if language not in GRAMMARS:
            raise ConfigurationError(f"no language {language!r}: choose among {', '.join(GRAMMARS)}")
    if is_training:
        for thing in layout.things:
            if KINDS[thing.kind].held_out or is_held_out_pair(thing.kind, thing.color):
                raise ConfigurationError(
                    f"the view shows a {thing.color} {thing.kind}, which the training split never does: "
                    "sample its instructions with is_training=False"
                )
    kinds = tuple(InstructionKind) if kinds is None else tuple(kinds)
    asked: set[Query] = set()
    exhausted: set[tuple[InstructionKind, bool]] = set()
    used_kinds: Counter[InstructionKind] = Counter()
    used_languages: Counter[str] = Counter()
    answered: dict[InstructionKind, bool] = {}

    def has_answer(kind: InstructionKind, language: str) -> bool:
        """Whether the view answers any question of a kind. Only such kinds may ask for absent things: otherwise a
        kind that is rarely answered would mostly be asked in vain, and so give the answer away.
        """
        if kind not in answered:
            grammar = GRAMMARS[language]
            answered[kind] = _find(layout, kind, False, set(), grammar, rng, is_training) is not None
        return answered[kind]

    def another(absent: bool) -> Question | None:
        """One more question, of the kind and in the language that were used least."""
        for kind in _least_used(kinds, used_kinds, rng):
            if (kind, absent) in exhausted:
                continue
            language = _least_used(languages, used_languages, rng)[0]
            found = None
            if not absent or has_answer(kind, language):
                found = _find(layout, kind, absent, asked, GRAMMARS[language], rng, is_training, wider)
            if found is None:
                exhausted.add((kind, absent))
                continue
            query, answer = found
            asked.add(query)
            used_kinds[kind] += 1
            used_languages[language] += 1
            return Question(query, answer, kind, language)
        return None

    for _ in range(count):
        question = (another(True) if rng.random() < ABSENT_SHARE else None) or another(False)
        if question is None:
            return
        yield question


def phrase(
    query: Query,
    answer: Answer,
    layout: Layout,
    kind: InstructionKind,
    language: str,
    rng: np.random.Generator | None,
    *,
    is_training: bool,
) -> Instruction:
    """Put a question into words; without `rng`, into each language's first ones. `answer` must be certain."""
    if not answer.certain:
        raise ValueError(f"nobody can tell what is meant: {answer.doubt}")
    grammar = GRAMMARS[language](rng, is_training, len(answer.ids))
    text = grammar.say(query)
    plain = GRAMMARS[language](None, is_training, len(answer.ids))
    targets = [layout.view.object(i) for i in answer.ids]
    shown = targets + [layout.view.object(i) for i in answer.anchors]
    novel = novelties(query, shown) + (("words",) if grammar.novel else ())
    if targets:
        names = tuple(english_name(o.kind) for o in targets)
        attributes = tuple(visible_attributes(o) for o in targets)
    else:
        name, told = sought(query)
        names, attributes = (name,), (told,)
    chain = plain.chain(query, layout, answer)
    return Instruction(text, language, kind, answer.ids, names, attributes, chain, novel)


def english_name(kind: str) -> str:
    """A kind's noun as stage 2 reads it."""
    return GRAMMARS["en"](None, True).noun(kind)


def visible_attributes(thing: ObjectView) -> tuple[str, ...]:
    """What tells a thing from others, in English: its colour, its pattern, being wooden."""
    pattern = None if thing.pattern == "plain" else thing.pattern
    material = "wood" if is_named_wooden(thing) else None
    return _attributes(has_colored_handle(thing.kind, thing.color, thing.material), thing.color, pattern, material)


def _attributes(handle: bool, color: str | None, pattern: str | None, material: str | None) -> tuple[str, ...]:
    """`handle`: whether the colour is that of a handle."""
    said = []
    if color:
        said.append(f"{color} handle" if handle else color)
    if pattern:
        said.append(pattern)
    if material:
        said.append("wooden" if material == "wood" else material)
    return tuple(said)


def sought(query: Query) -> tuple[str, tuple[str, ...]]:
    """English name and attributes of what a question asks for when it is absent."""
    if not isinstance(query, Only | Every | Ordinal | Extreme | Beside | NextTo | Between):
        return "object", ()
    what = query.what
    kind = what.kind or next((k for k in (USES[what.use].members if what.use else ()) if k != what.not_kind), None)
    if kind:
        handle = has_colored_handle(kind, what.color or "", what.material)
        return english_name(kind), _attributes(handle, what.color, what.pattern, what.material)
    name = {"rolls": "ball", "breaks": "mug", "cuts": "knife"}.get(what.hazard or "", what.category or "object")
    return name, _attributes(False, what.color, what.pattern, what.material)


def descriptions(query: Query) -> Iterator[Description]:
    """All descriptions in a question."""
    for field in fields(query):
        value = getattr(query, field.name)
        if isinstance(value, Description):
            yield value
        elif isinstance(value, Query):
            yield from descriptions(value)


def novelties(query: Query, shown: Sequence[ObjectView]) -> tuple[str, ...]:
    """Which of "kind" and "pair", in what is said or meant, is new: the training split never has it."""
    said = list(descriptions(query))
    kinds = {o.kind for o in shown} | {d.kind for d in said if d.kind} | {d.not_kind for d in said if d.not_kind}
    groups = [USES[d.use].members for d in said if d.use]
    pairs = {(o.kind, o.color) for o in shown} | {(d.kind, d.color) for d in said if d.kind and d.color}
    novel = []
    if any(KINDS[kind].held_out for kind in kinds) or any(all(KINDS[k].held_out for k in group) for group in groups):
        novel.append("kind")
    if any(is_held_out_pair(kind, color) for kind, color in pairs):
        novel.append("pair")
    return tuple(novel)


def _least_used(options: Sequence, used: Counter, rng: np.random.Generator) -> list:
    return sorted((options[i] for i in rng.permutation(len(options))), key=lambda option: used[option])


def _find(
    layout: Layout,
    kind: InstructionKind,
    absent: bool,
    asked: set[Query],
    grammar: type[Grammar],
    rng: np.random.Generator,
    is_training: bool,
    wider: float = 0.0,
) -> tuple[Query, Answer] | None:
    """A question that was not asked yet and has a certain answer; None if MAX_TRIES tries find none."""
    tried = 0
    worth = _QUESTIONS[kind](layout, absent, rng)
    if wider and kind in _WIDER and rng.random() < wider:
        worth = itertools.chain(_mixed(_WIDER[kind](layout, absent), rng), worth)
    for query in worth:
        if query in asked or not grammar.knows(query):
            continue
        tried += 1
        if tried > MAX_TRIES:
            return None
        answer = query.answer(layout)
        if not answer.certain or bool(answer.ids) == absent or not _is_sensible(query, answer, layout):
            continue
        shown = [layout.view.object(i) for i in answer.ids + answer.anchors]
        if not (is_training and novelties(query, shown)):
            return query, answer
    return None


def _is_sensible(query: Query, answer: Answer, layout: Layout) -> bool:
    """Whether people would say it that way: a plural for several things, no long lists, no mug beside the only mug."""
    if isinstance(query, Every | Except) and answer.ids:
        return 2 <= len(answer.ids) <= (4 if isinstance(query, Except) else 6)
    if isinstance(query, Beside | NextTo) and not query.what.is_any and answer.anchors and not answer.ids:
        anchor = layout.view.object(answer.anchors[0])
        is_the_anchor = query.what.holds(anchor) is not False
        return not is_the_anchor or any(query.what.holds(o) for o in layout.things if o is not anchor)
    return True


# Questions worth asking, in random order, one function per kind of instruction; with `absent`, those that may well have
# no answer. What a question means in the view decides whether it is taken.


def _shuffled(options: Sequence, rng: np.random.Generator) -> list:
    return [options[i] for i in rng.permutation(len(options))]


def _mixed(groups: Sequence[Sequence[Query]], rng: np.random.Generator) -> Iterator[Query]:
    """All questions of some groups, each taken from a group drawn at random: long groups do not crowd out others."""
    rows = [_shuffled(group, rng) for group in groups if group]
    while rows:
        row = rows[int(rng.integers(len(rows)))]
        yield row.pop()
        rows = [row for row in rows if row]


def _present_kinds(layout: Layout) -> list[str]:
    return sorted({o.kind for o in layout.things})


def _missing_kinds(layout: Layout) -> list[str]:
    there = {o.kind for o in layout.things}
    return [kind for kind in KINDS if kind not in there]


def _names(layout: Layout, absent: bool) -> tuple[list[Description], list[Description]]:
    """Plain ways to name one thing: by kind, and by colour and kind. `absent`: other kinds, and colours swapped."""
    present = _present_kinds(layout)
    if absent:
        colors = sorted({o.color for o in layout.things})
        swapped = [Description(kind=k, color=c) for k in present for c in colors if c in KINDS[k].colors]
        return [Description(kind=k) for k in _missing_kinds(layout)], swapped
    pairs = sorted({(o.kind, o.color) for o in layout.things if len(KINDS[o.kind].colors) > 1})
    return [Description(kind=k) for k in present], [Description(kind=k, color=c) for k, c in pairs]


def _anchors(layout: Layout) -> list[Query]:
    """Ways to name each thing that can be named: by its kind alone, and by its colour and kind."""
    kinds, pairs = _names(layout, False)
    by_kind = [Only(d) for d in kinds]
    named = {q.what.kind for q in by_kind if q.answer(layout).ids}
    by_color = [Only(d) for d in pairs]
    # A kind with only one thing is mostly named without its colour
    return [q for q in by_kind if q.what.kind in named] + [q for q in by_color if q.answer(layout).ids]


def _attribute(layout: Layout, absent: bool, rng: np.random.Generator) -> Iterator[Query]:
    kinds, pairs = _names(layout, absent)
    things = layout.things
    colors = sorted({o.color for o in things})
    patterned = sorted({(o.kind, o.pattern) for o in things if o.pattern != "plain"})
    if absent:
        patterns = sorted({o.pattern for o in things} - {"plain"})
        patterned = [(k, p) for k in _present_kinds(layout) for p in patterns if p in KINDS[k].patterns]
    made = [(o.kind, o.material) for o in things if len(KINDS[o.kind].materials) > 1]
    if absent:
        made = [(k, m) for k, _ in made for m in KINDS[k].materials]
    telling = [c for c in TELLING_COLORS if absent or c in colors]
    return _mixed(
        (
            [Only(d) for d in kinds],
            [Only(d) for d in pairs],
            [Only(d) for d in pairs],
            [Only(Description(kind=k, pattern=p)) for k, p in patterned],
            [Only(Description(kind=k, material=m)) for k, m in sorted(set(made))],
            [Only(Description(color=c)) for c in telling],
            [Only(Description(category=c)) for c in CATEGORIES],
            [Only(d) for c in CATEGORIES for color in colors if (d := _colored(c, color))],
        ),
        rng,
    )


def _colored(category: str, color: str) -> Description | None:
    """Things of a category in a colour that one of its kinds can have: nobody looks for blue fruit."""
    possible = any(color in KINDS[kind].colors for kind in CATEGORIES[category].members)
    return Description(category=category, color=color) if possible else None


def _use(layout: Layout, absent: bool, rng: np.random.Generator) -> Iterator[Query]:
    return _mixed(([Only(Description(use=use)) for use in USES],), rng)


def _relation(layout: Layout, absent: bool, rng: np.random.Generator) -> Iterator[Query]:
    anchors: list[Query] = _anchors(layout)
    present = _present_kinds(layout)
    wanted = [Description(kind=k) for k in present]
    groups = [
        [Beside(ANYTHING, side, a) for side in SIDES for a in anchors],
        [Beside(d, side, a) for d in wanted for side in SIDES for a in anchors],
        [NextTo(ANYTHING, a) for a in anchors] * (not absent),
        [NextTo(d, a) for d in wanted for a in anchors],
        [Between(ANYTHING, a, b) for i, a in enumerate(anchors) for b in anchors[i + 1 :]],
    ]
    if absent:
        kinds, pairs = _names(layout, True)
        gone = [Only(d) for d in (*kinds, *pairs)]
        groups += [
            [Beside(ANYTHING, side, a) for side in SIDES for a in gone],
            [NextTo(ANYTHING, a) for a in gone],
        ]
    return _mixed(groups, rng)


def _counted(layout: Layout, least: int) -> list[Description]:
    """Descriptions that at least `least` things fit, and that are worth counting or comparing."""
    options = [Description(kind=k) for k in _present_kinds(layout)] + [Description(category=c) for c in CATEGORIES]
    return [ANYTHING] * (len(layout.things) >= max(least, 3)) + [
        d for d in options if sum(d.holds(o) is True for o in layout.things) >= least
    ]


def _ordinals(layout: Layout, what: Description, absent: bool) -> list[list[Query]]:
    """The places in the orders of what fits; `absent`: the first that there is not."""
    there = sum(what.holds(o) is True for o in layout.things)
    counts = [there + 1] if absent else list(range(1, min(there, 5) + 1))
    return [
        [Ordinal(what, side, n) for side in ("left", "right") for n in counts if n <= 6],
        [Ordinal(what, "front", n) for n in counts if n <= 3],
    ]


def _ordinal(layout: Layout, absent: bool, rng: np.random.Generator) -> Iterator[Query]:
    groups = []
    for what in _counted(layout, 2):
        groups += _ordinals(layout, what, absent)
    if absent:
        groups.append([Ordinal(d, side, 2) for d in _names(layout, True)[0] for side in ("left", "right")])
    return _mixed(groups, rng)


def _measures(what: Description) -> tuple[str, ...]:
    """How such things are compared: long things by length, standing things by height."""
    if what.kind in THIN:
        return "largest", "smallest", "longest", "shortest"
    if what.is_any:
        return "largest", "smallest", "longest", "tallest"
    if what.category in ("tool", "cutlery"):
        return "largest", "smallest", "longest"
    return ("largest", "smallest", "tallest") if what.kind in STANDING else ("largest", "smallest")


def _size(layout: Layout, absent: bool, rng: np.random.Generator) -> Iterator[Query]:
    if absent:
        return _mixed(([Extreme(d, m) for d in _names(layout, True)[0] for m in _measures(d)],), rng)
    return _mixed([[Extreme(d, m) for m in _measures(d)] for d in _counted(layout, 2)], rng)


def _negation(layout: Layout, absent: bool, rng: np.random.Generator) -> Iterator[Query]:
    present = _present_kinds(layout)
    colors = sorted({o.color for o in layout.things})

    def without(what: Description) -> list[Query]:
        """Questions that exclude something that is there: a colour or kind of what fits without the exception."""
        fitting = [o for o in layout.things if what.holds(o)]
        excluded: list[Query] = [
            Only(replace(what, not_color=c))
            for c in colors
            if any(o.color == c and len(KINDS[o.kind].colors) > 1 for o in fitting)
        ]
        several = USES[what.use].members[1:] if what.use else not what.kind
        if several:
            excluded += [Only(replace(what, not_kind=k)) for k in present if any(o.kind == k for o in fitting)]
        return excluded

    return _mixed(
        [
            [q for k in present for q in without(Description(kind=k))],
            [q for c in CATEGORIES for q in without(Description(category=c))],
            [q for u in USES for q in without(Description(use=u))],
        ],
        rng,
    )


def _all(layout: Layout, absent: bool, rng: np.random.Generator) -> Iterator[Query]:
    kinds, pairs = _names(layout, absent)
    groups: list[list[Query]] = [
        [Every(d) for d in kinds],
        [Every(d) for d in pairs],
        [Every(Description(category=c)) for c in CATEGORIES] * 2,
        [Every(Description(color=c)) for c in TELLING_COLORS],
    ]
    if not absent and len(layout.things) <= 5:
        groups.append([Except(a) for a in _anchors(layout)])
    return _mixed(groups, rng)


def _answered(anchors: Sequence[Query], layout: Layout, absent: bool) -> list[Query]:
    """Those that single out one thing; `absent`: or certainly none."""
    found = [(a, a.answer(layout)) for a in anchors]
    return [a for a, answer in found if answer.certain and (absent or answer.ids)]


def _named_or_sorted(layout: Layout, absent: bool) -> list[Only]:
    """What is singled out by its name or by its category."""
    names = [*_anchors(layout), *(Only(Description(category=c)) for c in CATEGORIES)]
    return _answered(names, layout, absent)


def _two_step(layout: Layout, absent: bool, rng: np.random.Generator) -> Iterator[Query]:
    uses = [Only(Description(use=u)) for u in USES]
    counted = _counted(layout, 2)
    sizes = [Extreme(d, m) for d in counted for m in _measures(d)]
    ordinals = [Ordinal(d, side, n) for d in counted for side in ("left", "right") for n in (1, 2)]
    near = _named_or_sorted(layout, absent)
    sorts = [q for q in near if q.what.category]

    groups: list[list[Query]] = []
    for anchors in (*(_answered(anchors, layout, absent) for anchors in (uses, sizes, ordinals)), sorts):
        groups.append([NextTo(ANYTHING, a) for a in anchors])
        groups.append([Beside(ANYTHING, side, a) for side in SIDES for a in anchors])
    there = [u for u in USES if any(USES[u].holds(o.kind) for o in layout.things)]
    groups.append([NextTo(Description(use=u), a) for u in there for a in near])
    groups.append([Beside(Description(use=u), side, a) for u in there for side in SIDES for a in near])
    return _mixed(groups, rng)


def _hazard(layout: Layout, absent: bool, rng: np.random.Generator) -> Iterator[Query]:
    groups: list[list[Query]] = [[Only(Description(hazard=h)), Every(Description(hazard=h))] for h in HAZARDS]
    return _mixed([*groups, [NearestEdge()]], rng)


_QUESTIONS: dict[InstructionKind, Callable[[Layout, bool, np.random.Generator], Iterator[Query]]] = {
    InstructionKind.ATTRIBUTE: _attribute,
    InstructionKind.USE: _use,
    InstructionKind.RELATION: _relation,
    InstructionKind.ORDINAL: _ordinal,
    InstructionKind.SIZE: _size,
    InstructionKind.NEGATION: _negation,
    InstructionKind.ALL: _all,
    InstructionKind.TWO_STEP: _two_step,
    InstructionKind.HAZARD: _hazard,
}


# Forms that the questions above leave out, in groups of which `_mixed` takes: a colour on what a place, an order or a
# size singles out, and something beside a thing where nothing of its kind is there at all.


def _colored_kinds(layout: Layout, least: int) -> list[Description]:
    """Colours with and without a kind that at least `least` things have."""
    colors = [Description(color=c) for c in TELLING_COLORS]
    options = colors + _names(layout, False)[1]
    return [d for d in options if sum(d.holds(o) is True for o in layout.things) >= least]


def _wider_relation(layout: Layout, absent: bool) -> list[list[Query]]:
    anchors: list[Query] = _anchors(layout)
    kinds, pairs = _names(layout, absent)
    groups: list[list[Query]] = []
    for wanted in (kinds, pairs) if absent else (pairs,):
        groups.append([Beside(d, side, a) for d in wanted for side in SIDES for a in anchors])
        groups.append([NextTo(d, a) for d in wanted for a in anchors])
    if absent:
        gone = [Only(d) for d in (*kinds, *pairs)]
        groups.append([Between(ANYTHING, a, b) for a in anchors for b in gone])
        groups.append([Between(ANYTHING, b, a) for a in anchors for b in gone])
    return groups


def _wider_ordinal(layout: Layout, absent: bool) -> list[list[Query]]:
    return [group for what in _colored_kinds(layout, 2) for group in _ordinals(layout, what, absent)]


def _wider_size(layout: Layout, absent: bool) -> list[list[Query]]:
    named = _names(layout, True)[1] if absent else _colored_kinds(layout, 2)
    return [[Extreme(d, m) for m in _measures(d)] for d in named]


def _wider_two_step(layout: Layout, absent: bool) -> list[list[Query]]:
    """Colours; or, `absent`, a use that nothing there has."""
    named = _named_or_sorted(layout, absent)
    counted = _colored_kinds(layout, 2)
    singled_out: list[Query] = [Extreme(d, m) for d in counted for m in _measures(d)]
    singled_out += [Ordinal(d, side, n) for d in counted for side in ("left", "right") for n in (1, 2)]
    by_place = _answered(singled_out, layout, absent)
    groups: list[list[Query]] = [
        [NextTo(ANYTHING, a) for a in by_place],
        [Beside(ANYTHING, side, a) for side in SIDES for a in by_place],
    ]
    if absent:
        missing = [u for u in USES if not any(USES[u].holds(o.kind) for o in layout.things)]
        groups.append([NextTo(Description(use=u), a) for u in missing for a in named])
        groups.append([Beside(Description(use=u), side, a) for u in missing for side in SIDES for a in named])
    return groups


_WIDER: dict[InstructionKind, Callable[[Layout, bool], list[list[Query]]]] = {
    InstructionKind.RELATION: _wider_relation,
    InstructionKind.ORDINAL: _wider_ordinal,
    InstructionKind.SIZE: _wider_size,
    InstructionKind.TWO_STEP: _wider_two_step,
}
WIDER_KINDS = tuple(_WIDER)
"""Kinds of instructions that have such forms."""
